"""What devices send each other: how much, within which group, how fast.

Bytes are those that leave a device over its links, by the best algorithm for
rings: a share of (n - 1) / n of the array for a gather or a scatter among n,
twice that for an all-reduce.
"""

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from t5x_lite.ahead.hlo import Instruction
from t5x_lite.chips import Chip

KINDS = (
  "all-gather",
  "all-reduce",
  "all-to-all",
  "collective-broadcast",
  "collective-permute",
  "ragged-all-to-all",
  "reduce-scatter",
)
_FLAT = ("v5e", "v6e")  # pods of two sides; others are tori of three
_IOTA = re.compile(r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH = re.compile(r"mesh\[([^\]]*)\] ?\{([^}]*)\}")
# The compiler for TPUs leaves to the hosts what crosses slices: a send and a
# receive for each exchange.
_FAR = re.compile(r'_xla_megascale_transfer_type="(\w+)"')
_LIST = re.compile(r"\{(\{[\d,{} ]*\})\}")


@dataclasses.dataclass(frozen=True)
class Places:
  """Where the devices of a program are, in the order of its partitions.

  Attributes:
    chip: of all of them.
    domains: [N] number of the slice (TPU) or host (GPU) of each.
    coordinates: [N D] on the torus of a slice; D is 0 for GPUs.
    wraps: [D] whether an axis of the torus closes to a ring.
  """

  chip: Chip
  domains: np.ndarray
  coordinates: np.ndarray
  wraps: tuple[bool, ...]

  @classmethod
  def of(cls, chip: Chip, devices: Sequence[Any]) -> "Places":
    """Reads them off jax's descriptions of devices."""
    if chip.platform == "gpu":
      hosts = np.arange(len(devices)) // chip.domain
      return cls(chip, hosts, np.zeros((len(devices), 0), int), ())
    coordinates = np.array([device.coords for device in devices])
    domains = np.array([getattr(d, "slice_index", 0) or 0 for d in devices])
    sizes = coordinates.max(axis=0) - coordinates.min(axis=0) + 1
    flat = chip.name in _FLAT
    # cloud.google.com/tpu/docs/v4: a torus where sides are multiples of 4; a
    # flat slice closes along a side of the whole pod alone, 16.
    wraps = tuple(bool(n == 16 if flat else n % 4 == 0) for n in sizes)
    return cls(chip, domains, coordinates, wraps)


@dataclasses.dataclass(frozen=True)
class Collective:
  """One exchange.

  Attributes:
    kind: one of KINDS.
    size: devices of a group.
    sent: bytes that leave a device over the links of its slice or host.
    sent_far: bytes that leave it for other slices or hosts.
    seconds: at the bandwidth of these links, and no less.
  """

  kind: str
  size: int
  sent: float
  sent_far: float
  seconds: float


def kind_of(one: Instruction) -> str | None:
  """The kind of an instruction that begins an exchange, else None."""
  name = one.opcode.removesuffix("-start")
  if name == "send" and (far := _FAR.search(one.attributes)) is not None:
    name = far[1].lower().replace("_", "-")
    return name if name in KINDS else "collective-permute"
  return name if name in KINDS else None


def collective(one: Instruction, kind: str, places: Places) -> Collective:
  """What an instruction exchanges."""
  if one.opcode == "send":
    return _between_slices(one, kind, places)
  if kind == "collective-permute":
    return _permute(one, places)
  group = groups(one.attributes, len(places.domains))
  size = len(group)
  near, far, near_bandwidth = _paths(tuple(group), places)
  whole = _whole(one, kind, size)
  twice = 2 if kind == "all-reduce" else 1
  sent = twice * whole * (near - 1) / near
  sent_far = twice * whole / near * (far - 1) / far
  seconds = sent / near_bandwidth + sent_far / places.chip.network
  return Collective(kind, size, sent, sent_far, seconds)


def _between_slices(one: Instruction, kind: str, places: Places) -> Collective:
  """What a device sends to those at its place in other slices."""
  slices = len(set(places.domains.tolist()))
  share = {
    "all-gather": slices - 1,
    "all-reduce": 2 * (slices - 1) / slices,
    "all-to-all": (slices - 1) / slices,
    "reduce-scatter": (slices - 1) / slices,
  }
  sent = share.get(kind, 1) * one.shapes[0].size
  return Collective(kind, slices, 0.0, sent, sent / places.chip.network)


def _whole(one: Instruction, kind: str, size: int) -> float:
  """Bytes of the array that a group has together, or each of it."""
  shapes = [shape.size for shape in one.shapes]
  if one.opcode.endswith("-start") and len(shapes) > 1 and kind != "all-reduce":
    # Inputs and outputs; for a gather the outputs are larger, else equal.
    inputs = len(one.operands)
    given, made = sum(shapes[:inputs]), sum(shapes[inputs : 2 * inputs])
    return max(given, made)
  total = sum(shapes)
  return total * size if one.opcode.startswith("reduce-scatter") else total


def _permute(one: Instruction, places: Places) -> Collective:
  pairs = re.findall(r"\{(\d+),(\d+)\}", one.attributes)
  shape = one.shapes[0]
  far = any(
    places.domains[int(a)] != places.domains[int(b)]
    for a, b in pairs
    if max(int(a), int(b)) < len(places.domains)
  )
  if far:
    seconds = shape.size / places.chip.network
    return Collective("collective-permute", 2, 0.0, shape.size, seconds)
  # To one neighbour, over one link.
  one_link = places.chip.link / _links(places.chip)
  seconds = shape.size / one_link
  return Collective("collective-permute", 2, shape.size, 0.0, seconds)


def _paths(group: tuple[int, ...], places: Places) -> tuple[int, int, float]:
  """Devices of the group in a domain, domains, and bytes/s within one.

  On a torus each axis that the group spans gives two links, one if it does not
  close to a ring or is used in part.
  """
  chip = places.chip
  members = np.array(group)
  far = len(set(places.domains[members].tolist()))
  near = max(1, len(group) // far)
  first = members[places.domains[members] == places.domains[members[0]]]
  here = places.coordinates[first]
  if not here.shape[1]:
    return near, far, chip.link
  everything = places.coordinates
  links = 0
  for axis in range(here.shape[1]):
    spanned = len(set(here[:, axis].tolist()))
    if spanned > 1:
      extent = everything[:, axis].max() - everything[:, axis].min() + 1
      links += 2 if places.wraps[axis] and spanned == extent else 1
  # Two cores of one chip alone have a faster way; taken as one link.
  return near, far, chip.link * max(links, 1) / _links(chip)


def _links(chip: Chip) -> int:
  """Links of a device; a GPU's are one, as its switch joins all."""
  if chip.platform == "gpu":
    return 1
  return 4 if chip.name in _FLAT else 6


def groups(attributes: str, num_devices: int) -> list[int]:
  """The devices of the first group; all of them if none are given.

  Raises:
    ValueError: the text has groups in a form that is not known.
  """
  begin = attributes.find("replica_groups=")
  if begin < 0:
    return list(range(num_devices))
  text = attributes[begin + len("replica_groups=") :]
  if (iota := _IOTA.match(text)) is not None:
    rows, source, order = (
      [int(n) for n in part.split(",")] if part else None
      for part in iota.groups()
    )
    assert rows and source
    ids = np.arange(math.prod(source)).reshape(source)
    return np.transpose(ids, order).reshape(rows)[0].tolist()
  if (mesh := _MESH.match(text)) is not None:
    return _of_mesh(mesh[1], mesh[2])
  if text.startswith("{}"):
    return list(range(num_devices))
  if (listed := _LIST.match(text)) is not None:
    first = listed[1].split("}")[0].strip("{ ")
    return [int(n) for n in first.split(",")]
  raise ValueError(f"groups of devices in an unknown form: {text[:80]}")


def _of_mesh(axes: str, used: str) -> list[int]:
  """`'data'=8,'model'=2` and `'data'`; a part of an axis is `'data':(2)4`."""
  sizes = {n: int(s) for n, s in re.findall(r"'([^']+)'=(\d+)", axes)}
  names = list(sizes)
  parts = re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", used)
  shape: list[int] = []
  kept: list[int] = []
  for name in names:
    of_axis = [(int(a), int(b)) for n, a, b in parts if n == name and a]
    if any(n == name and not a for n, a, _ in parts):
      kept.append(len(shape))
      shape.append(sizes[name])
    elif of_axis:
      before, size = of_axis[0]
      rest = sizes[name] // (before * size)
      kept.append(len(shape) + 1)
      shape += [before, size, rest]
    else:
      shape.append(sizes[name])
  ids = np.arange(math.prod(shape)).reshape(shape)
  others = [n for n in range(len(shape)) if n not in kept]
  moved = np.transpose(ids, [*others, *kept])
  return moved.reshape(-1, math.prod(shape[n] for n in kept))[0].tolist()
