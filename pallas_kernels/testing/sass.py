"""Reads what ptxas and cuobjdump say of GPU code."""

import collections
import dataclasses
import re
from collections.abc import Iterable, Sequence

from pallas_kernels.testing import report

_ENTRY = re.compile(r"Compiling entry function '([^']+)' for '(\w+)'")
_FRAME = re.compile(
  r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
)
_REGISTERS = re.compile(r"Used (\d+) registers")
_STATIC_SHARED = re.compile(r"(\d+) bytes smem")
# "ptxas info    : (C7511) Potential Performance Loss: ... function 'f' ..."
_REMARK = re.compile(
  r"^ptxas (?:info\s*: (?=\(C\d+\))|warning\s*: )(?P<text>.*)"
)
_OF_FUNCTION = re.compile(r"function '([^']+)'")

_FUNCTION = re.compile(r"^\s*Function : (\S+)")
# "/*0090*/  @!P1 SHFL.IDX PT, R6, R4, RZ, 0x1f ;": address, opcode, operands.
_INSTRUCTION = re.compile(
  r"^\s*/\*(?P<address>[0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?"
  r"(?P<opcode>[A-Z][A-Za-z0-9_.]*)(?P<operands>[^;]*)"
)
_BRANCH = "BRA"
_TARGET = re.compile(r"\b0x([0-9a-f]+)\s*$")


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One instruction: where it stands, what it is, where it jumps to."""

  address: int
  opcode: str
  target: int | None = None


@dataclasses.dataclass(frozen=True)
class Resources:
  """What ptxas says of one entry function; see `report.GpuKernel`."""

  architecture: str
  registers: int
  spill_stores: int
  spill_loads: int
  stack: int
  static_shared_memory: int
  warnings: tuple[str, ...]


def resources(text: str) -> dict[str, Resources]:
  """Reads what `ptxas -v` writes: entry function -> what it takes."""
  entries = {}
  remarks = [
    m["text"] for line in text.splitlines() if (m := _REMARK.match(line))
  ]
  for chunk in re.split(r"^(?=.*Compiling entry function)", text, flags=re.M):
    entry = _ENTRY.search(chunk)
    frame, registers = _FRAME.search(chunk), _REGISTERS.search(chunk)
    if not (entry and frame and registers):
      continue
    shared = _STATIC_SHARED.search(chunk)
    stack, stores, loads = map(int, frame.groups())
    name, architecture = entry.groups()
    entries[name] = Resources(
      architecture=architecture,
      registers=int(registers[1]),
      spill_stores=stores,
      spill_loads=loads,
      stack=stack,
      static_shared_memory=int(shared[1]) if shared else 0,
      warnings=tuple(
        remark
        for remark in remarks
        if not (named := _OF_FUNCTION.search(remark)) or named[1] == name
      ),
    )
  return entries


def listings(text: str) -> dict[str, list[Instruction]]:
  """Reads what `cuobjdump -sass` writes: function -> its instructions."""
  functions: dict[str, list[Instruction]] = {}
  current: list[Instruction] = []
  for line in text.splitlines():
    if function := _FUNCTION.match(line):
      current = functions.setdefault(function[1], [])
    elif found := _INSTRUCTION.match(line):
      opcode = found["opcode"].rstrip(".")
      target = None
      if opcode.partition(".")[0] == _BRANCH:
        target = _TARGET.search(found["operands"])
      current.append(
        Instruction(
          int(found["address"], 16),
          opcode,
          int(target[1], 16) if target else None,
        )
      )
  return functions


def variants(listing: Iterable[Instruction]) -> collections.Counter[str]:
  """Counts each opcode with its modifiers."""
  return collections.Counter(instruction.opcode for instruction in listing)


def opcodes(listing: Iterable[Instruction]) -> collections.Counter[str]:
  """Counts each opcode: "MUFU.EX2" counts as "MUFU"."""
  return collections.Counter(
    instruction.opcode.partition(".")[0] for instruction in listing
  )


def loops(listing: Sequence[Instruction]) -> tuple[report.GpuLoop, ...]:
  """Finds the loops: a branch back and all from its target on.

  A branch to itself, which ends every function, is none.
  """
  ends: dict[int, int] = {}
  for instruction in listing:
    if instruction.target is not None and (
      instruction.target < instruction.address
    ):
      last = ends.get(instruction.target, 0)
      ends[instruction.target] = max(last, instruction.address)
  return tuple(
    report.GpuLoop(
      first=first,
      instructions=opcodes(i for i in listing if first <= i.address <= last),
      innermost=not any(
        first <= other and ends[other] <= last
        for other in ends
        if other != first
      ),
    )
    for first, last in sorted(ends.items())
  )
