"""Which device stands where in a mesh.

Devices of one slice (a TPU pod slice; hosts of GPUs) talk over fast links,
slices over the data center's network.  A mesh axis lies within slices, or it
is one of those `across` them, over which little should be sent.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils

from t5x_lite import compat, errors, machine


def resolved(shape: Mapping[str, int], num_devices: int) -> dict[str, int]:
  """The mesh shape for so many devices, -1 filled in."""
  known = math.prod(size for size in shape.values() if size != -1)
  full = {
    axis: num_devices // known if size == -1 else size
    for axis, size in shape.items()
  }
  if math.prod(full.values()) != num_devices:
    raise errors.ConfigError(
      f"mesh {dict(shape)} needs {known} devices (or a multiple,"
      f" with -1) but there are {num_devices}; change the mesh file or"
      " Partitioner.mesh_shape"
    )
  return full


def devices(count: int | None) -> list[Any]:
  """The first `count` devices of the run; None is all."""
  every = machine.devices()
  count = count or len(every)
  if count > len(every):
    raise errors.ConfigError(
      f"num_devices is {count} but there are {len(every)} devices"
    )
  if count < len(every) and jax.process_count() > 1:
    raise errors.ConfigError(
      f"num_devices {count} leaves some of the {jax.process_count()}"
      " processes without a device: only a run of one process can use fewer"
      f" than all {len(every)} devices"
    )
  return every[:count]


def make(
  shape: Mapping[str, int],
  devices: Sequence[Any],
  across: Sequence[str] = (),
) -> jax.sharding.Mesh:
  """A mesh of these devices, as many as its shape has places.

  Args:
    shape: axis name -> size.
    devices: of one kind.
    across: axes that cross slices; the others lie within one.

  Raises:
    ConfigError: the slices are not as many as the axes across them say.
  """
  _check(shape, devices, across)
  return compat.mesh_of(arranged(shape, devices, across), shape)


def arranged(
  shape: Mapping[str, int], devices: Sequence[Any], across: Sequence[str]
) -> np.ndarray:
  """Devices in the mesh's shape, each slice at one place of `across`."""
  # The axes of a slice need not be those of its torus.
  split = {"allow_split_physical_axes": True}
  outer = [size if axis in across else 1 for axis, size in shape.items()]
  inner = [1 if axis in across else size for axis, size in shape.items()]
  if num_slices(devices) > 1 and across:
    return mesh_utils.create_hybrid_device_mesh(
      inner,
      outer,
      devices,
      process_is_granule=not _have_slices(devices),
      **split,
    )
  if not across or devices[0].platform != "cpu":
    sizes = tuple(shape.values())
    return mesh_utils.create_device_mesh(sizes, list(devices), **split)
  # For rehearsals: the first devices are the first slice.
  array = np.array(devices).reshape(*outer, *inner)
  ndim = len(shape)
  pairs = [axis for i in range(ndim) for axis in (i, ndim + i)]
  return array.transpose(pairs).reshape(tuple(shape.values()))


def num_slices(devices: Sequence[Any]) -> int:
  """How many slices, or hosts of GPUs, these devices are in."""
  return len(_slices(devices))


def _check(
  shape: Mapping[str, int], devices: Sequence[Any], across: Sequence[str]
) -> None:
  expected = math.prod(shape[axis] for axis in across)
  found = num_slices(devices)
  platform = devices[0].platform
  if found == 1 and (platform == "cpu" or not across):
    return
  if not across:
    # Hosts of GPUs may stand in any order; TPUs of several slices not.
    if platform != "tpu" or not _have_slices(devices):
      return
    raise errors.ConfigError(
      f"the {len(devices)} devices are in {found} slices, and no mesh axis is"
      " said to cross them: use meshes/multislice.gin, or name the axes in"
      " Partitioner.across"
    )
  if found != expected:
    names = ", ".join(f"{axis!r}: {shape[axis]}" for axis in across)
    raise errors.ConfigError(
      f"the mesh axes across slices ({names}) make {expected}, but the"
      f" {len(devices)} devices are in {found}: set their sizes (NUM_SLICES in"
      f" meshes/multislice.gin) to make {found}"
    )


def _have_slices(devices: Sequence[Any]) -> bool:
  return len({getattr(d, "slice_index", 0) for d in devices}) > 1


def _slices(devices: Sequence[Any]) -> set[int]:
  """What tells the slices apart; hosts, where GPUs know of none."""
  if devices[0].platform == "cpu":
    return {0}
  if _have_slices(devices):
    return {d.slice_index for d in devices}
  if devices[0].platform == "tpu":
    return {0}
  return {d.process_index for d in devices}
