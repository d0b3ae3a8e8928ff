"""Chooses which examples share a row: bin packing with a view of many.

A row is opened by the oldest examples waiting and filled up with those that
fit best: age bounds how long an example waits, the choice keeps padding
small.  Opening takes runs of examples at once and only the last few of a row
are chosen one by one, so the cost is that of the rows more than of the
examples.  Examples have one length per feature and must fit in each.
"""

import bisect
from collections.abc import Sequence

import numpy as np

# A row is opened up to this many mean lengths from its end; the rest is
# chosen.
_CHOSEN = 2
# How many candidates are tried where the second feature of the best does not
# fit, or where the best leaves more than this share of the row empty.
_TRIES = 8
_TOLERANCE = 0.01


def best_fit(
  lengths: np.ndarray, capacity: Sequence[int], max_rows: int
) -> list[list[int]]:
  """Chooses which examples share a row.

  Args:
    lengths: [N F], tokens per example and feature, oldest example first.
    capacity: [F], length of a row per feature.
    max_rows: rows wanted; fewer come back when the examples fill fewer.

  Returns:
    For each row the indices of its examples, in their order in the row.
  """
  if not len(lengths):
    return []
  share = lengths.sum(axis=0) / np.asarray(capacity)
  key = int(np.argmax(share))  # The feature that fills up first.
  num_rows = min(max_rows, max(1, int(share[key])))
  rows, rooms, start = _runs(lengths, capacity, num_rows)
  # Ascending by key; among equals the oldest stands last and goes first.
  rest = np.arange(start, len(lengths))
  order = rest[np.lexsort((-rest, lengths[start:, key]))]
  shelf = _Shelf(order.tolist(), lengths[order].tolist(), key)
  for row, room in zip(rows, rooms, strict=True):
    while (chosen := shelf.choose(room, _TOLERANCE * capacity[key])) >= 0:
      example, sizes = shelf.pop(chosen)
      row.append(example)
      for feature, size in enumerate(sizes):
        room[feature] -= size
  return rows


def _runs(
  lengths: np.ndarray, capacity: Sequence[int], num_rows: int
) -> tuple[list[list[int]], list[list[int]], int]:
  """Opens rows with runs of the oldest examples.

  Returns:
    The rows, the room left in each per feature, and the first unused example.
  """
  reserve = np.ceil(_CHOSEN * lengths.mean(axis=0)).astype(np.int64)
  sums = [
    np.concatenate([[0], np.cumsum(column, dtype=np.int64)])
    for column in lengths.T
  ]
  rows: list[list[int]] = []
  rooms: list[list[int]] = []
  start = 0
  while len(rows) < num_rows and start < len(lengths):
    end = min(
      int(np.searchsorted(total, total[start] + limit, side="right")) - 1
      for total, limit in zip(sums, capacity - reserve, strict=True)
    )
    end = max(end, start + 1)
    rows.append(list(range(start, end)))
    rooms.append(
      [
        int(size - (total[end] - total[start]))
        for total, size in zip(sums, capacity, strict=True)
      ]
    )
    start = end
  return rows, rooms, start


class _Shelf:
  """Examples sorted by the length of their key feature."""

  def __init__(self, examples: list[int], sizes: list[list[int]], key: int):
    self._examples = examples
    self._sizes = sizes
    self._key = key
    self._keys = [size[key] for size in sizes]

  def pop(self, place: int) -> tuple[int, list[int]]:
    self._keys.pop(place)
    return self._examples.pop(place), self._sizes.pop(place)

  def choose(self, room: list[int], tolerance: float) -> int:
    """Returns the place of the next example for a row, -1 if none fits.

    It is the longest that fits, unless a shorter one leaves room for a second
    that fills the row better.
    """
    longest = self._longest(room, len(self._keys))
    if longest < 0:
      return longest
    gap = self._gap(room, longest)
    stride = max(1, longest // _TRIES)
    for place in range(longest - 1, -1, -stride):
      if gap <= tolerance:
        break
      other = self._gap(room, place)
      if other < gap:
        longest, gap = place, other
    return longest

  def _longest(self, room: list[int], end: int) -> int:
    """Returns the last place before `end` whose example fits, or -1."""
    place = bisect.bisect_right(self._keys, room[self._key], 0, end) - 1
    for candidate in range(place, max(place - _TRIES, -1), -1):
      if all(s <= r for s, r in zip(self._sizes[candidate], room, strict=True)):
        return candidate
    return -1

  def _gap(self, room: list[int], place: int) -> int:
    """Room left by the example at `place` and the best below it."""
    left = [r - s for r, s in zip(room, self._sizes[place], strict=True)]
    if min(left) < 0:
      return room[self._key]
    follower = self._longest(left, place)
    return left[self._key] - (self._keys[follower] if follower >= 0 else 0)
