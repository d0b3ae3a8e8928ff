"""Bytes of arrays, which may be abstract, in the memory of one device."""

import math
from typing import Any

import jax
import numpy as np

HOST = "pinned_host"


def on_device(tree: Any) -> int:
  """Bytes that one device holds of a tree of arrays.

  Args:
    tree: arrays or ShapeDtypeStructs; those without a sharding are whole.
  """
  return sum(_part(x) for x in jax.tree.leaves(tree) if not _at_host(x))


def at_host(tree: Any) -> int:
  """Bytes that the host holds of the tree for one device."""
  return sum(_part(x) for x in jax.tree.leaves(tree) if _at_host(x))


def together(tree: Any) -> int:
  """Bytes of the whole arrays, wherever their parts are."""
  leaves = jax.tree.leaves(tree)
  return sum(math.prod(x.shape) * np.dtype(x.dtype).itemsize for x in leaves)


def _part(x: Any) -> int:
  sharding = getattr(x, "sharding", None)
  shape = x.shape if sharding is None else sharding.shard_shape(x.shape)
  return math.prod(shape) * np.dtype(x.dtype).itemsize


def _at_host(x: Any) -> bool:
  sharding = getattr(x, "sharding", None)
  return sharding is not None and sharding.memory_kind == HOST
