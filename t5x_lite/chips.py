"""What accelerators are said to reach: one table for all that reckons with it.

All figures are of what JAX calls one device: a chip, or one of the two cores
of TPU v2, v3 and v7x, which appear as devices of their own.

Sources:
  TPUs: cloud.google.com/tpu/docs, the page of each version: peak compute, HBM
    bandwidth, bidirectional ICI and data center bandwidth of a chip, of which
    half is one direction.  v4: Jouppi et al. 2023, "TPU v4", table 4: six links
    of 50 GB/s; its network as that of v5p.  `memory` is what libtpu 0.0.51
    lets a program have, a little less than there is (its message on too large
    a program).
  GPUs: NVIDIA's data sheets of A100, H100, H200, HGX B200 and GB200 NVL72, peak
    halved where given with sparsity; `memory` as described by the CUDA plugin
    of jax 0.12.  Between hosts one InfiniBand port a GPU, as in NVIDIA's DGX
    reference architectures: 200, 400, 400 and 400 Gbit/s.
"""

import dataclasses
import re

_GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
  """A kind of accelerator; the figures are of one JAX device.

  Attributes:
    name: such as "v5e" or "H100".
    kinds: pattern of the `jax.Device.device_kind`s that it goes by.
    platform: "tpu" or "gpu".
    peak: dense bfloat16 FLOP/s.
    memory: bytes of HBM that a program can have; 0 if not known.
    bandwidth: bytes/s of HBM; 0 if not known.
    link: bytes/s that leave the device for others of its slice (ICI) or host
      (NVLink), over all links together, in one direction; 0 if not known.
    network: bytes/s that leave it for other slices or hosts; 0 if not known.
    domain: devices that `link` joins: a pod's, or a host's; 0 if not known.
  """

  name: str
  kinds: str
  platform: str
  peak: float
  memory: int = 0
  bandwidth: float = 0.0
  link: float = 0.0
  network: float = 0.0
  domain: int = 0


def _tpu(
  name: str,
  kinds: str,
  teraflops: float,
  gib: float,
  gigabytes: float,
  link: float,
  network: float,
  domain: int,
) -> Chip:
  return Chip(
    name,
    kinds,
    "tpu",
    teraflops * 1e12,
    int(gib * _GIB),
    gigabytes * 1e9,
    link * 1e9,
    network * 1e9,
    domain,
  )


def _gpu(
  name: str,
  kinds: str,
  teraflops: float,
  memory: int,
  gigabytes: float,
  link: float,
  network: float,
) -> Chip:
  return Chip(
    name,
    kinds,
    "gpu",
    teraflops * 1e12,
    memory,
    gigabytes * 1e9,
    link * 1e9,
    network * 1e9,
    8,
  )


_TABLE = (
  Chip("v2", r"TPU v2", "tpu", 45e12 / 2),
  Chip("v3", r"TPU v3", "tpu", 123e12 / 2),
  _tpu("v4", r"TPU v4", 275, 30.75, 1200, 300, 6.25, 4096),
  _tpu("v5e", r"TPU v5( lite|e)", 197, 15.75, 819, 200, 3.125, 256),
  _tpu("v5p", r"TPU v5p?", 459, 95.73, 2765, 600, 6.25, 8960),
  _tpu("v6e", r"TPU v6( lite|e)", 918, 31.24, 1600, 400, 12.5, 256),
  # Half a chip: 2307 TFLOP/s, 192 GiB, 7380 GB/s, 1200 GB/s both ways.
  _tpu("v7x", r"TPU7x", 2307 / 2, 94.74, 7380 / 2, 300, 6.25, 2 * 9216),
  _gpu(
    "A100",
    r"NVIDIA A100-SXM4-80GB",
    312,
    85_100_068_864,
    2039,
    300,
    25,
  ),
  Chip(
    "A100 PCIe or 40GB",
    r"NVIDIA A100-(SXM4|PCIE)-(40|80)GB|NVIDIA A100 80GB PCIe",
    "gpu",
    312e12,
  ),
  _gpu(
    "H100", r"NVIDIA H100( 80GB HBM3)?", 989.5, 84_942_979_072, 3352, 450, 50
  ),
  Chip("H100 PCIe", r"NVIDIA H100 PCIe", "gpu", 756.5e12),
  Chip("H100 NVL", r"NVIDIA H(100|200) NVL", "gpu", 835.5e12),
  _gpu(
    "H200",
    r"NVIDIA H200( 141GB HBM3e)?|NVIDIA GH200 .*",
    989.5,
    151_397_597_184,
    4800,
    450,
    50,
  ),
  _gpu("B200", r"NVIDIA B200", 2250, 191_514_411_008, 7672, 900, 50),
  Chip("GB200", r"NVIDIA GB200", "gpu", 2500e12),
)
# Those whose memory and links are known, by name: what can be compiled for.
CHIPS = {chip.name: chip for chip in _TABLE if chip.memory}


def of_kind(device_kind: str) -> Chip | None:
  """The chip of a `jax.Device.device_kind`; None for an unknown one."""
  for chip in _TABLE:
    if re.fullmatch(chip.kinds, device_kind):
      return chip
  return None
