"""Hopper's backward pass of attention, compiled for absent chips."""

import jax
import jax.numpy as jnp
import pytest

import pallas_kernels
from pallas_kernels.attention import hopper
from pallas_kernels.attention.dropout import Dropout
from pallas_kernels.attention.masks import Mask
from tests.kernels import compiled

pytestmark = pytest.mark.compiled
LENGTH = 2048
# Numbers of a tile of 64 x 64 that a thread has, each one exponential.
EACH = 32
FEATURES = {
  "plain": {},
  "causal, grouped, packed": {"causal": True, "kv_heads": 2, "packed": True},
  "relative": {"buckets": 32},
  "all": {
    "causal": True,
    "kv_heads": 2,
    "packed": True,
    "buckets": 32,
    "rate": 0.1,
    "soft_cap": 30.0,
    "bias": True,
  },
}


def gradients(
  width=64,
  dtype="bfloat16",
  causal=False,
  kv_heads=8,
  packed=False,
  buckets=0,
  rate=0.0,
  soft_cap=None,
  bias=False,
):
  """Forward and backward of [B T N H]."""

  def attend(q, k, v, table, bias, segments, seed):
    relative = pallas_kernels.RelativeBias(table, not causal)
    return hopper.attention(
      q,
      k,
      v,
      mask=Mask(causal=causal, q_segments=segments, k_segments=segments),
      bias=bias,
      relative_bias=None if table is None else relative,
      dropout=None if seed is None else Dropout(seed, rate),
      scale=1.0 if buckets else width**-0.5,
      soft_cap=soft_cap,
    )[0]

  def run(moving, segments, seed, dy):
    _, pull = jax.vjp(lambda x: attend(*x, segments, seed), moving)
    return pull(dy)[0]

  of = jax.ShapeDtypeStruct
  q = of((2, LENGTH, 8, width), dtype)
  k = of((2, LENGTH, kv_heads, width), dtype)
  table = of((buckets, 8), jnp.float32) if buckets else None
  whole = of((1, 8, LENGTH, LENGTH), jnp.float32) if bias else None
  segments = of((2, LENGTH), jnp.int32) if packed else None
  seed = of((2,), jnp.uint32) if rate else None
  return run, [(q, k, k, table, whole), segments, seed, q]


def kernels(**arguments):
  report = compiled.report("H100", gradients, **arguments)
  found = [x for x in report.kernels if x.source != "xla"]
  return {x.name: x for x in found if "attention_d" in x.name}


@pytest.mark.parametrize(
  ("width", "features"),
  compiled.sample(
    (64, "plain"),
    (64, "relative"),
    (128, "causal, grouped, packed"),
    rest=[
      (64, "causal, grouped, packed"),
      (64, "all"),
      (128, "plain"),
      (128, "relative"),
      (128, "all"),
      (256, "plain"),
      (256, "causal, grouped, packed"),
    ],
  ),
)
def test_nothing_spills(width, features):
  found = kernels(width=width, **FEATURES[features])
  assert len(found) >= 2
  for kernel in found.values():
    assert kernel.spill_stores == kernel.spill_loads == 0, kernel.name
    assert kernel.instructions["HGMMA"] and not kernel.instructions["HMMA"]
    assert kernel.instructions["LDL"] == kernel.instructions["STL"] == 0


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_one_exponential_a_weight(dtype):
  found = kernels(width=64, dtype=dtype)
  assert len(found) == 2
  for kernel in found.values():
    assert kernel.variants["MUFU.EX2"] == EACH
