"""A report as text, for people."""

from collections.abc import Mapping

from pallas_kernels.testing import report

_LONG_LOOP = 20  # shorter ones wait for barriers
# What tells how a GPU kernel works: products, copies, transcendentals, plain
# arithmetic, barriers, spills.
_TELLING_OPCODES = (
  "HGMMA", "UTCHMMA", "HMMA", "UTMALDG", "UTMASTG", "LDGSTS", "LDG", "STG",
  "LDSM", "LDS", "STS", "MUFU", "FFMA", "FMUL", "FADD", "FMNMX", "SHFL", "BAR",
  "SYNCS", "LDL", "STL",
)  # fmt: skip


def describe(found: report.Report) -> str:
  """Returns a few lines on each kernel."""
  memory = found.memory
  lines = [
    f"{found.chip}: arguments {memory.arguments:,} bytes, outputs "
    f"{memory.outputs:,}, temporaries {memory.temporaries:,}"
  ]
  if found.flops is not None:
    accessed = found.bytes_accessed or 0
    lines.append(f"  {found.flops:.4g} FLOP, {accessed:.4g} bytes accessed")
  for kernel in found.kernels:
    if isinstance(kernel, report.TpuKernel):
      lines += _tpu(kernel)
    else:
      lines += _gpu(kernel)
  return "\n".join(lines)


def _tpu(kernel: report.TpuKernel) -> list[str]:
  lines = [f"{kernel.name}: {_schedule(kernel)}"]
  for loop in kernel.loops:
    kind = "innermost loop" if loop.innermost else "loop"
    where = f"{'  ' * loop.depth}{kind} at {loop.first}"
    lines.append(f"{where}: {_schedule(loop)}")
  return lines


def _schedule(part: report.Schedule) -> str:
  slots = ", ".join(
    f"{name} {slot.count} ({slot.share:.0%})"
    for name, slot in part.slots.items()
    if slot.count
  )
  return (
    f"{part.bundles} bundles, spills {part.spill_stores} stores "
    f"{part.spill_loads} loads; {slots}"
  )


def _gpu(kernel: report.GpuKernel) -> list[str]:
  shared = kernel.shared_memory
  return [
    f"{kernel.name} ({kernel.source}, {kernel.architecture}): "
    f"{kernel.registers} registers, spills {kernel.spill_stores} bytes stored "
    f"{kernel.spill_loads} loaded, shared memory "
    f"{'unknown' if shared is None else f'{shared:,} bytes'}",
    f"  {_instructions(kernel.instructions)}",
    *(
      f"  innermost loop at {loop.first:#x}: {_instructions(loop.instructions)}"
      for loop in kernel.loops
      if loop.innermost and loop.length >= _LONG_LOOP
    ),
    *(f"  {warning}" for warning in kernel.warnings),
  ]


def _instructions(counts: Mapping[str, int]) -> str:
  telling = ", ".join(
    f"{name} {counts[name]}" for name in _TELLING_OPCODES if name in counts
  )
  return f"{sum(counts.values())} instructions: {telling}"
