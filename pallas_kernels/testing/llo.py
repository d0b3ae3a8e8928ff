"""Reads the schedules that libtpu dumps as text.

`--xla_jf_dump_llo_text` writes for each kernel a table of filled slots, a row
a bundle, and a listing of the bundles with a mark at each loop's head.
"""

import dataclasses
import re

from pallas_kernels.testing import report

# "0x8b LB: >>> { ...": address, what begins there, nesting, instructions.
_BUNDLE = re.compile(
  r"^\s*(?:0x)?(?P<address>[0-9a-f]+)"
  r"(?P<marks>(?: [A-Z]{2})*)\s*: (?P<depth>>*) *\{"
)
_LOOP_BODY = "LB"


@dataclasses.dataclass(frozen=True)
class SlotTable:
  """Filled slots of each bundle.

  Attributes:
    names: of the kinds of slots.
    capacities: how many a bundle has of each kind.
    rows: a row of counts for each bundle.
  """

  names: tuple[str, ...]
  capacities: tuple[int, ...]
  rows: tuple[tuple[int, ...], ...]

  def slots(self, first: int, end: int) -> dict[str, report.Slot]:
    """Returns the use of each kind of slot in the bundles first .. end - 1."""
    rows = self.rows[first:end]
    found = {}
    for column, name in enumerate(self.names):
      count = sum(row[column] for row in rows)
      there_are = len(rows) * self.capacities[column]
      found[name] = report.Slot(count, count / there_are if there_are else 0.0)
    return found


@dataclasses.dataclass(frozen=True)
class Span:
  """Where a loop stands: bundles first .. end - 1, `depth` loops deep."""

  first: int
  end: int
  depth: int


def slot_table(text: str) -> SlotTable:
  """Reads "...-final_hlo-static-per-bundle-utilization.txt".

  Raises:
    ValueError: the text is not such a table.
  """
  lines = [line.strip() for line in text.splitlines() if line.strip()]
  heads = [i for i, line in enumerate(lines) if line.startswith("==")]
  if len(heads) != 2 or heads[1] - heads[0] != 3:
    raise ValueError(f"not a table of slots: {text[:80]!r}")
  names, capacities = lines[heads[0] + 1 : heads[1]]
  table = SlotTable(
    tuple(name.strip() for name in names.split(",")),
    tuple(map(int, capacities.split())),
    tuple(tuple(map(int, line.split())) for line in lines[heads[1] + 1 :]),
  )
  widths = {len(row) for row in (table.names, table.capacities, *table.rows)}
  if len(widths) > 1:
    raise ValueError(f"rows of {sorted(widths)} columns in a table of slots")
  return table


def loop_spans(text: str) -> tuple[Span, ...]:
  """Reads the loops of "...-final_bundles.txt", by first bundle.

  A loop ends with the last bundle that is nested as deep as it before a loop
  beside or around it begins.  The scheduler moves single instructions across a
  loop's edge, so bundles marked as outside may stand within.
  """
  done: list[Span] = []
  open_loops: list[Span] = []

  def close(depth: int) -> None:
    while open_loops and open_loops[-1].depth >= depth:
      done.append(open_loops.pop())

  for line in text.splitlines():
    bundle = _BUNDLE.match(line)
    if bundle is None:
      continue  # the rest of a comment of several lines
    address, depth = int(bundle["address"], 16), len(bundle["depth"])
    if _LOOP_BODY in bundle["marks"].split():
      close(depth)
      open_loops.append(Span(address, address + 1, depth))
    open_loops = [
      dataclasses.replace(loop, end=address + 1)
      if depth >= loop.depth
      else loop
      for loop in open_loops
    ]
  close(0)
  return tuple(sorted(done, key=lambda loop: (loop.first, loop.depth)))


def kernel(
  name: str, table: SlotTable, spans: tuple[Span, ...], flops_per_cycle: int
) -> report.TpuKernel:
  """Returns the kernel that a table and a listing describe."""
  loops = []
  for span in spans:
    holds_another = any(
      span.first <= other.first < span.end and other.depth > span.depth
      for other in spans
    )
    loops.append(
      report.Loop(
        bundles=span.end - span.first,
        slots=table.slots(span.first, span.end),
        first=span.first,
        depth=span.depth,
        innermost=not holds_another,
      )
    )
  return report.TpuKernel(
    bundles=len(table.rows),
    slots=table.slots(0, len(table.rows)),
    name=name,
    loops=tuple(loops),
    flops_per_cycle=flops_per_cycle,
  )
