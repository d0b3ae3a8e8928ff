"""Packs many short examples into rows of fixed length.

An example has one token sequence per feature, and all of them go to the same
row, so `inputs` and `targets` stay together.  Positions restart and segment
ids count up with each example; segment 0 is padding.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from t5x_lite import bin_packing

# Rows are laid out some tens at a time from twice as many rows' worth of
# examples: more hardly lowers padding, but has to be read, kept and saved.
_POOL_TOKENS = 1 << 17
_MIN_ROWS, _MAX_ROWS = 8, 32


@dataclasses.dataclass(frozen=True)
class Ragged:
  """Sequences end to end: `tokens` [sum(lengths)], `lengths` [N]; int32."""

  tokens: np.ndarray
  lengths: np.ndarray

  @property
  def starts(self) -> np.ndarray:
    """Index of the first token of each sequence, [N] int64."""
    return np.cumsum(self.lengths, dtype=np.int64) - self.lengths

  def take(self, indices: np.ndarray) -> "Ragged":
    """Returns the sequences at `indices`, in that order."""
    lengths = self.lengths[indices]
    within = _count_within(lengths)
    source = within + np.repeat(self.starts[indices], lengths)
    return Ragged(self.tokens[source], lengths)


def concatenate(parts: Sequence[Ragged]) -> Ragged:
  """Returns the sequences of all parts, in order."""
  return Ragged(
    np.concatenate([part.tokens for part in parts]),
    np.concatenate([part.lengths for part in parts]),
  )


class Packer:
  """Turns a stream of examples into rows; its state can be saved at any time.

  With `pack=False` each example has a row of its own.  Examples without a
  single token are dropped, for no row could show that they are there.
  """

  def __init__(self, lengths: Mapping[str, int], *, pack: bool = True):
    """`lengths` gives the length of a row for each feature."""
    self._lengths = dict(lengths)
    self._pack = pack
    rows = _POOL_TOKENS // (2 * sum(self._lengths.values()))
    self._rows = min(max(rows, _MIN_ROWS), _MAX_ROWS)
    empty = Ragged(np.zeros(0, np.int32), np.zeros(0, np.int32))
    self._pool = dict.fromkeys(self._lengths, empty)
    self._new: list[Mapping[str, Ragged]] = []
    self._load = np.zeros(len(self._lengths), np.int64)  # Tokens waiting.
    self._ready = self._lay_out(self._pool, [])

  @property
  def num_ready(self) -> int:
    """Rows laid out and not yet taken."""
    return len(next(iter(self._ready.values())))

  @property
  def num_tokens(self) -> int:
    """Tokens waiting to be laid out."""
    return int(self._load.sum())

  @property
  def hungry(self) -> bool:
    """Whether more examples are wanted before rows are laid out."""
    if not self._pack:
      return not self._load.any()
    rows = self._load / np.asarray(list(self._lengths.values()))
    return bool(rows.max() < 2 * self._rows)

  def add(self, examples: Mapping[str, Ragged]) -> None:
    """Adds examples; no sequence may be longer than its row."""
    for name, limit in self._lengths.items():
      longest = examples[name].lengths.max(initial=0)
      if longest > limit:
        raise ValueError(f"{name}: {longest} tokens in rows of {limit}")
    self._new.append(examples)
    self._load += [len(examples[name].tokens) for name in self._lengths]

  def lay_out(self) -> None:
    """Makes rows ready out of the waiting examples; no-op if none wait."""
    pool = {
      name: concatenate([self._pool[name], *(new[name] for new in self._new)])
      for name in self._lengths
    }
    lengths = np.stack([pool[name].lengths for name in self._lengths], axis=1)
    kept = np.flatnonzero(lengths.any(axis=1))
    lengths = lengths[kept]
    if self._pack:
      capacity = list(self._lengths.values())
      rows = bin_packing.best_fit(lengths, capacity, self._rows)
    else:
      rows = [[index] for index in range(len(lengths))]
    chosen = [kept[row] for row in rows]
    ready = self._lay_out(pool, chosen)
    self._ready = {
      key: np.concatenate([value, ready[key]])
      for key, value in self._ready.items()
    }
    used = np.concatenate([*chosen, np.zeros(0, np.int64)])
    left = np.setdiff1d(kept, used, assume_unique=True)
    self._pool = {name: value.take(left) for name, value in pool.items()}
    self._new = []
    self._load[:] = [len(value.tokens) for value in self._pool.values()]

  def take(self, num_rows: int) -> dict[str, np.ndarray]:
    """Removes and returns up to `num_rows` ready rows, int32 [rows L].

    Keys: `feature`, `feature_segment_ids`, `feature_positions`.
    """
    taken = {key: value[:num_rows] for key, value in self._ready.items()}
    self._ready = {k: value[num_rows:] for k, value in self._ready.items()}
    return taken

  def state(self) -> dict[str, np.ndarray]:
    """Returns all that `restore` needs, as named arrays."""
    arrays = {f"ready/{key}": value for key, value in self._ready.items()}
    for name, first in self._pool.items():
      waiting = concatenate([first, *(new[name] for new in self._new)])
      arrays[f"tokens/{name}"] = waiting.tokens
      arrays[f"lengths/{name}"] = waiting.lengths
    return arrays

  def restore(self, state: Mapping[str, np.ndarray]) -> None:
    """Continues where `state` was taken."""
    self._ready = {key: state[f"ready/{key}"] for key in self._ready}
    self._pool = {
      name: Ragged(state[f"tokens/{name}"], state[f"lengths/{name}"])
      for name in self._lengths
    }
    self._new = []
    self._load[:] = [len(value.tokens) for value in self._pool.values()]

  def _lay_out(
    self, pool: Mapping[str, Ragged], rows: Sequence[np.ndarray]
  ) -> dict[str, np.ndarray]:
    """Returns the batch keys for `rows` of indices into `pool`."""
    counts = np.asarray([len(row) for row in rows], np.int64)
    order = np.concatenate([*rows, np.zeros(0, np.int64)])
    row = np.repeat(np.arange(len(rows)), counts)
    segment = _count_within(counts) + 1
    batch = {}
    for name, length in self._lengths.items():
      chosen = pool[name].take(order)
      ends = np.cumsum(chosen.lengths, dtype=np.int64)
      # Tokens before each row, to count places from the row's own start.
      before = np.concatenate([[0], ends])[np.cumsum(counts) - counts]
      place = row * length + chosen.starts - before[row]
      positions = _count_within(chosen.lengths)
      target = positions + np.repeat(place, chosen.lengths)
      for suffix, values in (
        ("", chosen.tokens),
        ("_segment_ids", np.repeat(segment, chosen.lengths)),
        ("_positions", positions),
      ):
        flat = np.zeros(len(rows) * length, np.int32)
        flat[target] = values
        batch[name + suffix] = flat.reshape(len(rows), length)
    return batch


def _count_within(lengths: np.ndarray) -> np.ndarray:
  """Returns 0, 1, ... restarting for each length: [2 3] -> 0 1 0 1 2."""
  ends = np.cumsum(lengths, dtype=np.int64)
  total = int(ends[-1]) if len(ends) else 0
  return np.arange(total) - np.repeat(ends - lengths, lengths)
