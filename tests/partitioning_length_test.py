"""Rows cut along their length, by the mesh file: scans pass states on."""

import re

import gin
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests import model_files, tiny

MACROS = ("DTYPE = 'float32'", "VOCAB_SIZE = 256")
ROWS, LENGTH, PARTS = 3, 88, 8


def batch(packed):
  """Packed: examples within one part, over several, and padding."""
  lengths = (5, 50, 24, 9)
  segments = np.repeat([1, 2, 3, 0], lengths)
  positions = np.concatenate([np.arange(n) for n in lengths])
  rng = np.random.default_rng(0)
  one = {
    "decoder_input_tokens": rng.integers(1, 256, (ROWS, LENGTH)),
  }
  if packed:
    one["decoder_segment_ids"] = np.tile(segments, (ROWS, 1))
    positions = positions * (segments != 0)
    one["decoder_positions"] = np.tile(positions, (ROWS, 1))
  return {name: np.int32(x) for name, x in one.items()}


def partitioner():
  """Of the shipped file, on eight devices."""
  gin.clear_config(clear_constants=True)
  gin.add_config_file_search_path(str(model_files.GIN))
  gin.parse_config_file("meshes/sequence.gin")
  build = gin.query_parameter("PARTITIONER/macro.value").scoped_configurable_fn
  found = build()
  gin.clear_config(clear_constants=True)
  return found


def lasting(path, x):
  """Steps of S4 so short that a state lasts over several parts."""
  return x - 4 if "log_dt" in jax.tree_util.keystr(path) else x


SLOW = (("mamba2", True), ("retnet", True), ("s4", True), ("s4", False))


@pytest.mark.parametrize(
  "family, packed",
  [
    ("mamba", True),
    ("s4d", True),
    ("s4d", False),  # by convolution
    *(pytest.param(*one, marks=pytest.mark.slow) for one in SLOW),
  ],
)
def test_parts_of_a_row_give_the_same(family, packed):
  s4 = family in ("s4", "s4d")
  macros = (*MACROS, "STATE_DIM = 6") if s4 else MACROS
  model_files.parse(f"{family}/tiny", bindings=macros)
  build = gin.query_parameter("MODEL/macro.value").scoped_configurable_fn
  graph, params, rest = nnx.split(tiny.fill(build), nnx.Param, ...)
  params = jax.tree_util.tree_map_with_path(lasting, params)
  gin.clear_config(clear_constants=True)

  def loss(params):
    logits = nnx.merge(graph, params, rest)(batch(packed))
    return jnp.mean(jnp.square(logits)), logits

  gradient = jax.value_and_grad(loss, has_aux=True)
  expected = jax.tree.leaves(jax.jit(gradient)(params))
  with partitioner().activate():
    # Another function to jit: what it traced does not know of the mesh.
    compiled = jax.jit(lambda params: gradient(params)).lower(params).compile()
  found = jax.tree.leaves(jax.device_get(compiled(params)))
  for one, other in zip(found, expected, strict=True):
    scale = np.abs(other).max()
    np.testing.assert_allclose(one, other, atol=2e-5 * scale, rtol=0)

  # Whatever has a width is in parts, on each device.
  text = compiled.as_text()
  assert holding(text, LENGTH // PARTS)
  assert not holding(text, LENGTH)
  if s4:
    assert not whole_rows(text)


def holding(text, length):
  """Instructions of compiled HLO that make an array [B length *]."""
  made = re.compile(rf"= \(?f32\[{ROWS},{length},(?!1\])\S+ (?!bitcast)")
  return [line for line in text.splitlines() if made.search(line)]


def whole_rows(text):
  """Numbers of whole rows, in parts or not, in whatever order of axes."""
  found = re.findall(r"= \(?(?:f32|c64)\[([\d,]+)\]", text)
  shapes = {tuple(map(int, shape.split(","))) for shape in found}
  rows = ({ROWS, LENGTH}, {ROWS, PARTS, LENGTH // PARTS})
  return [s for s in shapes if any(row <= set(s) for row in rows)]
