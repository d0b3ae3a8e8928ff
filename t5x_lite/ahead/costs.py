"""What a compiled program does on one device: FLOPs, bytes, exchanges, time.

XLA's own cost analysis counts the body of a loop once; here it counts as often
as it runs.  FLOPs are those of matrix products, and of Pallas kernels as they
state them.
"""

import collections
import dataclasses
import re
from collections.abc import Iterator

from t5x_lite.ahead import hlo, products, traffic
from t5x_lite.ahead.collectives import (
  Collective,
  Places,
  collective,
  kind_of,
)

# How Pallas's calls are named by the compilers.
KERNELS = (
  "tpu_custom_call",
  "mosaic_gpu",
  "triton_kernel_call",
  "xla.gpu.triton",
)
_FUSIONS = ("fusion", "fusion-start")
_ESTIMATE = re.compile(
  r'"cost_estimate":\{"flops":"?(\d+).*?"bytes_accessed":"?(\d+)'
)
_TARGET = re.compile(r'custom_call_target="([^"]*)"')


@dataclasses.dataclass
class Costs:
  """Of one device.

  Attributes:
    flops: of products and kernels.
    bytes: to and from HBM.
    busy: seconds in which neither FLOPs nor bytes could be done faster, each
      instruction on its own; what runs beside others adds its bytes alone.
    collectives: kind -> how many, bytes sent, seconds.
    kernels: name of a Pallas kernel -> how many calls.
    unknown_kernels: calls of kernels that don't state what they cost.
    unknown_loops: loops that count as often as `assumed_trips`.
  """

  flops: float = 0.0
  bytes: float = 0.0
  busy: float = 0.0
  collectives: dict[str, "Exchange"] = dataclasses.field(default_factory=dict)
  kernels: dict[str, float] = dataclasses.field(default_factory=dict)
  unknown_kernels: float = 0.0
  unknown_loops: int = 0

  @property
  def exchange_seconds(self) -> float:
    """Of all collectives, one after the other."""
    return sum(one.seconds for one in self.collectives.values())


@dataclasses.dataclass
class Exchange:
  """All collectives of one kind."""

  times: float = 0.0
  sent: float = 0.0
  sent_far: float = 0.0
  seconds: float = 0.0

  def add(self, one: Collective, times: float) -> None:
    self.times += times
    self.sent += one.sent * times
    self.sent_far += one.sent_far * times
    self.seconds += one.seconds * times


@dataclasses.dataclass(frozen=True)
class Reckoner:
  """From a program to its costs.

  Attributes:
    program: compiled.
    places: of its devices.
    assumed_trips: how often loops run of which that is not known.
  """

  program: hlo.Program
  places: Places
  assumed_trips: int = 1

  def costs(self) -> Costs:
    """Of the whole program."""
    total = Costs()
    self._add(total, self.program.computations[self.program.entry], 1.0)
    total.busy = max(total.busy, total.bytes / self.places.chip.bandwidth)
    return total

  def _add(self, total: Costs, part: hlo.Computation, times: float) -> None:
    channels: set[str] = set()
    for one in part.instructions.values():
      if one.opcode == "while":
        self._add_loop(total, one, times)
      elif one.opcode in ("call", "async-start"):
        for name in one.called:
          self._add(total, self.program.computations[name], times)
      elif one.opcode == "conditional":
        branches = [self._alone(name) for name in one.called]
        if branches:
          _join(total, max(branches, key=lambda costs: costs.busy), times)
      else:
        self._add_one(total, part, one, times, channels)

  def _alone(self, name: str) -> Costs:
    costs = Costs()
    self._add(costs, self.program.computations[name], 1.0)
    return costs

  def _add_loop(
    self, total: Costs, loop: hlo.Instruction, times: float
  ) -> None:
    trips = self.program.trips(loop)
    if trips is None:
      total.unknown_loops += 1
      trips = self.assumed_trips
    body = loop.attribute(r"\bbody=%?([\w.$-]+)")
    assert body is not None, f"{loop.name}: a loop without a body"
    self._add(total, self.program.computations[body], times * trips)

  def _add_one(
    self,
    total: Costs,
    part: hlo.Computation,
    one: hlo.Instruction,
    times: float,
    channels: set[str],
  ) -> None:
    for exchange in self._leaves(one):
      kind = kind_of(exchange)
      if kind is None:
        continue
      if exchange is not one and "reduce-scatter" in one.called[0]:
        kind = "reduce-scatter"  # as the compiler for TPUs writes it
      # The compiler for TPUs spreads one over many fusions, to hide it: all of
      # them have its channel.
      channel = exchange.attribute(r"\bchannel_id=(\d+)")
      if channel is None or channel not in channels:
        found = collective(exchange, kind, self.places)
        entry = total.collectives.setdefault(kind, Exchange())
        entry.add(found, times)
      if channel is not None:
        channels.add(channel)
    moved = traffic.moved(self.program, part, one)
    if kind_of(one) is not None:
      total.bytes += moved * times
      return
    flops = self._flops(part, one)
    for call in self._leaves(one):
      if call.opcode == "custom-call" and (name := _kernel(call)):
        total.kernels[name] = total.kernels.get(name, 0.0) + times
        estimate = _ESTIMATE.search(call.attributes)
        if estimate:
          flops, moved = flops + float(estimate[1]), float(estimate[2])
        else:
          total.unknown_kernels += times
    chip = self.places.chip
    total.flops += flops * times
    total.bytes += moved * times
    if not one.opcode.endswith("-start"):
      total.busy += max(flops / chip.peak, moved / chip.bandwidth) * times

  def _flops(self, part: hlo.Computation, one: hlo.Instruction) -> float:
    if one.opcode in _FUSIONS:
      inside = self.program.computations[one.called[0]]
      return sum(self._flops(inside, x) for x in inside.instructions.values())
    return products.flops(part, one)

  def _leaves(self, one: hlo.Instruction) -> Iterator[hlo.Instruction]:
    """The instruction, or those of a fusion."""
    if one.opcode in _FUSIONS:
      inside = self.program.computations[one.called[0]]
      for x in inside.instructions.values():
        yield from self._leaves(x)
    else:
      yield one


def _join(total: Costs, part: Costs, times: float) -> None:
  total.flops += part.flops * times
  total.bytes += part.bytes * times
  total.busy += part.busy * times
  total.unknown_kernels += part.unknown_kernels * times
  total.unknown_loops += part.unknown_loops
  for kind, exchange in part.collectives.items():
    mine = total.collectives.setdefault(kind, Exchange())
    for field in dataclasses.fields(Exchange):
      value = getattr(exchange, field.name) * times
      setattr(mine, field.name, getattr(mine, field.name) + value)
  names = collections.Counter(part.kernels)
  for name, calls in names.items():
    total.kernels[name] = total.kernels.get(name, 0.0) + calls * times


def _kernel(one: hlo.Instruction) -> str | None:
  """The name of a Pallas kernel, without its number; None for other calls."""
  target = _TARGET.search(one.attributes)
  if not target or not any(name in target[1] for name in KERNELS):
    return None
  path = one.attribute(r'op_name="([^"]*)"') or one.name
  words = [w for w in path.split("/") if w not in ("pallas_call", "mpmd_map")]
  return re.sub(r"[.\d]+$", "", words[-1])
