"""What the scans' TPU kernels compile to: bundles, and registers spilled."""

import jax
import jax.numpy as jnp
import pytest

import pallas_kernels
from tests.kernels import compiled

# Bundles, at most, of the loop over 16 steps of 512 channels with 16 states,
# with softplus and gate: forward, and the two loops of the backward pass; and
# vector registers that all loops spill.  v4 has half the registers and
# arithmetic slots.
BUDGETS = {
  "v4": ((760, 2290), 460),
  "v5e": ((340, 940), 8),
  "v5p": ((340, 940), 8),
  "v6e": ((355, 970), 8),
  "v7x": ((355, 960), 8),
}
# Bundles of 16 steps of 512 channels of a linear recurrence; those that its
# 96 KB (real) take to come and go on v5e, at 0.82 TB/s and 1.5 GHz, are 180.
LINEAR = {
  ("v5e", "float32"): 70,
  ("v5e", "complex64"): 180,
  ("v6e", "float32"): 70,
  ("v7x", "complex64"): 180,
}


def gradients(dtype="float32", width=2048, states=16):
  """Of a selective scan with all there is."""
  batch, length = 8, 2048

  def array(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)

  steps = array(batch, length, width, dtype=dtype)
  selected = array(batch, length, states, dtype=dtype)
  inputs = {
    **dict.fromkeys(("x", "dt", "z"), steps),
    **dict.fromkeys(("b", "c"), selected),
    **dict.fromkeys(("d", "dt_bias"), array(width)),
    "a": array(width, states),
    "initial": array(batch, width, states),
  }

  def loss(inputs):
    y, final = pallas_kernels.selective_scan(
      **inputs, dt_softplus=True, implementation="mosaic_tpu"
    )
    return jnp.sum(y.astype(jnp.float32) ** 2) + jnp.sum(final)

  return jax.grad(loss), [inputs]


def recurrence(dtype="float32"):
  x = jax.ShapeDtypeStruct((8, 2048, 2048), dtype)

  def scan(a, b):
    return pallas_kernels.linear_scan(a, b, implementation="mosaic_tpu")

  return scan, [x, x]


def longest(kernel, count):
  """Bundles of the longest innermost loops."""
  loops = (loop.bundles for loop in kernel.loops if loop.innermost)
  return sum(sorted(loops)[-count:])


@pytest.mark.compiled
@pytest.mark.parametrize("chip", BUDGETS)
def test_selective_scan(chip):
  found = compiled.report(chip, gradients)
  forward = found.tpu_kernel("selective_scan_forward")
  backward = found.tpu_kernel("selective_scan_backward")
  (ahead, back), spills = BUDGETS[chip]
  assert longest(forward, 1) <= ahead
  assert longest(backward, 2) <= back
  assert forward.spill_stores + backward.spill_stores <= spills
  # What is kept: states before every 128 steps, or 64, of all channels.
  states = 4 * 8 * (2048 // (64 if chip == "v4" else 128)) * 2048 * 16
  assert found.memory.temporaries < 3 * states + 3 * 4 * 8 * 2048 * 2048


@pytest.mark.compiled
@pytest.mark.parametrize(
  ("dtype", "width", "states"),
  [("bfloat16", 1536, 16), ("float32", 640, 64), ("float32", 256, 128)],
)
def test_selective_scan_of_other_shapes(dtype, width, states):
  """That they compile, and within the memory of a kernel."""
  found = compiled.report(
    "v5e", gradients, dtype=dtype, width=width, states=states
  )
  assert found.tpu_kernel("selective_scan_backward").bundles


@pytest.mark.compiled
@pytest.mark.parametrize(("chip", "dtype"), LINEAR)
def test_linear_scan(chip, dtype):
  found = compiled.report(chip, recurrence, dtype=dtype)
  kernel = found.tpu_kernel("linear_scan")
  assert longest(kernel, 1) <= LINEAR[chip, dtype]
