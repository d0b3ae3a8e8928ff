"""The TPU's backward pass of attention, compiled for absent chips.

Bundles of the compiler's final schedule are compared with those of jax's own
flash attention, whose two kernels compute the same gradients.
"""

import jax
import jax.numpy as jnp
import pytest

import pallas_kernels
from pallas_kernels.attention import reference, tpu
from pallas_kernels.attention.dropout import Dropout
from pallas_kernels.attention.masks import Mask
from pallas_kernels.attention.tiles import Window
from pallas_kernels.attention.tpu import tile
from tests.kernels.compiled import report

CHIPS = ("v5e", "v5p", "v6e", "v7x")
LENGTH = 2048
BLOCK = 512
# Bundles beside those of jax's two kernels, by the width of heads.
BUDGET = {64: 0.6, 128: 0.85}
# Of a relative bias and its gradient, beside attention without.
BIAS_BUDGET = 1.2

pytestmark = pytest.mark.compiled


def flash(width):
  """jax's, forward and backward."""
  from jax.experimental.pallas.ops.tpu import flash_attention as flash

  names = [x for x in flash.BlockSizes.__dataclass_fields__ if x != "block_b"]
  blocks = flash.BlockSizes(block_b=1, **dict.fromkeys(names, BLOCK))

  def run(q, k, v, dy):
    def attend(*inputs):
      return flash.flash_attention(*inputs, block_sizes=blocks)

    return jax.vjp(attend, q, k, v)[1](dy)

  return run, [jax.ShapeDtypeStruct((2, 8, LENGTH, width), jnp.bfloat16)] * 4


def ours(
  features=(),
  width=64,
  length=LENGTH,
  block=BLOCK,
  rows=2,
  heads=8,
  kv_heads=8,
  dtype="bfloat16",
  bias=None,
  near=None,
  implementation="tpu",
):
  """Forward and backward, of some of the features that a call may have."""
  if near is not None:
    # So that kernels have one of the ways through only.
    tile.is_near = lambda *_: near
  dtype = jnp.dtype(dtype)
  shapes = {
    "q": ((rows, length, heads, width), dtype),
    "k": ((rows, length, kv_heads, width), dtype),
    "v": ((rows, length, kv_heads, width), dtype),
  }
  if bias:
    shapes["bias"] = (bias, jnp.float32)
  if "table" in features:
    shapes["table"] = ((32, heads), jnp.float32)
  moving = {x: jax.ShapeDtypeStruct(*y) for x, y in shapes.items()}
  row = jax.ShapeDtypeStruct((rows, length), jnp.int32)
  given = {"segments": row} if "segments" in features else {}
  if "prefix" in features:
    given["prefix"] = jax.ShapeDtypeStruct((rows, length), bool)
  module = {"tpu": tpu, "reference": reference}[implementation]

  def run(moving, given, dy):
    pattern = None
    if "pattern" in features:
      pattern = pallas_kernels.bigbird(length)
    mask = Mask(
      causal="causal" in features,
      window=Window(300, 20) if "window" in features else None,
      pattern=pattern,
      q_segments=given.get("segments"),
      k_segments=given.get("segments"),
      k_prefix=given.get("prefix"),
    )
    more = (
      {"blocks": tpu.Blocks(block, block)} if module is tpu and block else {}
    )

    def attend(moving):
      relative = None
      if "table" in moving:
        relative = pallas_kernels.RelativeBias(moving["table"])
      key = jax.random.key(0) if "dropout" in features else None
      return module.attention(
        moving["q"],
        moving["k"],
        moving["v"],
        mask=mask,
        bias=moving.get("bias"),
        relative_bias=relative,
        dropout=Dropout.of(0.1, key),
        scale=1.0,
        soft_cap=30.0 if "soft_cap" in features else None,
        **more,
      )[0]

    return jax.vjp(attend, moving)[1](dy)[0]

  return run, [moving, given, moving["q"]]


def bundles(found):
  return sum(
    found.tpu_kernel(f"attention_{x}").bundles for x in ("forward", "backward")
  )


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("width", BUDGET)
def test_as_jax(chip, width):
  theirs = report(chip, flash, width=width)
  expected = sum(theirs.tpu_kernel(f"bwd_{x}").bundles for x in ("dq", "dkv"))
  found = report(chip, ours, width=width).tpu_kernel("attention_backward")
  assert found.bundles < BUDGET[width] * expected


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("near", [True, False])
def test_a_relative_bias(chip, near):
  """Blocks near the diagonal, and far from it, forward and backward."""
  plain = bundles(report(chip, ours, width=64))
  found = report(chip, ours, features=["table"], near=near)
  assert bundles(found) < BIAS_BUDGET * plain


@pytest.mark.parametrize("chip", ["v4", "v5e", "v7x"])
@pytest.mark.parametrize(
  "how",
  [
    {"features": ["table", "segments", "causal", "dropout"], "kv_heads": 2},
    {"features": ["soft_cap", "prefix", "causal", "window"], "width": 40},
    {"features": ["pattern", "table"], "dtype": "float32"},
    {"features": ["segments"], "bias": [1, 8, LENGTH, LENGTH]},
    {"features": ["table"], "bias": [2, 1, 1, LENGTH], "kv_heads": 1},
    {"bias": [2, 1, LENGTH, 1], "length": LENGTH, "dtype": "float32"},
  ],
)
def test_features_compile(chip, how):
  report(chip, ours, **how)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("kv_heads", [1, 32])
def test_wide_heads_have_blocks_that_fit(kv_heads, dtype):
  """PaLM's, on the chip with the least VMEM."""
  how = {"width": 256, "heads": 32, "kv_heads": kv_heads, "dtype": dtype}
  report("v4", ours, features=["causal", "segments"], block=None, **how)


def test_long_rows_compile():
  """dQ of a group's heads is 256 MiB, which no VMEM has room for."""
  found = report(
    "v5e",
    ours,
    features=["causal"],
    width=128,
    length=65536,
    kv_heads=1,
  )
  assert found.memory.temporaries < 2**32


def temporaries(length, **how):
  how = {"features": ["table"], "rows": 4, "length": length, **how}
  return report("v5e", ours, **how).memory.temporaries


def test_memory_of_a_relative_bias_is_linear():
  """Forward and gradient; logits of all heads would be 32 GiB."""
  for length in (4096, 8192, 16384):
    size = 4 * length * 8 * 64 * 2
    assert temporaries(length, block=1024) < 8 * size
  # What is compared with is quadratic.
  plain = [temporaries(x, implementation="reference") for x in (1024, 2048)]
  assert plain[1] > 3.5 * plain[0]
