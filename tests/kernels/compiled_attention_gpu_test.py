"""What the compiler says of Hopper's attention: registers, instructions."""

import jax
import jax.numpy as jnp
import pytest

import pallas_kernels
from tests.kernels import compiled

pytestmark = pytest.mark.compiled
CHIP = "H200"
# Registers are divided evenly among the warpgroups: 65,536 of them, in eights.
THREE_WARPGROUPS, TWO_WARPGROUPS = 168, 255


def shape(*sizes, dtype=jnp.bfloat16):
  return jax.ShapeDtypeStruct(sizes, dtype)


def forward(
  *, width, length=2048, causal=False, relative=False, segments=False
):
  """Attention of 4 heads, and the shapes of its arguments."""

  def attend(q, k, v, table, ids):
    return pallas_kernels.attention(
      q,
      k,
      v,
      causal=causal,
      q_segments=ids if segments else None,
      k_segments=ids if segments else None,
      relative_bias=pallas_kernels.RelativeBias(table, not causal)
      if relative
      else None,
      scale=1.0 if relative else width**-0.5,
      implementation="mosaic_gpu",
    )

  x = shape(2, length, 4, width)
  table = shape(32, 4, dtype=jnp.float32)
  return attend, [x, x, x, table, shape(2, length, dtype=jnp.int32)]


@pytest.mark.parametrize("width", [64, 128])
@pytest.mark.parametrize(
  "features",
  [
    (),
    ("causal",),
    ("relative",),
    ("relative", "causal", "segments"),
    ("relative", "segments"),
  ],
  ids="-".join,
)
def test_forward(width, features):
  kernel = compiled.report(
    CHIP, forward, width=width, **dict.fromkeys(features, True)
  ).gpu_kernel()
  assert kernel.architecture == "sm_90a"
  assert kernel.spill_stores == kernel.spill_loads == kernel.stack == 0
  most = THREE_WARPGROUPS if width == 64 else TWO_WARPGROUPS
  assert kernel.registers <= most
  # One loop over blocks of 128 keys: 16 numbers of H, and of keys, a product.
  assert kernel.instructions["HGMMA"] == width // 16 + 128 // 16
  assert kernel.instructions["UTMALDG"] == 5
  # 64 weights a thread, the old and the new sum of two rows, log and inverse.
  assert kernel.instructions["MUFU"] <= 72
  assert kernel.shared_memory <= 227 * 1024
  assert not [text for text in kernel.warnings if "serialized" in text]


# At 256 the sums alone take half of the registers: some are kept aside.
@pytest.mark.parametrize(("width", "spilled"), [(192, 0), (256, 400)])
def test_wide_forward(width, spilled):
  kernel = compiled.report(CHIP, forward, width=width).gpu_kernel()
  assert kernel.instructions["HGMMA"] > 0
  assert kernel.shared_memory <= 227 * 1024
  assert kernel.spill_stores <= spilled
