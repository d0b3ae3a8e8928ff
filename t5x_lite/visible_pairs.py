"""How many pairs of a query and a key a mask lets attention look at.

Exact, of masks that depend on positions alone: causal, a window, a sparse
pattern, and any two or all of them together.  Memory and time grow with the
length, not with its square.
"""

import functools

import numpy as np

import pallas_kernels

Sides = tuple[int | None, int | None]  # left and right of a query


@functools.cache
def count(
  queries: int,
  keys: int,
  *,
  causal: bool = False,
  window: Sides | None = None,
  pattern: pallas_kernels.Pattern | None = None,
) -> int:
  """Visible pairs of so many queries and keys, both at positions from 0 on.

  Args:
    queries: T.
    keys: S.
    causal: a query sees no key after itself.
    window: (left, right), how far before and after itself a query sees; None
      for no limit of a side.
    pattern: what it must be in as well.
  """
  places = np.arange(queries)
  low, high = _interval(places, keys, window)
  if causal:
    high = np.minimum(high, places + 1)
  if pattern is None:
    return int(_size(low, high).sum())
  total = 0
  for rows, blocks in _rows(pattern, queries, keys):
    seen = _in_pattern(pattern, blocks, places[rows], low[rows], high[rows])
    total += int(seen.sum())
  return total


def _interval(
  places: np.ndarray, keys: int, sides: Sides | None
) -> tuple[np.ndarray, np.ndarray]:
  """First key that each query sees, and the one after the last."""
  left, right = sides or (None, None)
  low, high = np.zeros_like(places), np.full_like(places, keys)
  if left is not None:
    low = np.maximum(places - left, 0)
  if right is not None:
    high = np.clip(places + right + 1, 0, keys)
  return low, high


def _size(low: np.ndarray, high: np.ndarray) -> np.ndarray:
  return np.maximum(high - low, 0)


def _rows(
  pattern: pallas_kernels.Pattern, queries: int, keys: int
) -> list[tuple[slice, np.ndarray]]:
  """Queries that see the same blocks, and whether those hold each key [S]."""
  if not pattern.blocks:
    return [(slice(queries), np.zeros(keys, bool))]
  found = []
  for start in range(0, queries, pattern.size):
    # As in `Pattern.visible`, the last block stands for those after it.
    row = pattern.blocks[min(start // pattern.size, len(pattern.blocks) - 1)]
    held = np.isin(np.arange(keys) // pattern.size, row)
    found.append((slice(start, min(start + pattern.size, queries)), held))
  return found


def _in_pattern(
  pattern: pallas_kernels.Pattern,
  blocks: np.ndarray,
  places: np.ndarray,
  low: np.ndarray,
  high: np.ndarray,
) -> np.ndarray:
  """How many keys from `low` to `high` each query [t] sees in a pattern."""
  keys = len(blocks)
  # What the blocks hold counts once: outside of them are all other parts.
  outside = np.concatenate([[0], np.cumsum(~blocks)])

  def more(first: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Keys from first to end that are in range and in no block."""
    first = np.minimum(np.maximum(first, low), keys)
    end = np.maximum(np.minimum(end, high), first)
    return outside[end] - outside[first]

  everywhere = np.zeros_like(places)
  total = _size(low, high)
  seen = total - more(everywhere, everywhere + keys)
  first = everywhere + pattern.global_tokens
  seen = seen + more(everywhere, first)
  if pattern.window is not None:
    near_low, near_high = _interval(places, keys, pattern.window)
    seen = seen + more(np.maximum(near_low, first), near_high)
  return np.where(places < pattern.global_tokens, total, seen)
