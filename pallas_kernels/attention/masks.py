"""All that decides which keys a query sees, in one pytree."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels.attention.patterns import Pattern
from pallas_kernels.attention.tiles import CAUSAL, Tiles, Window


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=["q_segments", "k_segments", "k_prefix", "q_start"],
  meta_fields=["causal", "window", "pattern"],
)
@dataclasses.dataclass(frozen=True, kw_only=True)
class Mask:
  """See the arguments of `pallas_kernels.attention`."""

  causal: bool = False
  window: Window | None = None
  pattern: Pattern | None = None
  q_segments: jax.Array | None = None
  k_segments: jax.Array | None = None
  k_prefix: jax.Array | None = None
  q_start: jax.Array | int = 0

  def visible(self, queries: jax.Array, keys: jax.Array) -> jax.Array | None:
    """Which keys a query sees: bool [1 or B, 1, t, s], or None for all.

    Args:
      queries: [t], indices from 0 on; the segments are those of these queries.
      keys: [s], so are theirs and the prefix.
    """
    queries = self.q_start + queries
    seen = None
    if self.causal:
      seen = CAUSAL.visible(queries, keys)[None, None]
      if self.k_prefix is not None:
        seen = seen | self.k_prefix[:, None, None, :]
    for part in (self.window, self.pattern):
      if part is not None:
        more = part.visible(queries, keys)[None, None]
        seen = more if seen is None else seen & more
    if self.q_segments is not None and self.k_segments is not None:
      same = self.q_segments[:, :, None] == self.k_segments[:, None, :]
      seen = same[:, None] if seen is None else seen & same[:, None]
    return seen

  def seen_tiles(
    self, q_length: int, k_length: int, q_block: int, k_block: int
  ) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (query block, key block) that are seen whatever the data.

    Returns:
      [P 2] and [F 2] int32: those where `visible` must decide on each query
      and key, and those where every query sees every key.
    """
    known = isinstance(self.q_start, int | np.integer)
    start = int(self.q_start) if known else 0
    tiles = Tiles.of(q_length, k_length, q_block, k_block, start)
    some = np.ones((len(tiles.q_first), tiles.k_first.shape[1]), bool)
    every = np.full_like(some, self.q_segments is None)
    # A block that is filled up with padding hides that.
    every[:, -1] &= k_length % k_block == 0
    parts = (CAUSAL if self.causal else None, self.window, self.pattern)
    for part in parts:
      if part is None:
        continue
      every &= known and part.every(tiles)
      if known and not (part is CAUSAL and self.k_prefix is not None):
        some &= part.some(tiles)
    every &= some
    return (
      np.argwhere(some & ~every).astype(np.int32),
      np.argwhere(every).astype(np.int32),
    )

  def padded(
    self, q_length: int, k_length: int, q_block: int, k_block: int
  ) -> "Mask":
    """For lengths filled up to whole blocks; no query sees the keys added.

    They are a segment of their own: a comparison with the length beside one
    of segments takes a CPU as long as all the rest of a block.
    """
    q_more, k_more = -q_length % q_block, -k_length % k_block
    q_segments, k_segments = self.q_segments, self.k_segments
    if k_more and (q_segments is None or k_segments is None):
      q_segments = jnp.zeros((1, q_length), jnp.int32)
      k_segments = jnp.zeros((1, k_length), jnp.int32)

    def fill(x: jax.Array | None, more: int, last: bool) -> jax.Array | None:
      if x is None or not more:
        return x
      value = jnp.iinfo(x.dtype).max if last else 0
      return jnp.pad(x, ((0, 0), (0, more)), constant_values=value)

    return dataclasses.replace(
      self,
      q_segments=fill(q_segments, q_more, False),
      k_segments=fill(k_segments, k_more, True),
      k_prefix=fill(self.k_prefix, k_more, False),
    )

  def cut(
    self, q_first: jax.Array, k_first: jax.Array, q_block: int, k_block: int
  ) -> "Mask":
    """The mask of blocks of queries and keys that begin at these indices."""

    def cut(
      x: jax.Array | None, first: jax.Array, size: int
    ) -> jax.Array | None:
      if x is None:
        return None
      return jax.lax.dynamic_slice_in_dim(x, first, size, axis=1)

    return dataclasses.replace(
      self,
      q_segments=cut(self.q_segments, q_first, q_block),
      k_segments=cut(self.k_segments, k_first, k_block),
      k_prefix=cut(self.k_prefix, k_first, k_block),
    )
