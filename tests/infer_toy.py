"""A run directory and files to predict for, made in a moment."""

import json
import pathlib

import jax
import numpy as np

from t5x_lite import (
  checkpoints,
  chunks,
  decoding,
  infer,
  objectives,
  partitioning,
  sources,
  train_state,
  vocabularies,
)
from tests import tiny

BYTES = vocabularies.Bytes()
MODEL = tiny.t5(vocab=384)
LENGTH = 24
LINES = [f"line {i}: {'abcdefgh'[i % 8] * (i % 11)}" for i in range(23)]


def run(workdir: pathlib.Path) -> pathlib.Path:
  """Fills a run directory with checkpoints of two steps."""
  with checkpoints.Checkpointer(every=1).open(workdir) as session:
    for step in (1, 2):
      model = tiny.fill(MODEL, seed=step)
      kernel = model.head.kernel[...].at[:, 1].multiply(2.0)
      model.head.kernel = model.head.kernel.replace(kernel)
      state = train_state.TrainState(np.int32(step), model, ())
      session.save(step, jax.tree.map(jax.numpy.asarray, state))
  return workdir


def file(path, **kwargs):
  return sources.File(str(path), BYTES, {"inputs": LENGTH}, **kwargs)


def text(tmp_path, lines=LINES, name="in.txt"):
  path = tmp_path / name
  path.write_text("".join(f"{line}\n" for line in lines))
  return path


def predict(run, source, output=None, *, chunk_size=4, batch_size=4, **kwargs):
  shards = {k: kwargs.pop(k) for k in ("shard", "num_shards") if k in kwargs}
  path = None if output is None else str(output)
  return infer.infer(
    workdir=str(run),
    model=MODEL,
    objective=objectives.Seq2Seq(),
    partitioner=partitioning.Partitioner({"data": -1}, {}),
    source=source,
    batch_size=batch_size,
    output=chunks.Output(path, chunk_size=chunk_size, **shards),
    **({"decoder": decoding.Decoder(6)} | kwargs),
  )


def rows(path):
  return [json.loads(line) for line in path.read_text().splitlines()]
