"""Directories of a decoder of transformers, converted there and back."""

import dataclasses

import gin
import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers

from t5x_lite import checkpoints, compat, main
from t5x_lite.checkpoints import streams
from tests.parity import decoders


def check(pair, folder, **kwargs):
  """What they save is imported, and what we export they load, as commands do.

  Args:
    pair: of models.
    folder: to write to.
    **kwargs: of `decoders.check_logits`.
  """
  theirs, ours, back = (folder / name for name in ("theirs", "ours", "back"))
  pair.theirs.save_pretrained(theirs)
  convert(ours, theirs)
  model = restore(ours)
  decoders.assert_equal(model, pair.ours)
  decoders.check_logits(dataclasses.replace(pair, ours=model), **kwargs)

  convert(back, ours, TO="huggingface")
  loaded, report = transformers.AutoModelForCausalLM.from_pretrained(
    back, output_loading_info=True, dtype=torch.float32
  )
  assert type(loaded) is type(pair.theirs)
  assert not any(report.values())
  tokens, mask = decoders.padded(
    decoders.rows(pair, decoders.LENGTHS), left=False
  )
  np.testing.assert_array_equal(
    decoders.their_logits(loaded, tokens, mask),
    decoders.their_logits(pair.theirs, tokens, mask),
  )


def convert(workdir, source, **macros):
  """Runs the command."""
  argv = [
    "convert",
    f"--workdir={workdir}",
    "--gin_file=runs/convert.gin",
    *(f"--gin.{k}={v}" for k, v in ({"SOURCE": source} | macros).items()),
  ]
  try:
    assert main.main(argv) == 0
  finally:
    gin.clear_config(clear_constants=True)


def restore(workdir):
  """The converted model, wired as its model.gin says."""
  model = decoders.build((workdir / "model.gin").read_text())
  arrays = streams.stored(checkpoints.resolve(str(workdir)))

  def fill(path, variable):
    name = "/".join(key.name for key in path)
    return variable.replace(jnp.asarray(arrays.pop(name).read()))

  filled = jax.tree_util.tree_map_with_path(
    fill, model, is_leaf=compat.is_variable
  )
  assert not arrays
  return filled
