"""Compiles a function for a chip that is absent, and says what it costs.

    from pallas_kernels import testing

    def attention(length):  # at the top of a module
      q = jax.ShapeDtypeStruct((1, length, 8, 64), jnp.bfloat16)
      return flash_attention, [q, q, q]

    report = testing.compile_for("v5e", attention, {"length": 2048})
    kernel = report.tpu_kernel("flash")
    assert kernel.spill_stores == 0 and kernel.innermost.bundles < 900

Needs the compiler of the chip, libtpu or jax's CUDA plugin with a few of
NVIDIA's tools: `missing("v5e")` says what is not installed.  No driver and no
accelerator are used.
"""

from pallas_kernels.testing.chips import CHIPS, Chip
from pallas_kernels.testing.launch import (
  CompileError,
  MissingCompiler,
  compile_for,
  missing,
)
from pallas_kernels.testing.report import (
  GpuKernel,
  GpuLoop,
  Loop,
  Memory,
  Report,
  Schedule,
  Slot,
  TpuKernel,
)

__all__ = [
  "CHIPS",
  "Chip",
  "CompileError",
  "GpuKernel",
  "GpuLoop",
  "Loop",
  "Memory",
  "MissingCompiler",
  "Report",
  "Schedule",
  "Slot",
  "TpuKernel",
  "compile_for",
  "missing",
]
