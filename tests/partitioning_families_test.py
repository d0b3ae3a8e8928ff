"""Every family in parts, by the mesh files: one step as on one device."""

import functools

import gin
import jax
import numpy as np
import optax
import pytest

from t5x_lite import metrics, objectives, optimizers, partitioning, trainer
from tests import model_files, tiny

# Vocabularies, widths and heads that the meshes divide.
MACROS = ("DTYPE = 'float32'", "DROPOUT = 0.0", "VOCAB_SIZE = 256")
FAMILIES = {
  "bart": objectives.Seq2Seq(start=2),
  "bert": objectives.MaskedLM(next_sentence=True),
  "gated_retnet": objectives.CausalLM(),
  "gpt2": objectives.CausalLM(),
  "llama3": objectives.PrefixLM(bidirectional=False),
  "palm": objectives.PrefixLM(),
  "mamba": objectives.CausalLM(),
  "mamba2": objectives.CausalLM(),
  "hybrid": objectives.CausalLM(),
  "s4": objectives.CausalLM(),
  "t5_1_1": objectives.Seq2Seq(),
  "t5_linear": objectives.Seq2Seq(),
}
# To compile, or made of parts of families that are always tried.
SLOW = ("gated_retnet", "hybrid", "s4", "t5_1_1", "t5_linear")
MESHES = ("fsdp", "tensor", "two_d")
ROWS, LENGTH = 8, 24


def made(family):
  """The tiny model with random numbers, on the host."""
  model_files.parse(f"{family}/tiny", bindings=MACROS)
  model = gin.query_parameter("MODEL/macro.value").scoped_configurable_fn
  filled = jax.device_get(tiny.fill(model))
  gin.clear_config(clear_constants=True)
  return filled


def partitioner(mesh):
  """Of the shipped file, on eight devices."""
  gin.clear_config(clear_constants=True)
  gin.add_config_file_search_path(str(model_files.GIN))
  gin.parse_config_file(f"meshes/{mesh}.gin")
  if mesh == "tensor":
    gin.parse_config("DATA_PARALLEL = 4")
  build = gin.query_parameter("PARTITIONER/macro.value").scoped_configurable_fn
  found = build()
  gin.clear_config(clear_constants=True)
  return found


def features(objective):
  """Random task features: two examples a row, and some padding."""
  rng = np.random.default_rng(0)
  segments = np.repeat([[1, 2, 0]], ROWS, 0).repeat([10, 11, 3], 1)
  positions = np.concatenate([np.arange(n) for n in (10, 11, 3)])
  batch = {}
  for name in objective.features:
    highest = {"token_types": 2, "labels": 3}.get(name, 256)
    batch[name] = rng.integers(1, highest, (ROWS, LENGTH)) * (segments != 0)
    if name == "labels":
      batch[name] *= positions == 0
    batch[f"{name}_segment_ids"] = segments
    batch[f"{name}_positions"] = positions * (segments != 0)
  return {name: np.int32(value) for name, value in batch.items()}


def step(model, objective, mesh):
  """Loss, gradients' norm and the parameters after a step."""
  transform = optax.sgd(0.5)
  run = trainer.Trainer(
    lambda rngs: model,
    objective,
    optimizers.from_optax(transform, 0.5),
    mesh,
  )
  run.check()
  state = jax.device_put(
    type(run.abstract).create(model, transform), run.shardings
  )
  state, values = run.step(state, run.put(features(objective)))
  return metrics.values(values), state.model


@functools.cache
def on_one_device(family):
  model = made(family)
  single = partitioning.Partitioner({"data": 1}, {}, num_devices=1)
  values, after = step(model, FAMILIES[family], single)
  return model, values, tiny.leaves(after)


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize(
  "family",
  [pytest.param(f, marks=[pytest.mark.slow] * (f in SLOW)) for f in FAMILIES],
)
def test_a_step_in_parts(family, mesh):
  model, expected, before = on_one_device(family)
  values, after = step(model, FAMILIES[family], partitioner(mesh))
  assert values == pytest.approx(expected, rel=1e-4, abs=1e-5)
  assert values["gradient_norm"] > 1e-3
  found = tiny.leaves(after)
  for name, array in before.items():
    np.testing.assert_allclose(found[name], array, atol=2e-4, err_msg=name)
  parts = [x.addressable_shards[0].data.size for x in jax.tree.leaves(after)]
  whole = [x.size for x in jax.tree.leaves(after)]
  assert sum(parts) < 0.75 * sum(whole)
