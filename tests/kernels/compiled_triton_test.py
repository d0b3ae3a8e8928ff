"""Triton's kernels compiled for GPUs that are absent: what they cost."""

import jax
import pytest

from pallas_kernels.attention import RelativeBias, triton
from pallas_kernels.attention.dropout import Dropout
from pallas_kernels.attention.masks import Mask
from pallas_kernels.scan import linear_triton, selective_triton
from tests.kernels import compiled

pytestmark = pytest.mark.compiled

KERNELS = ("forward", "by_queries", "by_keys", "by_panel", "by_bias")
# What a program can have, in bytes; of an A100 as much as of an L4, for which
# the same code is made.
SHARED_MEMORY = {
  "A100": 99 * 1024,
  "RTX PRO 6000": 99 * 1024,
  "H100": 227 * 1024,
  "H200": 227 * 1024,
  "B200": 227 * 1024,
}


def attention(width=64, dtype="bfloat16", length=1024):
  """Forward and backward, with all that makes a tile dearer."""
  q = jax.ShapeDtypeStruct((2, length, 8, width), dtype)
  k = jax.ShapeDtypeStruct((2, length, 4, width), dtype)
  table = jax.ShapeDtypeStruct((32, 8), "float32")
  bias = jax.ShapeDtypeStruct((1, 8, length, length), "float32")
  segments = jax.ShapeDtypeStruct((2, length), "int32")
  seed = jax.ShapeDtypeStruct((2,), "uint32")

  def run(arrays, segments, seed):
    def attend(q, k, v, table, bias):
      return triton.attention(
        q,
        k,
        v,
        mask=Mask(causal=True, q_segments=segments, k_segments=segments),
        bias=bias,
        relative_bias=RelativeBias(table),
        dropout=Dropout(seed, 0.1),
        scale=1.0,
        soft_cap=30.0,
      )

    outputs, pull = jax.vjp(attend, *arrays)
    return outputs, pull(outputs)

  return run, [[q, k, k, table, bias], segments, seed]


def linear_scan(dtype="float32"):
  x = jax.ShapeDtypeStruct((8, 2048, 2048), dtype)
  initial = jax.ShapeDtypeStruct((8, 2048), dtype)

  def run(a, b, initial):
    return linear_triton.scan(a, b, initial, reverse=False, interpret=False)

  return run, [x, x, initial]


def selective_scan(states=16):
  """Forward and backward, with all there is."""
  shapes = {
    "x": ((8, 2048, 2048), "bfloat16"),
    "dt": ((8, 2048, 2048), "bfloat16"),
    "a": ((2048, states), "float32"),
    "b": ((8, 2048, states), "bfloat16"),
    "c": ((8, 2048, states), "bfloat16"),
    "d": ((2048,), "float32"),
    "z": ((8, 2048, 2048), "bfloat16"),
    "dt_bias": ((2048,), "float32"),
    "initial": ((8, 2048, states), "float32"),
  }
  arrays = {name: jax.ShapeDtypeStruct(*x) for name, x in shapes.items()}
  resets = jax.ShapeDtypeStruct((8, 2048), bool)

  def run(arrays, resets):
    def scan(arrays):
      return selective_triton.scan(
        **arrays, resets=resets, softplus=True, interpret=False
      )

    outputs, pull = jax.vjp(scan, arrays)
    return outputs, pull(outputs)

  return run, [arrays, resets]


def check(chip, report, names):
  for name in names:
    kernel = report.gpu_kernel(name)
    assert kernel.source == "triton"
    assert kernel.spill_stores == kernel.spill_loads == 0, name
    assert kernel.shared_memory <= SHARED_MEMORY[chip], name


OFTEN = ("A100", 64), ("B200", 128)
EVERY = [(chip, width) for chip in compiled.GPUS for width in (64, 128)]


@pytest.mark.parametrize(
  ("chip", "width"),
  compiled.sample(*OFTEN, rest=compiled.without(EVERY, OFTEN)),
)
def test_attention(chip, width):
  found = compiled.report(chip, attention, width=width)
  check(chip, found, [f"attention_{name}" for name in KERNELS])
  # Nothing as large as the logits: 64 MiB of them in float32.
  assert found.memory.temporaries < 2**22


def test_products_are_by_matrix_instructions():
  found = compiled.report("A100", attention, width=64)
  for name in KERNELS:
    assert found.gpu_kernel(f"attention_{name}").instructions["HMMA"] > 0


@pytest.mark.parametrize("width", compiled.sample(64, rest=(128, 256)))
def test_attention_in_float32(width):
  found = compiled.report("A100", attention, width=width, dtype="float32")
  check("A100", found, [f"attention_{name}" for name in KERNELS])
  # Matrix instructions would round to 10 bits.
  for name in KERNELS:
    assert found.gpu_kernel(f"attention_{name}").instructions["HMMA"] == 0


@pytest.mark.parametrize(
  "chip",
  compiled.sample("A100", rest=compiled.without(compiled.GPUS, ("A100",))),
)
def test_selective_scan(chip):
  found = compiled.report(chip, selective_scan)
  kernels = [x for x in found.kernels if x.name.startswith("selective_scan")]
  assert len(kernels) == 2
  for kernel in kernels:
    # For the RTX PRO 6000 9 numbers are spilled, outside the loops.
    for loop in kernel.loops:
      assert loop.instructions["STL"] == loop.instructions["LDL"] == 0
    # What is summed over states stays in a thread.
    assert kernel.shared_memory == 0


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_linear_scan(dtype):
  found = compiled.report("A100", linear_scan, dtype=dtype)
  check("A100", found, ["linear_scan"])
  assert found.gpu_kernel("linear_scan").shared_memory == 0
