"""What is said of a compiled program: memory, work, exchanges, time.

Everything is of one device, predicted, and JSON if asked.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from t5x_lite import flops, sizes
from t5x_lite.ahead import hlo
from t5x_lite.ahead.collectives import Places
from t5x_lite.ahead.costs import Costs, Exchange, Reckoner
from t5x_lite.ahead.programs import EVAL, TRAIN, Run


@dataclasses.dataclass(frozen=True)
class Memory:
  """Bytes of HBM of one device.

  Attributes:
    parameters: of the model, without the padding of tiles.
    optimizer: its state, likewise.
    carried: what an objective keeps between steps, likewise.
    batch: likewise.
    host: of the optimizer's state, in the host's memory; not a part of `used`.
    arguments: all of these as the compiler lays them out.
    outputs: that are not written over an argument.
    temporaries: activations, gradients and what else is in between.
    code: of the program.
    available: what the chip lets a program have.
  """

  parameters: int
  optimizer: int
  carried: int
  batch: int
  host: int
  arguments: int
  outputs: int
  temporaries: int
  code: int
  available: int

  @property
  def used(self) -> int:
    """Altogether."""
    return self.arguments + self.outputs + self.temporaries + self.code

  @property
  def free(self) -> int:
    """What is left; negative if it does not fit."""
    return self.available - self.used


@dataclasses.dataclass(frozen=True)
class Step:
  """A program of a run, compiled.

  Attributes:
    name: one of `programs.STEPS`.
    num_devices: that it is compiled for.
    memory: of one device.
    flops: of products and kernels, on one device.
    model_flops: a device's share of what the mathematics asks for; attention
      under a causal mask counts half.  0 where it is not reckoned.
    model_flops_full: all attention counted in full.
    bytes: to and from HBM.
    collectives: by kind.
    kernels: calls of Pallas kernels, by name.
    unknown_kernels: those that don't state their FLOPs; the attention and
      states of the model are counted for all of them.
    unknown_loops: loops whose number of turns is assumed, see `Run.search`.
    busy: seconds of computing and of HBM, at the chip's peaks.
    exchanging: seconds of collectives, at the links' peak.
    peak: FLOP/s of the chip.
    compile_seconds: that compiling took here.
  """

  name: str
  num_devices: int
  memory: Memory
  flops: float
  model_flops: float
  model_flops_full: float
  bytes: float
  collectives: Mapping[str, Exchange]
  kernels: Mapping[str, float]
  unknown_kernels: float
  unknown_loops: int
  busy: float
  exchanging: float
  peak: float
  compile_seconds: float

  @property
  def seconds_hidden(self) -> float:
    """If exchanges run beside computing: no step can be faster."""
    return max(self.busy, self.exchanging)

  @property
  def seconds_exposed(self) -> float:
    """If nothing is computed during exchanges."""
    return self.busy + self.exchanging

  def mfu(self, seconds: float, *, full: bool = False) -> float:
    """Of a step that takes so long."""
    model = self.model_flops_full if full else self.model_flops
    return model / (seconds * self.peak)

  def as_json(self) -> dict[str, Any]:
    """All of it, with what follows from it."""
    found = dataclasses.asdict(self)
    found["memory"] |= {"used": self.memory.used, "free": self.memory.free}
    found["seconds"] = {
      "exchanges_hidden": self.seconds_hidden,
      "exchanges_exposed": self.seconds_exposed,
    }
    if self.model_flops:
      found["predicted_mfu"] = {
        "exchanges_hidden": self.mfu(self.seconds_hidden),
        "exchanges_exposed": self.mfu(self.seconds_exposed),
        "full_attention_hidden": self.mfu(self.seconds_hidden, full=True),
        "full_attention_exposed": self.mfu(self.seconds_exposed, full=True),
      }
    return found

  @classmethod
  def from_json(cls, found: Mapping[str, Any]) -> "Step":
    """The inverse of `as_json`."""
    values = {
      field.name: found[field.name] for field in dataclasses.fields(cls)
    }
    memory = {
      f.name: values["memory"][f.name] for f in dataclasses.fields(Memory)
    }
    values["memory"] = Memory(**memory)
    values["collectives"] = {
      kind: Exchange(**one) for kind, one in values["collectives"].items()
    }
    return cls(**values)


def of(
  run: Run,
  name: str,
  compiled: jax.stages.Compiled,
  places: Places,
  compile_seconds: float,
) -> Step:
  """Reads a compiled step."""
  mesh = run.trainer.partitioner.mesh
  trips = 1 if name in (TRAIN, EVAL) else run.search.max_length
  program = hlo.read(compiled.as_text() or "")
  costs = Reckoner(program, places, trips).costs()
  counted = _model_flops(run, name)
  share = 1 / mesh.size
  _add_unknown(costs, counted, places, share)
  return Step(
    name=name,
    num_devices=mesh.size,
    memory=memory(run, name, compiled, places.chip.memory),
    flops=costs.flops,
    model_flops=counted.total * share,
    model_flops_full=counted.total_full * share,
    bytes=costs.bytes,
    collectives=costs.collectives,
    kernels=costs.kernels,
    unknown_kernels=costs.unknown_kernels,
    unknown_loops=costs.unknown_loops,
    busy=costs.busy,
    exchanging=costs.exchange_seconds,
    peak=places.chip.peak,
    compile_seconds=compile_seconds,
  )


def _model_flops(run: Run, name: str) -> flops.Flops:
  if name not in (TRAIN, EVAL):
    return flops.Flops()
  model = run.trainer.abstract.model
  try:
    once = flops.of_forward_pass(model, run.batch, run.objective)
  except NotImplementedError:
    return flops.Flops()
  return once * 3 if name == TRAIN else once


def _add_unknown(
  costs: Costs, counted: flops.Flops, places: Places, share: float
) -> None:
  """Counts for kernels that don't say: what the model asks of all of them."""
  if not costs.unknown_kernels:
    return
  missing = (counted.attention + counted.states) * share
  costs.flops += missing
  costs.busy += missing / places.chip.peak


def memory(
  run: Run, name: str, compiled: jax.stages.Compiled, available: int
) -> Memory:
  """What the compiler says that the program needs, and of what."""
  found: Any = compiled.memory_analysis()
  assert found is not None, "the compiler gives no memory analysis"
  state = run.trainer.abstract
  training = name == TRAIN
  return Memory(
    parameters=sizes.on_device(state.model),
    optimizer=sizes.on_device(state.opt_state) if training else 0,
    carried=sizes.on_device(state.carried) if training else 0,
    batch=sizes.on_device(run.batch) if name in (TRAIN, EVAL) else 0,
    host=sizes.at_host(state.opt_state) if training else 0,
    arguments=found.argument_size_in_bytes,
    outputs=found.output_size_in_bytes - found.alias_size_in_bytes,
    temporaries=found.temp_size_in_bytes,
    code=found.generated_code_size_in_bytes,
    available=available,
  )
