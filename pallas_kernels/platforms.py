"""What kind of device a function is traced for."""

import dataclasses

import jax

# Compute capability by what a GPU's name contains.  Asked only where there is
# no device but its description: compiling ahead of time for another machine.
_CAPABILITIES = {
  "A100": (8, 0),
  "RTX A6000": (8, 6),
  "L4": (8, 9),
  "H100": (9, 0),
  "H200": (9, 0),
  "GH200": (9, 0),
  "B200": (10, 0),
  "GB200": (10, 0),
  "B300": (10, 3),
  "RTX PRO 6000": (12, 0),
}


@dataclasses.dataclass(frozen=True)
class Target:
  """A kind of device.

  Attributes:
    platform: "cpu", "tpu" or "gpu".
    kind: as the runtime names it, such as "TPU v5 lite" or "NVIDIA H200".
    capability: compute capability of an NVIDIA GPU; None for any other device.
  """

  platform: str
  kind: str
  capability: tuple[int, int] | None = None

  @property
  def wgmma(self) -> bool:
    """Whether it has Hopper's matrix instructions."""
    return self.capability is not None and self.capability[0] == 9

  @property
  def tma(self) -> bool:
    """Whether it has Hopper's and Blackwell's copies of tiles."""
    return self.capability is not None and self.capability[0] in (9, 10)


# Implementations of operations that are kernels.  The compiler divides none
# among devices: on several they belong into `jax.shard_map`.
KERNELS = ("mosaic_gpu", "mosaic_tpu", "triton")


def divided() -> bool:
  """Whether the compiler has several devices to divide arrays among.

  Not in `jax.shard_map`, where each device has its own part already.
  """
  mesh = jax.sharding.get_abstract_mesh()
  manual = set(mesh.manual_axes)
  return any(n > 1 for x, n in mesh.shape.items() if x not in manual)


def target() -> Target:
  """The devices of the mesh in scope (`jax.set_mesh`), else the default one.

  A mesh may be of devices that are not here, so that what is compiled for
  another machine is what runs there.
  """
  device = jax.sharding.get_abstract_mesh().abstract_device
  if device is not None:
    return _target(device.platform, device.device_kind, None)
  default = jax.config.jax_default_device  # type: ignore[attr-defined]
  if isinstance(default, str):
    default = jax.devices(default)[0]
  default = default or jax.devices()[0]
  capability = getattr(default, "compute_capability", None)
  return _target(default.platform, default.device_kind, capability)


def _target(platform: str, kind: str, capability: str | None) -> Target:
  platform = {"cuda": "gpu", "rocm": "gpu"}.get(platform, platform)
  if platform != "gpu":
    return Target(platform, kind)
  if capability and capability.replace(".", "").isdigit():
    major, minor = capability.split(".")
    return Target(platform, kind, (int(major), int(minor)))
  names = sorted(_CAPABILITIES, key=len, reverse=True)
  found = (_CAPABILITIES[name] for name in names if name in kind)
  return Target(platform, kind, next(found, None))
