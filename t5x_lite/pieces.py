"""Long examples read piece by piece: rows that go on where the last ended.

  batch 1    batch 2    batch 3
  a a a a    a a b b    b b b b     row 1: example a, then b
  c c c c    c c c c    c d d d     row 2: example c, then d

Every row is a stream of examples, each of them in its full length, and the
next free row takes the next example.  Positions count on from batch to batch,
so that position 0 alone says where an example begins.
"""

import collections
import dataclasses
import typing
from collections.abc import Mapping

import numpy as np

from t5x_lite import errors, packing

if typing.TYPE_CHECKING:
  from t5x_lite import datasets

# Of the row's own example: the token before the row, and 0 if there is none.
BEFORE = "_before"
# A chunk is as long as its longest example; it has so many tokens, about.
_CHUNK_TOKENS = 1 << 18
# Documents among which the next is drawn: all of them are kept and saved.
_SHUFFLED = 100


class Pieces:
  """Turns examples of any length into batches of rows that go on.

  Stands where `packing.Packer` stands.  Segment ids and positions are as
  there, but that positions of the first example may begin above 0.
  """

  def __init__(self, lengths: Mapping[str, int], num_rows: int):
    """Lays out rows of one feature.

    Args:
      lengths: of a row, by feature.
      num_rows: of a batch; all are laid out at once.

    Raises:
      errors.ConfigError: there are several features.
    """
    if len(lengths) != 1:
      raise errors.ConfigError(
        "Dataset.document_length is for one feature, and there are"
        f" {', '.join(sorted(lengths))}: use an objective that reads targets"
        " alone, such as objectives/long_documents.gin"
      )
    ((self._feature, self._length),) = lengths.items()
    # What is still to be read of each row's example, how much of it was read,
    # and the last token of that.
    self._rest = [np.zeros(0, np.int32) for _ in range(num_rows)]
    self._read = np.zeros(num_rows, np.int32)
    self._last = np.zeros(num_rows, np.int32)
    self._waiting: collections.deque[np.ndarray] = collections.deque()
    self._ready = self._blank(0)

  @property
  def num_ready(self) -> int:
    """Rows laid out and not yet taken."""
    return len(self._ready[self._feature])

  @property
  def num_tokens(self) -> int:
    """Tokens waiting to be laid out."""
    return sum(map(len, (*self._rest, *self._waiting)))

  @property
  def hungry(self) -> bool:
    """Whether the examples here do not fill another batch."""
    waiting = iter(self._waiting)
    for rest in self._rest:
      size = len(rest)
      while size < self._length:
        example = next(waiting, None)
        if example is None:
          return True
        size += len(example)
    return False

  def add(self, examples: Mapping[str, packing.Ragged]) -> None:
    """Adds examples; those without a token are dropped."""
    self._waiting.extend(_apart(examples[self._feature], drop_empty=True))

  def lay_out(self) -> None:
    """Makes a batch ready; rows without an example left end in padding."""
    self._ready = self._blank(len(self._rest))
    tokens, segments, positions, before = self._ready.values()
    for row in range(len(self._rest)):
      before[row] = self._last[row] if len(self._rest[row]) else 0
      start, segment = 0, 0
      while start < self._length and (piece := self._take(row, start)).size:
        stop, segment = start + len(piece), segment + 1
        tokens[row, start:stop] = piece
        segments[row, start:stop] = segment
        end = self._read[row]
        positions[row, start:stop] = np.arange(end - len(piece), end)
        start = stop

  def _take(self, row: int, start: int) -> np.ndarray:
    """Returns what follows in a row from `start` on, empty at the end."""
    if not len(self._rest[row]) and self._waiting:
      self._rest[row], self._read[row] = self._waiting.popleft(), 0
    room = self._length - start
    piece, self._rest[row] = self._rest[row][:room], self._rest[row][room:]
    if piece.size:
      self._read[row] += len(piece)
      self._last[row] = piece[-1]
    return piece

  def take(self, num_rows: int) -> dict[str, np.ndarray]:
    """Removes and returns the batch that is ready; no rows if none is.

    Keys: `feature`, `feature_segment_ids`, `feature_positions`, int32
    [rows L], and `feature_before` [rows 1].

    Raises:
      ValueError: a part of a batch is asked for.
    """
    if num_rows < self.num_ready:
      raise ValueError(f"{num_rows} rows of {self.num_ready} cannot go on")
    taken, self._ready = self._ready, self._blank(0)
    return taken

  def _blank(self, num_rows: int) -> dict[str, np.ndarray]:
    """Returns the arrays of so many rows of padding."""
    widths = {"": self._length, "_segment_ids": self._length}
    widths |= {"_positions": self._length, BEFORE: 1}
    return {
      self._feature + suffix: np.zeros((num_rows, width), np.int32)
      for suffix, width in widths.items()
    }

  def state(self) -> dict[str, np.ndarray]:
    """Returns all that `restore` needs, as named arrays."""
    return {
      **{f"ready/{key}": value for key, value in self._ready.items()},
      "read": self._read.copy(),
      "last": self._last.copy(),
      "tokens": np.concatenate([*self._rest, *self._waiting]),
      "lengths": np.asarray([*map(len, (*self._rest, *self._waiting))]),
    }

  def restore(self, state: Mapping[str, np.ndarray]) -> None:
    """Continues where `state` was taken."""
    self._ready = {key: state[f"ready/{key}"] for key in self._ready}
    self._read, self._last = state["read"].copy(), state["last"].copy()
    parts = _apart(packing.Ragged(state["tokens"], state["lengths"]))
    self._rest = parts[: len(self._read)]
    self._waiting = collections.deque(parts[len(self._read) :])


def _apart(
  ragged: packing.Ragged, *, drop_empty: bool = False
) -> list[np.ndarray]:
  """Returns the sequences one by one."""
  parts = np.split(ragged.tokens, np.cumsum(ragged.lengths)[:-1])
  return [part for part in parts if part.size or not drop_empty]


def going_on(
  dataset: "datasets.Dataset", document_length: int | None
) -> "datasets.Dataset":
  """Returns the training data for an objective.

  Args:
    dataset: as configured.
    document_length: of the objective; None if it begins every row anew.

  Raises:
    errors.ConfigError: the dataset has another one.
  """
  if dataset.document_length not in (None, document_length):
    raise errors.ConfigError(
      f"Dataset.document_length is {dataset.document_length} but the objective"
      f" has {document_length}: leave it out, and use"
      " objectives/long_documents.gin with DOCUMENT_LENGTH"
    )
  if document_length is None:
    return dataset
  return dataclasses.replace(
    dataset,
    document_length=document_length,
    shuffle_buffer=dataset.shuffle_buffer or _SHUFFLED,
  )


def packer(dataset: "datasets.Dataset") -> packing.Packer | Pieces:
  """Returns what lays out the rows of a shard of a dataset."""
  if dataset.document_length is None:
    return packing.Packer(dataset.feature_lengths, pack=dataset.pack)
  rows = dataset.batch_size // dataset.num_shards
  return Pieces(dataset.feature_lengths, rows)


def examples_of_chunk(most: int, document_length: int | None) -> int:
  """Returns how many examples to read at once, fewer of long documents."""
  if document_length is None:
    return most
  return min(most, -(-_CHUNK_TOKENS // document_length))
