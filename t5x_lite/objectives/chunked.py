"""Cross-entropy of some positions at a time: logits [B L V] never exist.

The loss of a position needs its own logits only.  A scan makes them for some
positions of every row, and the backward pass makes them again, one matmul of
the head more in exchange for its largest arrays.

Under a mesh every device scans over rows and positions of its own, and the
gradients of the head are summed over devices once, after the scan.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from t5x_lite import errors, losses, rules


def check(owner: Any, **settings: int | None) -> None:
  """Raises ConfigError unless each is None or a positive number."""
  for name, value in settings.items():
    if value is not None and value < 1:
      raise errors.ConfigError(
        f"{type(owner).__name__}.{name} is {value}; use 1 or more, or None"
      )


def cross_entropy(
  readout: jax.tree_util.Partial,
  x: jax.Array,
  targets: jax.Array,
  *,
  chunk: int | None,
  z_loss: float = 0.0,
  label_smoothing: float = 0.0,
) -> losses.TokenLosses:
  """`losses.cross_entropy` of readout(x), whose logits need not exist at once.

  Args:
    readout: from [B L D] to float32 logits [B L V], each position by itself.
    x: [B L D].
    targets: [B L] int.
    chunk: positions of each row whose logits exist at a time; None is all.
    z_loss: see `losses.cross_entropy`.
    label_smoothing: likewise.
  """
  run = functools.partial(
    _in_chunks, z_loss=z_loss, label_smoothing=label_smoothing
  )
  length = targets.shape[1]
  if chunk is None or chunk >= length:
    return run(readout, x, targets, chunk=length)
  by_dimension = [
    rules.mesh_axes(name) if rules.parts(name, size) > 1 else ()
    for name, size in zip(("batch", "length"), targets.shape, strict=True)
  ]
  axes = {axis for names in by_dimension for axis in names}
  parts = rules.parts("length", length)
  run = functools.partial(run, chunk=-(-chunk // parts))
  if not axes:
    return run(readout, x, targets)

  def local(*args: Any) -> losses.TokenLosses:
    with rules.without(axes):
      return run(*args)

  rows = PartitionSpec(*(names or None for names in by_dimension))
  divide = jax.shard_map(
    local,
    in_specs=(PartitionSpec(), rows, rows),
    out_specs=rows,
    axis_names=axes,
    check_vma=False,
  )
  return divide(readout, x, targets)


def _in_chunks(
  readout: jax.tree_util.Partial,
  x: jax.Array,
  targets: jax.Array,
  *,
  chunk: int,
  **settings: float,
) -> losses.TokenLosses:
  size, length = targets.shape
  count = -(-length // chunk)

  def one(x: jax.Array, targets: jax.Array) -> losses.TokenLosses:
    return losses.cross_entropy(readout(x), targets, **settings)

  if count <= 1:
    return one(x, targets)
  each = -(-length // count)

  def split(y: jax.Array) -> jax.Array:
    padding = ((0, 0), (0, count * each - length), *((0, 0),) * (y.ndim - 2))
    y = jnp.pad(y, padding).reshape(size, count, each, *y.shape[2:])
    return jnp.swapaxes(y, 0, 1)

  def join(y: jax.Array) -> jax.Array:
    return jnp.swapaxes(y, 0, 1).reshape(size, -1)[:, :length]

  one = jax.checkpoint(one, prevent_cse=False)
  parts = jax.lax.map(lambda pair: one(*pair), (split(x), split(targets)))
  return jax.tree.map(join, parts)
