"""How well the devices are used, MFU and HFU.

MFU is model FLOPs a second over the devices' peak, by two conventions:

  mfu                 attention counts where it is not masked, so that causal
                      attention counts half
  mfu_full_attention  all attention counts in full, as in older publications

HFU counts what is really computed, rematerialization included; see
`traced_flops`.
"""

import dataclasses
import logging
from typing import Any

import jax
from flax import nnx

from t5x_lite import chips, flops, traced_flops

_log = logging.getLogger(__name__)

# FLOP/s of a device, and of what share they are before division by the peak.
_RATES = {
  "teraflops_per_device": "mfu",
  "hardware_teraflops_per_device": "hfu",
}


def peak(device_kind: str) -> float | None:
  """Peak FLOP/s of a `jax.Device.device_kind`; None for an unknown one."""
  chip = chips.of_kind(device_kind)
  return chip.peak if chip else None


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
    """What is known of a step: of the peak, and in 1e12 FLOP/s of a device.

    mfu, mfu_full_attention and hfu; teraflops_per_device and
    hardware_teraflops_per_device, which need no peak.
    """
    counts = {"hfu": self.hardware}
    if self.step is not None:
      counts["mfu"] = self.step.total
      counts["mfu_full_attention"] = self.step.total_full
    devices = (seconds, self.device_kind, self.num_devices)
    found = {n: x and mfu(x, *devices) for n, x in counts.items()}
    for name, source in _RATES.items():
      flops_of_step = counts.get(source)
      if flops_of_step is not None:
        found[name] = flops_of_step / (seconds * self.num_devices * 1e12)
    return {name: value for name, value in found.items() if value is not None}


def of_all_devices(
  model: nnx.Module,
  batch: flops.Shapes,
  program: Any = None,
  num_devices: int | None = None,
  objective: Any = None,
) -> Utilization:
  """Utilization of all devices; says what is unknown of the FLOPs, and why.

  Args:
    model: real or abstract.
    batch: model features of all hosts; only shapes are read.
    program: the training step as traced, a ClosedJaxpr; None for no HFU.
    num_devices: if the run does not use all that there are.
    objective: for which logits are computed.
  """
  step, hardware = None, None
  try:
    step = flops.of_training_step(model, batch, objective)
  except NotImplementedError as error:
    _log.warning("MFU is unknown: %s", error)
  try:
    if program is not None:
      hardware = traced_flops.of_jaxpr(program)
  except NotImplementedError as error:
    _log.warning("HFU is unknown: %s", error)
  kind, count = jax.devices()[0].device_kind, num_devices or jax.device_count()
  return Utilization(step, kind, count, hardware)
