"""The chips that can be compiled for, and what their makers say they reach."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Chip:
  """A kind of accelerator.

  Attributes:
    name: what `compile_for` calls it.
    platform: "tpu" or "gpu".
    peak_flops: dense bfloat16 FLOP/s of one jax device with float32 sums.  In
      these topologies a device of TPU v4 and v7x is half a chip, one core.
    flops_per_cycle: of one TPU core in bfloat16, 0 for a GPU.
    topology: what `jax.experimental.topologies` is asked for.
    device: how the CUDA plugin describes the GPU, "" for a TPU.
    capability: compute capability of a GPU, (0, 0) for a TPU.
  """

  name: str
  platform: str
  peak_flops: float
  topology: str
  flops_per_cycle: int = 0
  device: str = ""
  capability: tuple[int, int] = (0, 0)


def _tpu(name: str, peak: float, per_cycle: int, topology: str) -> Chip:
  return Chip(name, "tpu", peak, topology, per_cycle)


def _gpu(
  name: str, peak: float, device: str, capability: tuple[int, int]
) -> Chip:
  one_device = "1x1x1"  # partitions, hosts, devices
  return Chip(name, "gpu", peak, one_device, 0, device, capability)


# Four matrix units of 128 x 128, a multiplication and an addition each:
# 275 TFLOP/s from 2 cores at 1.05 GHz, 197 from 1 core at 1.5 GHz and 459 from
# 2 cores at 1.75 GHz (cloud.google.com/tpu/docs/v4, /v5e, /v5p).
_MXU_128 = 4 * 128 * 128 * 2
# No clock is published for v6e and v7x: 918 TFLOP/s from 1 core and 2307 from
# 2 (cloud.google.com/tpu/docs/v6e, /tpu7x) are this at 1.75 and 2.2 GHz.
_MXU_256 = 4 * 256 * 256 * 2

# GPUs: NVIDIA's data sheets, without sparsity.
CHIPS = {
  chip.name: chip
  for chip in (
    _tpu("v4", 275e12 / 2, _MXU_128, "v4:2x2x1"),
    _tpu("v5e", 197e12, _MXU_128, "v5e:2x2"),
    _tpu("v5p", 459e12, _MXU_128, "v5p:2x2x1"),
    _tpu("v6e", 918e12, _MXU_256, "v6e:2x2"),
    _tpu("v7x", 2307e12 / 2, _MXU_256, "tpu7x:2x2x1"),
    _gpu("A100", 312e12, "NVIDIA A100-SXM4-80GB", (8, 0)),
    _gpu("H100", 989.5e12, "NVIDIA H100 80GB HBM3", (9, 0)),
    _gpu("H200", 989.5e12, "NVIDIA H200 141GB HBM3e", (9, 0)),
    _gpu("B200", 2250e12, "NVIDIA B200", (10, 0)),
    _gpu("RTX PRO 6000", 503.8e12, "NVIDIA RTX PRO 6000 Blackwell", (12, 0)),
  )
}


def chip_named(name: str) -> Chip:
  """Returns the chip.

  Raises:
    ValueError: there is none of this name.
  """
  if name not in CHIPS:
    raise ValueError(f"no chip {name!r}; there are {', '.join(CHIPS)}")
  return CHIPS[name]
