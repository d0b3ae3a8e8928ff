"""Collectives of compiled HLO, for tests of what devices say to each other."""

import re
from typing import NamedTuple

import numpy as np

_KINDS = (
  "all-gather",
  "all-reduce",
  "all-to-all",
  "collective-permute",
  "reduce-scatter",
)
_INSTRUCTION = re.compile(
  rf"= (?P<type>.*?) (?P<kind>{'|'.join(_KINDS)})(-start)?\("
)
_GROUPS = re.compile(
  r"replica_groups=(?:\{(?P<listed>\{[\d,{}]*\})\}|\[(?P<count>\d+),\d+\]<="
  r"\[(?P<dims>[\d,]+)\](?:T\((?P<order>[\d,]+)\))?)"
)
# As XLA has written it since it partitions by meshes.
_MESH = re.compile(
  r"replica_groups=mesh\[(?P<sizes>[^\]]*)\]"
  r"(?:, device_ids=\(\[(?P<dims>[\d,]+)\](?:T\((?P<order>[\d,]+)\))?\))?"
  r" \{(?P<axes>[^}]*)\}"
)


class Collective(NamedTuple):
  """One instruction.

  Attributes:
    kind: such as "all-gather".
    shapes: of the arrays that it makes on a device, () for scalars.
    dtypes: theirs, as HLO names them.
    groups: devices that talk to each other; () if all do, or it is by pairs.
    looped: whether it is in the body of a loop.
  """

  kind: str
  shapes: tuple[tuple[int, ...], ...]
  dtypes: tuple[str, ...]
  groups: tuple[tuple[int, ...], ...]
  looped: bool


def collectives(text: str) -> list[Collective]:
  """All of a module, as `jax.stages.Compiled.as_text` prints it."""
  bodies = set(re.findall(r"body=%?([\w.-]+)", text))
  found, computation = [], ""
  for line in text.splitlines():
    head = re.match(r"(?:ENTRY )?%?([\w.-]+) \(.*\{$", line)
    if head:
      computation = head[1]
    match = _INSTRUCTION.search(line)
    if match is None:
      continue
    arrays = re.findall(r"([a-z]+\d*)\[([\d,]*)\]", match["type"])
    found.append(
      Collective(
        match["kind"],
        tuple(_numbers(shape) for _, shape in arrays),
        tuple(dtype for dtype, _ in arrays),
        _groups(line),
        computation in bodies,
      )
    )
  return found


def _numbers(text: str) -> tuple[int, ...]:
  return tuple(int(n) for n in text.split(",") if n)


def _groups(line: str) -> tuple[tuple[int, ...], ...]:
  match = _MESH.search(line)
  if match:
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", match["sizes"]))
    shape = tuple(map(int, sizes.values()))
    dims = match["dims"] or ",".join(sizes.values())
    devices = _devices(dims, match["order"]).reshape(shape)
    own = [list(sizes).index(a) for a in re.findall(r"'(\w+)'", match["axes"])]
    last = range(len(shape) - len(own), len(shape))
    devices = np.moveaxis(devices, own, tuple(last))
    rows = devices.reshape(-1, np.prod([shape[axis] for axis in own]))
    return tuple(tuple(map(int, row)) for row in rows)
  match = _GROUPS.search(line)
  if match is None:
    return ()
  if match["listed"]:
    each = re.findall(r"\{([\d,]*)\}", match["listed"])
    return tuple(_numbers(group) for group in each)
  devices = _devices(match["dims"], match["order"])
  rows = devices.reshape(int(match["count"]), -1)
  return tuple(tuple(map(int, row)) for row in rows)


def _devices(dims: str, order: str | None) -> np.ndarray:
  devices = np.arange(np.prod(_numbers(dims))).reshape(_numbers(dims))
  return devices.transpose(_numbers(order)) if order else devices
