"""What kernels cost by the compilers' own count, on chips that are absent.

    python -m benchmarks.compiled_kernels [--only TEXT] [--chips v5e v6e]

prints Markdown: VLIW bundles and spills of each kernel for TPUs, registers,
spills and the longest inner loop for GPUs.  Needs what `make test-kernels`
installs.  A kernel joins with a row in `CASES`.
"""

import argparse
import dataclasses
import functools
import json
import sys
from collections.abc import Mapping
from typing import Any

from benchmarks.kernel_targets import BLOCK
from pallas_kernels import testing

TPUS = ("v5e", "v5p", "v6e", "v7x")
GPUS = ("A100", "H100", "H200", "B200", "RTX PRO 6000")
HOPPER = ("H100", "H200")
TARGETS = "benchmarks.kernel_targets"


@dataclasses.dataclass(frozen=True)
class Case:
  """A row: one kernel of a compiled function.

  Attributes:
    title: of the row.
    target: what to compile, as `testing.compile_for` takes it.
    arguments: of the target.
    less: other arguments, with which the kernel lacks what the row is about:
      the bundles that it has then are taken off; spills are of all of it.
    kernel: part of the kernel's name.
    flops: of the matrix products in what is counted, if that has no loop
      inside; the share of the peak that the schedule allows is then shown.
    loops: count the longest so many innermost loops, not the whole kernel.
    chips: to compile for.
  """

  title: str
  target: str
  arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  less: Mapping[str, Any] | None = None
  kernel: str = ""
  flops: float = 0
  loops: int = 0
  chips: tuple[str, ...] = TPUS


def _flash_cases() -> list[Case]:
  """jax's kernels, and ours in blocks of the same size."""
  cases = []
  for width in (64, 128):
    product = 2 * BLOCK * BLOCK * width
    for kernel, name, products in (
      ("forward", "flash", 2),
      ("backward, dQ", "bwd_dq", 3),
      ("backward, dK and dV", "bwd_dkv", 4),
    ):
      cases.append(
        Case(
          f"jax flash {kernel}, D {width}",
          f"{TARGETS}:jax_flash",
          {"width": width, "backward": kernel != "forward"},
          kernel=name,
          flops=products * product,
        )
      )
    ours, first = f"{TARGETS}:tpu_attention", {"width": width, "keys": BLOCK}
    cases += [
      Case(
        f"attention forward, first block of keys, D {width}",
        ours,
        first,
        kernel="attention_forward",
        flops=2 * product,
      ),
      Case(
        f"attention forward, further blocks, D {width}",
        ours,
        {"width": width},
        less=first,
        kernel="attention_forward",
        flops=2 * product,
      ),
      Case(
        f"attention backward, D {width}",
        ours,
        {"width": width, "backward": True},
        kernel="attention_backward",
        flops=5 * product,
      ),
    ]
  return cases


def _tpu_scan_cases() -> list[Case]:
  scan = f"{TARGETS}:selective_scan"
  return [
    Case(
      f"selective scan {kernel}, 16 steps of 512 channels",
      scan,
      {"implementation": "mosaic_tpu", "backward": True},
      kernel=f"selective_scan_{kernel}",
      loops=loops,
      chips=("v4", *TPUS),
    )
    for kernel, loops in (("forward", 1), ("backward", 2))
  ]


def _attention_kernels(name: str, width: int, bias: bool) -> dict[str, str]:
  """Part of the name of each kernel of a GPU, by what its row is called."""
  if name == "triton":
    kernels = {
      "forward": "attention_forward",
      "dQ": "attention_by_queries",
      "dK and dV": "attention_by_keys",
    }
    return kernels | ({"d(bias)": "attention_by_panel"} if bias else {})
  kernels = {"forward": "attention_forward", "dQ": "attention_dq"}
  if bias and width > 64:  # see `hopper.backward`
    kernels |= {"dK": "attention_dk_", "dV": "attention_dv_"}
  else:
    kernels |= {"dK and dV": "attention_dkv"}
  return kernels | ({"d(bias)": "attention_dbias"} if bias else {})


def _gpu_cases() -> list[Case]:
  cases = [
    Case(
      f"jax Triton {kernel}, D {width}",
      f"{TARGETS}:jax_triton",
      {"width": width, "backward": kernel != "forward"},
      kernel=f"mha_{kernel}",
      chips=GPUS,
    )
    for width in (64, 128)
    for kernel in ("forward", "backward")
  ]
  ours = f"{TARGETS}:attention"
  for name, chips in (("mosaic_gpu", HOPPER), ("triton", GPUS)):
    for width in (64, 128):
      for bias in (False, True):
        how = {"width": width, "implementation": name, "t5_bias": bias}
        cases += [
          Case(
            f"{name} attention {kernel}, D {width}{', T5 bias' * bias}",
            ours,
            {**how, "backward": True},
            kernel=part,
            chips=chips,
          )
          for kernel, part in _attention_kernels(name, width, bias).items()
        ]
  scan = f"{TARGETS}:selective_scan"
  for name, chips in (("mosaic_gpu", (*HOPPER, "B200")), ("triton", GPUS)):
    for kernel in ("forward", "backward"):
      cases.append(
        Case(
          f"{name} selective scan {kernel}",
          scan,
          {"implementation": name, "backward": kernel != "forward"},
          kernel="backward" if kernel == "backward" else "selective_scan",
          chips=chips,
        )
      )
  return cases


CASES = (*_flash_cases(), *_tpu_scan_cases(), *_gpu_cases())


@functools.cache
def _report(chip: str, target: str, arguments: str) -> testing.Report:
  return testing.compile_for(chip, target, json.loads(arguments))


def report(
  chip: str, target: str, arguments: Mapping[str, Any]
) -> testing.Report:
  """Each made once."""
  return _report(chip, target, json.dumps(arguments, sort_keys=True))


def tpu_cell(case: Case, chip: str) -> str:
  kernel = report(chip, case.target, case.arguments).tpu_kernel(case.kernel)
  if case.loops:
    inner = (loop.bundles for loop in kernel.loops if loop.innermost)
    longest = sorted(inner, reverse=True)[: case.loops]
    return f"{' + '.join(map(str, longest))}, {_spills(kernel)}"
  if case.less is not None:
    other = report(chip, case.target, case.less).tpu_kernel(case.kernel)
    bundles = kernel.bundles - other.bundles
    kernel = dataclasses.replace(kernel, bundles=bundles)
  share = f", {kernel.matrix_share(case.flops):.0%}" if case.flops else ""
  return f"{kernel.bundles}{share}, {_spills(kernel)}"


def gpu_cell(case: Case, chip: str) -> str:
  kernel = report(chip, case.target, case.arguments).gpu_kernel(case.kernel)
  loop = kernel.innermost
  inner = f", {loop.length}" if loop else ""
  return f"{kernel.registers}{inner}, {_spills(kernel)}"


def _spills(kernel: testing.GpuKernel | testing.TpuKernel) -> str:
  return f"{kernel.spill_stores}/{kernel.spill_loads}"


def cell(case: Case, chip: str) -> str:
  if chip not in case.chips:
    return ""
  tpu = testing.CHIPS[chip].platform == "tpu"
  try:
    return tpu_cell(case, chip) if tpu else gpu_cell(case, chip)
  except testing.CompileError as error:
    print(f"{case.title} for {chip}: {error}", file=sys.stderr)
    return "does not compile"


def table(cases: list[Case], chips: tuple[str, ...], heading: str) -> None:
  cases = [case for case in cases if set(chips) & set(case.chips)]
  if not cases or not chips:
    return
  print(f"\n{heading}\n\n| kernel | {' | '.join(chips)} |")
  print("|---" * (len(chips) + 1) + "|")
  for case in cases:
    cells = " | ".join(cell(case, chip) for chip in chips)
    print(f"| {case.title} | {cells} |", flush=True)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--only", default="", help="part of the rows' titles")
  parser.add_argument("--chips", nargs="+", default=["v4", *TPUS, *GPUS])
  given = parser.parse_args()
  for chip in given.chips:
    if lacking := testing.missing(chip):
      sys.exit(lacking)
  cases = [case for case in CASES if given.only in case.title]
  table(
    cases,
    tuple(chip for chip in ("v4", *TPUS) if chip in given.chips),
    "Bundles, share of the matrix units' peak that they allow, vector "
    "registers spilled: stores/loads.",
  )
  table(
    cases,
    tuple(chip for chip in GPUS if chip in given.chips),
    "Registers, instructions of the longest inner loop, bytes a thread "
    "spills: stores/loads.",
  )


if __name__ == "__main__":
  main()
