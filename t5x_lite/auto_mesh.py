"""A mesh chosen by the number of devices, their memory and the model.

Candidates stand in order of what they send: the first one that divides model
and batch, and leaves room for activations, is taken.
"""

import dataclasses
import functools
import logging
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import optax
from flax import nnx

from t5x_lite import chips, errors, meshes, sizes
from t5x_lite.partitioning import Partitioner

_log = logging.getLogger(__name__)
_GIB = 2**30
_TENSOR = {
  "heads": "model",
  "kv_heads": "model",
  "mlp": "model",
  "vocab": "model",
}


@dataclasses.dataclass(frozen=True)
class Automatic:
  """Stands where a `Partitioner` stands until the model is known.

  Attributes:
    activations: share of a device's memory that parameters, gradients and
      optimizer leave free, for activations and what the compiler needs.
    tensor_parallel: the most parts that heads, feed-forward width and
      vocabulary are cut in.
    memory: bytes of a device; None is what is known of its kind.
    optimizer_memory: see `Partitioner`; what lies with the host takes no room.
  """

  activations: float = 0.4
  tensor_parallel: int = 8
  memory: float | None = None
  optimizer_memory: str = "device"

  def __post_init__(self) -> None:
    if not 0 <= self.activations < 1:
      raise errors.ConfigError(
        f"Automatic.activations {self.activations} is not in [0, 1)"
      )

  def for_run(
    self,
    model: Callable[..., Any],
    transform: optax.GradientTransformation,
    *,
    batch_size: int = 0,
    num_microbatches: int = 1,
  ) -> Partitioner:
    """The mesh of a run on all devices; the log has the reason.

    Args:
      model: constructor, called with rngs=...
      transform: the optimizer's, whose state is counted.
      batch_size: rows that a mesh must divide; 0 for any.
      num_microbatches: parts of the batch.

    Raises:
      ConfigError: nothing divides the model, or fits.
    """
    abstract = jax.eval_shape(lambda: model(rngs=nnx.Rngs(0)))
    state = jax.eval_shape(transform.init, abstract)
    devices = meshes.devices(None)
    limit, known = self._limit(devices[0])
    refused = []
    for name, candidate in self._candidates(devices):
      try:
        candidate.check(abstract)
        candidate.check_batch(batch_size, num_microbatches)
      except errors.ConfigError as error:
        refused.append(f"{name} does not divide ({error})")
        continue
      need = needed(candidate, abstract, state)
      if need <= limit:
        found = f"{name} {candidate.resolved_shape(len(devices))}"
        because = "; ".join([*refused, f"{name} needs {_gib(need)}"])
        _log.info("auto mesh: %s, because %s (%s)", found, because, known)
        return candidate
      refused.append(f"{name} needs {_gib(need)}")
    raise errors.ConfigError(
      f"no mesh of {len(devices)} devices has room for the model: "
      + "; ".join(refused)
      + f" ({known}): use more devices, or name a mesh file"
    )

  def _limit(self, device: jax.Device) -> tuple[float, str]:
    """Bytes of a device for what a run keeps, and how that is known."""
    chip = chips.of_kind(device.device_kind)
    memory = self.memory or (chip.memory if chip else 0)
    if not memory:
      return math.inf, f"the memory of {device.device_kind!r} is not known"
    limit = (1 - self.activations) * memory
    return limit, (
      f"{_gib(limit)} of a device's {_gib(memory)} are for parameters,"
      " gradients and optimizer"
    )

  def _candidates(
    self, devices: list[jax.Device]
  ) -> Iterator[tuple[str, Partitioner]]:
    made = functools.partial(
      Partitioner, optimizer_memory=self.optimizer_memory
    )
    if len(devices) == 1:
      yield "single", made({"data": 1}, {})
      return
    slices = meshes.num_slices(devices)
    outer = {"slice": slices} if slices > 1 else {}
    batch: dict[str, Any] = {"batch": (*outer, "data")}
    whole, across = {**outer, "data": -1}, tuple(outer)
    embed = {"embed": "data"}
    yield "data", made(whole, batch, across=across)
    yield "zero1", made(whole, batch, optimizer_rules=embed, across=across)
    yield "fsdp", made(whole, batch | embed, across=across)
    size = 2
    while size <= min(self.tensor_parallel, len(devices) // slices):
      shape = {**whole, "model": size}
      rules = batch | embed | _TENSOR
      yield f"two_d by {size}", made(shape, rules, across=across)
      size *= 2


def needed(partitioner: Partitioner, model: Any, opt_state: Any) -> int:
  """Bytes on a device of abstract parameters, gradients and optimizer."""
  parameters = sizes.on_device(partitioner.laid_out(model))
  return 2 * parameters + sizes.on_device(partitioner.kept(opt_state))


def _gib(size: float) -> str:
  return f"{size / _GIB:.2f} GiB"
