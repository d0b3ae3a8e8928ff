"""The one place that knows how jax 0.10-0.12 and flax 0.12 differ."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx


def make_mesh(
  shape: Mapping[str, int], devices: list[jax.Device] | None = None
) -> jax.sharding.Mesh:
  """A mesh with automatic axes; jax now makes explicit ones by default."""
  return jax.make_mesh(
    tuple(shape.values()),
    tuple(shape),
    axis_types=(jax.sharding.AxisType.Auto,) * len(shape),
    devices=devices,
  )


def mesh_of(array: np.ndarray, names: Iterable[str]) -> jax.sharding.Mesh:
  """A mesh with automatic axes of devices in its shape."""
  axes = tuple(names)
  return jax.sharding.Mesh(
    array, axes, axis_types=(jax.sharding.AxisType.Auto,) * len(axes)
  )


def is_variable(x: Any) -> bool:
  """Whether x is a Flax variable (a Param, say): a leaf with metadata."""
  return isinstance(x, nnx.Variable)


def axes_of(variable: nnx.Variable) -> tuple[str | None, ...]:
  """The logical axes that `layers.linear.param` gave the variable."""
  return tuple(variable.get_metadata("axes"))
