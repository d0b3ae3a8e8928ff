"""Kernels on a mesh: each device works on its rows and heads, or channels.

The compiler divides jnp by itself, but does not look into a kernel, and would
gather all that it reads.  No row and no head needs another, so that nothing is
exchanged; a length that is divided among devices is gathered.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

import pallas_kernels
from pallas_kernels import platforms
from t5x_lite import rules


def attention(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  *,
  key: jax.Array | None = None,
  implementation: str | None = None,
  **arguments: Any,
) -> jax.Array:
  """`pallas_kernels.attention`, divided by the rules of "batch" and "heads"."""
  run = functools.partial(
    pallas_kernels.attention, implementation=implementation
  )
  if not _by_device(implementation):
    return run(q, k, v, key=key, **arguments)
  batch, heads = _axes("batch", q.shape[0]), _axes("heads", q.shape[2])
  if k.shape[2] % _size(heads):
    # A device's query heads must find the key heads that they read.
    k, v = (jnp.repeat(x, q.shape[2] // k.shape[2], axis=2) for x in (k, v))
  rows = PartitionSpec(batch)
  specs = {
    "q_segments": rows,
    "k_segments": rows,
    "k_prefix": rows,
    "relative_bias": PartitionSpec(None, heads),
  }
  arrays = {
    name: arguments.pop(name)
    for name in (*specs, "bias")
    if arguments.get(name) is not None
  }
  if "bias" in arrays:
    whole = (batch, heads, None, None)
    specs["bias"] = PartitionSpec(
      *(
        None if size == 1 else axes
        for size, axes in zip(arrays["bias"].shape, whole, strict=True)
      )
    )
  total = q.shape[2]

  def local(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    key: jax.Array | None,
    arrays: dict[str, Any],
  ) -> jax.Array:
    first_row = _index(batch) * q.shape[0]
    first_head = _index(heads) * q.shape[2]
    place = first_row, first_head, total
    return run(q, k, v, key=key, place=place, **arrays, **arguments)

  divided = PartitionSpec(batch, None, heads)
  kv = divided if k.shape[2] > 1 else rows
  divide = jax.shard_map(
    local,
    in_specs=(
      *(divided, kv, kv, PartitionSpec()),
      {name: specs[name] for name in arrays},
    ),
    out_specs=divided,
    check_vma=False,
  )
  return divide(q, k, v, key, arrays)


def selective_scan(
  x: jax.Array,
  dt: jax.Array,
  a: jax.Array,
  b: jax.Array,
  c: jax.Array,
  *,
  implementation: str | None = None,
  **arguments: Any,
) -> tuple[jax.Array, jax.Array]:
  """`pallas_kernels.selective_scan`, divided by the rules of "batch", "mlp"."""
  run: Callable[..., Any] = functools.partial(
    pallas_kernels.selective_scan, implementation=implementation
  )
  if arguments.get("shards", 1) > 1 or not _by_device(implementation):
    return run(x, dt, a, b, c, **arguments)
  batch, width = _axes("batch", x.shape[0]), _axes("mlp", x.shape[2])
  channels, rows = PartitionSpec(width), PartitionSpec(batch)
  both = PartitionSpec(batch, None, width)
  specs = {
    "d": channels,
    "z": both,
    "dt_bias": channels,
    "initial": PartitionSpec(batch, width),
    "resets": rows,
  }
  arrays = {
    name: arguments.pop(name)
    for name in specs
    if arguments.get(name) is not None
  }
  divide = jax.shard_map(
    lambda inputs, arrays: run(*inputs, **arrays, **arguments),
    in_specs=(
      (both, both, channels, rows, rows),
      {name: specs[name] for name in arrays},
    ),
    out_specs=(both, PartitionSpec(batch, width)),
    check_vma=False,
  )
  return divide((x, dt, a, b, c), arrays)


def _by_device(implementation: str | None) -> bool:
  """Whether a kernel may run, and there is more than one device."""
  if not platforms.divided():
    return False
  if implementation is None:
    return platforms.target().platform != "cpu"
  return implementation in pallas_kernels.KERNELS


def _axes(name: str, size: int) -> tuple[str, ...] | None:
  """Mesh axes for a dimension; None where they do not divide it."""
  divided = rules.parts(name, size) > 1
  return rules.mesh_axes(name) if divided else None


def _size(axes: tuple[str, ...] | None) -> int:
  mesh = jax.sharding.get_abstract_mesh()
  return math.prod(mesh.shape[axis] for axis in axes or ())


def _index(axes: tuple[str, ...] | None) -> jax.Array | int:
  """Number of this device's part of a dimension."""
  return jax.lax.axis_index(axes) if axes else 0
