"""Sparse masks that depend on positions alone: Longformer's, BigBird's, any."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels.attention.tiles import Tiles, Window


@dataclasses.dataclass(frozen=True)
class Pattern:
  """Which keys a query may see: the union of three parts, each optional.

  Positions count from the beginning of a row, packed or not.

  Attributes:
    window: (left, right), how far before and after itself a query sees.
    global_tokens: so many of the first tokens see all and are seen by all.
    blocks: for each block of queries the numbers of the blocks of keys that
      it sees; it must have all blocks of the queries.
    size: tokens of a block.
  """

  window: tuple[int, int] | None = None
  global_tokens: int = 0
  blocks: tuple[tuple[int, ...], ...] = ()
  size: int = 1

  def __post_init__(self):
    if self.size < 1 or self.global_tokens < 0:
      raise ValueError(
        f"a pattern needs size >= 1 and global_tokens >= 0, not {self.size}"
        f" and {self.global_tokens}"
      )

  def check(self, q_end: int) -> None:
    """Raises ValueError unless there is a block for each of so many queries."""
    covered = len(self.blocks) * self.size
    if self.blocks and covered < q_end:
      raise ValueError(
        f"the pattern's {len(self.blocks)} blocks of {self.size} cover"
        f" {covered} queries of {q_end}: make it for rows of that length"
      )

  def visible(self, queries: jax.Array, keys: jax.Array) -> jax.Array:
    """Bool [t s] for positions [t] and [s]."""
    seen = queries[:, None] < self.global_tokens
    seen = seen | (keys[None, :] < self.global_tokens)
    if self.window is not None:
      seen = seen | Window(*self.window).visible(queries, keys)
    if self.blocks:
      table = jnp.asarray(self._table)
      rows = jnp.take(table, queries // self.size, axis=0, mode="clip")
      # Keys beyond the last block that any query sees are seen by none.
      near = jnp.take(
        rows, keys // self.size, axis=1, mode="fill", fill_value=False
      )
      seen = seen | near
    return seen

  def some(self, tiles: Tiles) -> np.ndarray:
    """[I J], whether any pair of a tile is seen."""
    seen = np.minimum(tiles.q_first, tiles.k_first) < self.global_tokens
    if self.window is not None:
      seen = seen | Window(*self.window).some(tiles)
    if self.blocks:
      seen = seen | (self._count(tiles)[0] > 0)
    return seen

  def every(self, tiles: Tiles) -> np.ndarray:
    """[I J], whether one part of the union lets all pairs of a tile be seen."""
    seen = np.minimum(tiles.q_last, tiles.k_last) < self.global_tokens
    if self.window is not None:
      seen = seen | Window(*self.window).every(tiles)
    if self.blocks:
      count, area = self._count(tiles)
      seen = seen | (count == area)
    return seen

  @functools.cached_property
  def _table(self) -> np.ndarray:
    """[Q K] bool, whether a block of queries sees a block of keys."""
    last = max((max(row, default=-1) for row in self.blocks), default=-1)
    table = np.zeros((len(self.blocks), last + 1), bool)
    for i, row in enumerate(self.blocks):
      table[i, list(row)] = True
    return table

  def _count(self, tiles: Tiles) -> tuple[np.ndarray, np.ndarray]:
    """[I J] twice: entries of the table that tiles touch, True and at all."""
    below = np.cumsum(np.cumsum(self._table, axis=0), axis=1)
    below = np.pad(below, ((1, 0), (1, 0)))
    rows, columns = self._table.shape
    edges = [x // self.size for x in tiles]
    top, bottom = edges[0], edges[1] + 1
    left, right = edges[2], edges[3] + 1
    area = (bottom - top) * (right - left)
    top, bottom = np.minimum(top, rows), np.minimum(bottom, rows)
    left, right = np.minimum(left, columns), np.minimum(right, columns)
    count = below[bottom, right] - below[top, right]
    return count - below[bottom, left] + below[top, left], area


def longformer(window: int = 512, global_tokens: int = 1) -> Pattern:
  """A sliding window and a few global tokens (Beltagy et al. 2020, 3.1).

  Args:
    window: keys near a query, half of them before and half after it.
    global_tokens: how many of the first tokens see all and are seen by all.

  Raises:
    ValueError: an odd window.
  """
  if window % 2:
    raise ValueError(f"a Longformer window of {window} has no halves")
  return Pattern((window // 2, window // 2), global_tokens)


def bigbird(
  length: int,
  *,
  size: int = 64,
  window: int = 3,
  global_blocks: int = 2,
  random_blocks: int = 3,
  seed: int = 0,
) -> Pattern:
  """Window, global and random blocks (Zaheer et al. 2020, section 2).

  The numbers are those of the published base model.  A model whose layers
  should see other random blocks gives each another seed.

  Args:
    length: of rows; the last block may be cut.
    size: tokens of a block.
    window: blocks near a query's own, itself included; odd.
    global_blocks: see all and are seen by all; they stand at both ends of a
      row, the odd one at its beginning.
    random_blocks: further blocks that each other block sees.
    seed: of the random blocks.

  Raises:
    ValueError: an even window.
  """
  if window % 2 == 0:
    raise ValueError(f"a BigBird window of {window} blocks has no middle")
  count = -(-length // size)
  first = min(-(-global_blocks // 2), count)
  everywhere = {*range(first), *range(count - global_blocks // 2, count)}
  everywhere &= set(range(count))
  # The stream of RandomState is the same in all versions of NumPy.
  rng = np.random.RandomState(seed)
  rows = []
  for i in range(count):
    seen = everywhere | (set(range(i - window // 2, i + window // 2 + 1)))
    rest = sorted(set(range(count)) - seen)
    drawn = rng.permutation(rest)[:random_blocks].astype(int).tolist()
    if i in everywhere:
      seen |= set(range(count))
    rows.append(tuple(sorted((seen & set(range(count))) | set(drawn))))
  return Pattern(blocks=tuple(rows), size=size)
