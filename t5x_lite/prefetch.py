"""Batches read and put on the devices while earlier ones are computed with.

What is read ahead is not used yet, and a checkpoint must not lose it: `save`
writes the source's position together with the batches that wait, so that the
next process, with whatever number of batches ahead, begins with those.
"""

import collections
import contextlib
import dataclasses
import logging
import pathlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from t5x_lite import errors

Rows = Mapping[str, np.ndarray]
Put = Callable[[Rows], Mapping[str, jax.Array]]

_PATIENCE = 30.0  # seconds for a read under way when training is over

_log = logging.getLogger(__name__)


class Source(Protocol):
  """Where rows come from, such as `datasets.DataIterator`."""

  def __next__(self) -> Rows:
    """Returns this host's rows of the next batch."""

  def save(self, directory: pathlib.Path, ahead: Sequence[Rows] = ()) -> None:
    """Writes the position before `ahead`, the last batches returned."""


class Fetched(NamedTuple):
  """A batch: this host's rows of task features, and what the devices have."""

  rows: Rows
  batch: Mapping[str, jax.Array]


class Batches(Protocol):
  """What a training loop draws from."""

  def __next__(self) -> Fetched:
    """Returns the next batch, or raises what reading or putting it raised."""

  def save(self, directory: pathlib.Path) -> None:
    """Writes the position after the last batch that `next` returned."""

  def close(self) -> None:
    """Ends what goes on in the background."""


@dataclasses.dataclass
class Direct:
  """Reads and puts a batch when it is asked for."""

  source: Source
  put: Put

  def __next__(self) -> Fetched:
    rows = next(self.source)
    return Fetched(rows, self.put(rows))

  def save(self, directory: pathlib.Path) -> None:
    """Writes the position of the source."""
    self.source.save(directory)

  def close(self) -> None:
    """Does nothing."""


@dataclasses.dataclass(eq=False)
class _Slot:
  """A batch on its way: read, then put; or the error of one of these."""

  rows: Rows | None = None
  batch: Any = None
  error: BaseException | None = None
  ready: bool = False


class Ahead:
  """Reads and puts batches in a thread, which starts with the first `next`.

  An error is raised where it would have been without the thread: after the
  batches before it.  Of a source that failed nobody knows the position, so
  that `save` raises the error too if it was met ahead.

  Args:
    source: of the rows; nobody else may draw from it.
    put: from rows to arrays on the devices.
    size: batches that may wait.
    limit: batches that will be asked for; no more are read.
  """

  def __init__(self, source: Source, put: Put, *, size: int, limit: int):
    self._source, self._put, self._size = source, put, size
    self._left = limit
    self._waiting: collections.deque[_Slot] = collections.deque()
    self._changed = threading.Condition()  # guards all that follows
    self._moving = False  # the source, in the thread
    self._held = self._closed = False
    self._thread: threading.Thread | None = None

  def __next__(self) -> Fetched:
    if self._thread is None:
      # A daemon: a source that hangs must not keep the process from ending.
      self._thread = threading.Thread(
        target=self._run, name="prefetch", daemon=True
      )
      self._thread.start()
    with self._changed:
      if self._left <= 0 and not self._waiting and not self._moving:
        raise StopIteration
      self._changed.wait_for(
        lambda: self._closed or (self._waiting and self._waiting[0].ready)
      )
      if self._closed:
        raise RuntimeError("no batch can be drawn after close()")
      slot = self._waiting[0]
      if slot.error is not None:
        raise slot.error
      self._waiting.popleft()
      self._changed.notify_all()
    assert slot.rows is not None
    return Fetched(slot.rows, slot.batch)

  def save(self, directory: pathlib.Path) -> None:
    """Writes the source's position and the batches that wait.

    A read under way ends first.

    Raises:
      Exception: what reading ahead raised, other than that it was the end.
    """
    with self._hold():
      for slot in self._waiting:
        if slot.rows is None and not isinstance(slot.error, StopIteration):
          assert slot.error is not None
          raise slot.error
      rows = [slot.rows for slot in self._waiting if slot.rows is not None]
      self._source.save(directory, rows)

  def close(self) -> None:
    """Ends the thread; waits for a read that is under way."""
    with self._changed:
      self._closed = True
      self._changed.notify_all()
    if self._thread is not None:
      self._thread.join(_PATIENCE)
      if self._thread.is_alive():
        _log.warning(
          "the data were still being read %.0f s after training: not waiting",
          _PATIENCE,
        )

  @contextlib.contextmanager
  def _hold(self) -> Iterator[None]:
    """Lets the source stand still in the body."""
    with self._changed:
      self._held = True
      self._changed.wait_for(lambda: not self._moving)
    try:
      yield
    finally:
      with self._changed:
        self._held = False
        self._changed.notify_all()

  def _run(self) -> None:
    while self._may_read():
      slot = _Slot()
      try:
        slot.rows = next(self._source)
      except BaseException as error:  # of whatever kind: the loop's to handle
        slot.error = error
      with self._changed:
        # At once, for to `save` a batch either was not read, or waits.
        self._waiting.append(slot)
        self._moving = False
        self._changed.notify_all()
      if slot.rows is not None:
        try:
          slot.batch = self._put(slot.rows)
        except BaseException as error:
          slot.error = error
      with self._changed:
        slot.ready = True
        self._changed.notify_all()
      if slot.error is not None:
        return

  def _may_read(self) -> bool:
    """Waits for room; False if nothing more is wanted."""
    with self._changed:
      self._changed.wait_for(
        lambda: (
          self._closed
          or self._left <= 0
          or (not self._held and len(self._waiting) < self._size)
        )
      )
      if self._closed or self._left <= 0:
        return False
      self._left -= 1
      self._moving = True
      return True


def check(size: int) -> None:
  """Raises ConfigError if so many batches cannot be read ahead."""
  if size < 0:
    raise errors.ConfigError(
      f"train.prefetch is {size}: use the number of batches to read ahead"
      " (PREFETCH), or 0 for none"
    )


def batches(source: Source, put: Put, *, size: int, limit: int) -> Batches:
  """What draws from a source with so many batches ahead, none for 0."""
  if size == 0:
    return Direct(source, put)
  return Ahead(source, put, size=size, limit=limit)
