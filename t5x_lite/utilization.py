"""How well the devices are used, MFU and HFU.

MFU is model FLOPs a second over the devices' peak, by two conventions:

  mfu                 causal attention counts half, since half of it is masked
  mfu_full_attention  all attention counts in full, as in older publications

HFU counts what is really computed, rematerialization included; see
`traced_flops`.
"""

import dataclasses
import logging

import jax
from flax import nnx

from t5x_lite import chips, flops

_log = logging.getLogger(__name__)


def peak(device_kind: str) -> float | None:
  """Peak FLOP/s of a `jax.Device.device_kind`; None for an unknown one."""
  chip = chips.of_kind(device_kind)
  return chip and chip.peak


def mfu(
  model_flops: float, seconds: float, device_kind: str, num_devices: int
) -> float | None:
  """Model FLOPs of a step over what the devices could do in its time."""
  limit = peak(device_kind)
  return limit and model_flops / (seconds * limit * num_devices)


@dataclasses.dataclass(frozen=True)
class Utilization:
  """From the time of a step to what is reported of it.

  Attributes:
    step: model FLOPs of a training step; None if they are not known.
    device_kind: of the devices, all of one kind.
    num_devices: of all hosts.
    hardware: FLOPs that are really computed in a step, for HFU.
  """

  step: flops.Flops | None
  device_kind: str
  num_devices: int
  hardware: float | None = None

  def __call__(self, seconds: float) -> dict[str, float]:
    """What is known of: mfu, mfu_full_attention, hfu, teraflops_per_device."""
    if self.step is None:
      return {}
    devices = (seconds, self.device_kind, self.num_devices)
    shares = {
      "mfu": mfu(self.step.total, *devices),
      "mfu_full_attention": mfu(self.step.total_full, *devices),
      "hfu": self.hardware and mfu(self.hardware, *devices),
    }
    known = {name: share for name, share in shares.items() if share is not None}
    rate = self.step.total / (seconds * self.num_devices * 1e12)
    return known | {"teraflops_per_device": rate}


def of_all_devices(
  model: nnx.Module, batch: flops.Shapes, hardware: float | None = None
) -> Utilization:
  """Utilization of all devices; says so if the model's FLOPs are unknown."""
  try:
    step = flops.of_training_step(model, batch)
  except NotImplementedError as error:
    _log.warning("MFU is unknown: %s", error)
    step = None
  device = jax.devices()[0]
  return Utilization(step, device.device_kind, jax.device_count(), hardware)
