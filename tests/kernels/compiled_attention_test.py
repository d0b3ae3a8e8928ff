"""Attention compiled for TPUs that are absent, within its budgets.

A kernel that meets one block of keys alone has the code that moves the maximum;
one that meets several has the code that trusts it, too: what a step takes is
their difference, times the turns of the loop over a block's queries.
"""

import jax
import jax.numpy as jnp
import pytest

import pallas_kernels
from benchmarks.kernel_targets import jax_flash
from pallas_kernels.attention import tpu
from pallas_kernels.attention.dropout import Dropout
from pallas_kernels.attention.masks import Mask
from pallas_kernels.attention.tiles import Window
from tests.kernels import compiled

pytestmark = pytest.mark.compiled
LENGTH = 2048
# Queries of a turn.
TURN = 512
# Bundles beside those of jax's kernel, by the width of heads: of a block with
# the maximum moved, and of one that trusts it.
MOVING, TRUSTING = 1.1, {64: 0.75, 128: 0.9}
CHIPS = ("v5e", "v5p", "v6e", "v7x")
NOTHING = {
  "bias": None,
  "relative_bias": None,
  "dropout": None,
  "scale": 0.125,
  "soft_cap": None,
}


def shape(*sizes, dtype=jnp.bfloat16):
  return jax.ShapeDtypeStruct(sizes, dtype)


def ours(width, block, k_length=LENGTH, biased=False):
  def attend(q, k, v, table):
    how = dict(NOTHING)
    if biased:
      how["relative_bias"] = pallas_kernels.RelativeBias(table)
    sizes = tpu.Blocks(block, block, TURN, 256)
    return tpu.attention(q, k, v, mask=Mask(), **how, blocks=sizes)

  table = shape(32, 8, dtype=jnp.float32)
  k = shape(2, k_length, 8, width)
  return attend, [shape(2, LENGTH, 8, width), k, k, table]


def features(number, dtype):
  """Calls that together have all that attention can do."""
  rows, t, heads, width = 2, 1000, 6, (40, 64, 256)[number]
  q = shape(rows, t, heads, width, dtype=dtype)
  k = shape(rows, t, (2, 3, 6)[number], width, dtype=dtype)
  v = shape(rows, t, (2, 3, 6)[number], (128, 72, 64)[number], dtype=dtype)
  ids = shape(rows, t, dtype=jnp.int32)
  table = shape(32, heads, dtype=jnp.float32)
  bias = shape(1, heads, t, t, dtype=dtype)

  def attend(q, k, v, ids, table, bias):
    how = dict(NOTHING)
    if number == 0:
      mask = Mask(causal=True, q_segments=ids, k_segments=ids)
      how["relative_bias"] = pallas_kernels.RelativeBias(table, False)
      how["dropout"] = Dropout(jnp.arange(2, dtype=jnp.uint32), 0.1)
    elif number == 1:
      mask = Mask(causal=True, k_prefix=ids == 1, window=Window(300, None))
      how |= {"bias": bias, "soft_cap": 30.0}
    else:
      union = pallas_kernels.Pattern(
        (50, 50), 2, pallas_kernels.bigbird(t).blocks, 64
      )
      mask = Mask(pattern=union)
      how["bias"] = bias[:, :1, :1]
    return tpu.attention(q, k, v, mask=mask, **how)

  return attend, [q, k, v, ids, table, bias]


def kernel(chip, *target, **arguments):
  return compiled.report(chip, *target, **arguments).tpu_kernel("attention")


@pytest.mark.parametrize("width", [64, 128])
@pytest.mark.parametrize("block", compiled.sample(512, rest=[1024]))
@pytest.mark.parametrize("chip", CHIPS)
def test_takes_no_more_bundles_than_jax(chip, block, width):
  arguments = {"width": width, "block": block}
  theirs = kernel(chip, jax_flash, **arguments)
  both = kernel(chip, ours, **arguments)
  first = kernel(chip, ours, **arguments, k_length=block)
  turns = block // TURN
  trusting = both.bundles - first.bundles
  assert first.bundles * turns <= MOVING * theirs.bundles
  assert trusting * turns <= TRUSTING[width] * theirs.bundles
  spills = both.spill_stores - first.spill_stores
  assert spills * turns <= 0.7 * theirs.spill_stores


@pytest.mark.parametrize("chip", CHIPS)
def test_a_relative_bias_costs_little(chip):
  """Blocks that are near and blocks that are far have a code each."""
  arguments = {"width": 64, "block": 512, "k_length": 512}
  plain = kernel(chip, ours, **arguments)
  biased = kernel(chip, ours, **arguments, biased=True)
  assert biased.bundles <= 2 * 1.16 * plain.bundles


@pytest.mark.parametrize("dtype", compiled.sample("bfloat16", rest=["float32"]))
@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("chip", ("v4", *CHIPS))
def test_all_features_compile(chip, number, dtype):
  assert kernel(chip, features, number=number, dtype=dtype).bundles > 0
