"""The scans' GPU kernels, compiled: registers, and instructions of a step.

Budgets are a little above what was found.  What a step of the selective scan
costs is its exponentials, one a state, and those of softplus and of the gate.
"""

import jax
import jax.numpy as jnp
import pytest

import pallas_kernels
from pallas_kernels.scan.linear_mosaic_gpu import Sizes as LinearSizes
from pallas_kernels.scan.selective_mosaic_gpu_forward import Sizes
from tests.kernels import compiled

pytestmark = pytest.mark.compiled
CHIPS = ("H100", "H200", "B200")
SHARED_MEMORY = 227 * 1024
STATES = 16
# exp2, and a reciprocal root, of softplus and of the gate.
MORE_EXPONENTIALS = 3


def selective_forward(dtype):
  def function(x, dt, a, b, c, d, z, dt_bias, resets):
    return pallas_kernels.selective_scan(
      *(x, dt, a, b, c),
      **{"d": d, "z": z, "dt_bias": dt_bias, "resets": resets},
      dt_softplus=True,
      implementation="mosaic_gpu",
    )

  steps = jax.ShapeDtypeStruct((8, 2048, 2048), dtype)
  row = jax.ShapeDtypeStruct((8, 2048, STATES), dtype)
  a = jax.ShapeDtypeStruct((2048, STATES), "float32")
  d = jax.ShapeDtypeStruct((2048,), "float32")
  resets = jax.ShapeDtypeStruct((8, 2048), "bool")
  return function, [steps, steps, a, row, row, d, steps, d, resets]


def selective_gradient(dtype):
  function, shapes = selective_forward(dtype)

  def loss(*inputs):
    y, final = function(*inputs)
    return jnp.sum(y.astype("float32")) + jnp.sum(final)

  return jax.grad(loss, range(8)), shapes


def linear(dtype, reverse):
  def function(a, b):
    return pallas_kernels.linear_scan(
      a, b, reverse=reverse, implementation="mosaic_gpu"
    )

  x = jax.ShapeDtypeStruct((8, 2048, 2048), dtype)
  return function, [x, x]


def check(kernel, registers):
  assert kernel.registers <= registers
  assert kernel.spill_stores == kernel.spill_loads == kernel.stack == 0
  assert kernel.shared_memory is None or kernel.shared_memory <= SHARED_MEMORY


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("chip", CHIPS)
def test_selective_scan(chip, dtype):
  found = compiled.report(chip, selective_forward, dtype=dtype)
  kernel = found.gpu_kernel("selective_scan_forward")
  check(kernel, 128)
  loop, steps = kernel.innermost, Sizes().unroll
  assert loop.instructions["MUFU"] == steps * (STATES + MORE_EXPONENTIALS)
  assert loop.length <= steps * 140
  assert "BAR" not in loop.instructions


OFTEN = ("H200", "bfloat16"), ("B200", "bfloat16")
EVERY = [(chip, x) for chip in CHIPS for x in ("float32", "bfloat16")]


@pytest.mark.parametrize(
  ("chip", "dtype"),
  compiled.sample(*OFTEN, rest=compiled.without(EVERY, OFTEN)),
)
def test_gradient_of_the_selective_scan(chip, dtype):
  found = compiled.report(chip, selective_gradient, dtype=dtype)
  check(found.gpu_kernel("selective_scan_forward"), 128)
  kernel = found.gpu_kernel("selective_scan_backward")
  check(kernel, 255)
  loop, steps = kernel.innermost, Sizes().group
  assert loop.instructions["MUFU"] == steps * STATES
  assert loop.length <= steps * 320
  assert loop.instructions["BAR"] == 2  # For the sums over channels.


@pytest.mark.parametrize(
  ("dtype", "reverse"), [("float32", False), ("complex64", True)]
)
@pytest.mark.parametrize("chip", CHIPS)
def test_linear_scan(chip, dtype, reverse):
  found = compiled.report(chip, linear, dtype=dtype, reverse=reverse)
  kernel = found.gpu_kernel("linear_scan")
  check(kernel, 64)
  loop, steps = kernel.innermost, LinearSizes().unroll
  assert "BAR" not in loop.instructions
  assert loop.length <= steps * (14 if dtype == "float32" else 20)
