"""Blocks of queries by blocks of keys, and how much of each is seen.

What a mask hides whatever the data is known before anything is traced, in
NumPy, and no time is spent on it.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Tiles(NamedTuple):
  """Rectangles of positions, first and last included.

  Attributes:
    q_first: [I 1] int.
    q_last: [I 1].
    k_first: [1 J].
    k_last: [1 J].
  """

  q_first: np.ndarray
  q_last: np.ndarray
  k_first: np.ndarray
  k_last: np.ndarray

  @classmethod
  def of(
    cls,
    q_length: int,
    k_length: int,
    q_block: int,
    k_block: int,
    q_start: int = 0,
  ) -> "Tiles":
    """Those of queries from `q_start` on and keys from 0 on."""
    q = np.arange(0, q_length, q_block)[:, None]
    k = np.arange(0, k_length, k_block)[None, :]
    return cls(
      q_start + q,
      q_start + np.minimum(q + q_block, q_length) - 1,
      k,
      np.minimum(k + k_block, k_length) - 1,
    )


@dataclasses.dataclass(frozen=True)
class Window:
  """Distances key - query that are seen: from -left to right.

  Attributes:
    left: None for no limit.
    right: None for no limit.
  """

  left: int | None
  right: int | None

  def visible(self, queries: jax.Array, keys: jax.Array) -> jax.Array:
    """Bool [t s] for positions [t] and [s]."""
    queries, keys = queries[:, None], keys[None, :]
    seen = jnp.ones((queries.size, keys.size), bool)
    if self.right is not None:
      seen = seen & (queries + self.right >= keys)
    if self.left is not None:
      seen = seen & (keys + self.left >= queries)
    return seen

  def some(self, tiles: Tiles) -> np.ndarray:
    """[I J], whether any pair of a tile is seen."""
    return self._within(
      tiles.k_first - tiles.q_last, tiles.k_last - tiles.q_first
    )

  def every(self, tiles: Tiles) -> np.ndarray:
    """[I J], whether all pairs of a tile are seen."""
    return self._within(
      tiles.k_last - tiles.q_first, tiles.k_first - tiles.q_last
    )

  def _within(self, smallest: np.ndarray, greatest: np.ndarray) -> np.ndarray:
    """Whether `smallest` is not beyond right, nor `greatest` beyond left."""
    seen = np.ones(smallest.shape, bool)
    if self.right is not None:
      seen &= smallest <= self.right
    if self.left is not None:
      seen &= greatest >= -self.left
    return seen


CAUSAL = Window(None, 0)
