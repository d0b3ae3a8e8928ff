"""Batches of packed or padded examples, and the state to go on from.

Each data shard is a stream of its own: a tf.data iterator, a packer and a
saved state.  A batch is the rows of all shards in the order of the shards.
"""

import json
import os
import pathlib
import typing
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from typing import Any

import numpy as np

from t5x_lite import errors
from t5x_lite.pipelines import divide, stream

if typing.TYPE_CHECKING:
  from t5x_lite.pipelines import shards

  Reopen = Callable[[Mapping[str, str]], Sequence[shards.Pipeline]]

_CACHES = "caches"  # in data.json, beside the fingerprint


class DataIterator:
  """Yields the batches of one host, exactly the same again after `restore`."""

  def __init__(
    self,
    streams: Mapping[int, stream.Stream],
    *,
    share: divide.Share,
    num_shards: int,
    rows_per_shard: int,
    record: Mapping[str, Any],
    caches: Mapping[str, str] | None = None,
    reopen: "Reopen | None" = None,
  ):
    """Args other than the streams by shard: see `datasets.Dataset.iterator`.

    `share` has the shards whose rows this host yields; of a finite dataset it
    reads all, so that all hosts end with the same batch.  `caches` are those
    that are read, by task; `reopen` returns the pipelines that read others.
    """
    self._streams = streams
    self._share = share
    self._num_shards = num_shards
    self._rows = rows_per_shard
    self._at_start, self._started = True, False
    self._record = json.loads(json.dumps(record))
    self._caches, self._reopen = dict(caches or {}), reopen

  def __iter__(self) -> "DataIterator":
    return self

  def __next__(self) -> stream.Batch:
    """Returns features, segment ids and positions, int32 [B L].

    Raises:
      StopIteration: every example has been seen.  Until then the batch is
        filled up with rows of zeros.
      errors.DataError: the data is unfit; see `datasets.Dataset`.
    """
    if not self._started:
      with futures.ThreadPoolExecutor(len(self._streams)) as pool:
        list(pool.map(stream.Stream.start, self._streams.values()))
      self._started = True
    rows = {shard: one.rows(self._rows) for shard, one in self._streams.items()}
    if not any(len(value) for part in rows.values() for value in part.values()):
      if self._at_start:
        names = [one.name for one in self._streams.values()]
        raise errors.DataError(f"there are no examples in {', '.join(names)}")
      raise StopIteration
    self._at_start = False
    parts = [_filled(rows[shard], self._rows) for shard in self._share.visible]
    return {
      key: np.concatenate([part[key] for part in parts]) for key in parts[0]
    }

  def own(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Of a batch, the rows that this host's devices hold; mostly all."""
    taken = self._share.taken
    return {k: v if taken is None else v[taken] for k, v in batch.items()}

  def save(
    self,
    directory: str | os.PathLike[str],
    ahead: Sequence[Mapping[str, np.ndarray]] = (),
  ) -> None:
    """Writes the state of this host's shards into `directory`.

    Args:
      directory: made if absent.
      ahead: the last batches that were returned, in order, if they were not
        used: after `restore` they come first.

    Raises:
      errors.DataError: the pipeline has state that cannot be saved.
      errors.CheckpointError: the files cannot be written.
    """
    path = pathlib.Path(directory) / "data.json"
    try:
      path.parent.mkdir(parents=True, exist_ok=True)
      if 0 in self._share.saved:
        path.write_text(json.dumps(self._record | {_CACHES: self._caches}))
    except OSError as error:
      raise errors.CheckpointError(
        f"the state of the data cannot be written to {directory}: {error}"
      ) from error
    for i, shard in enumerate(self._share.visible):
      if shard not in self._share.saved:
        continue
      own = slice(i * self._rows, (i + 1) * self._rows)
      rows = [{key: x[own] for key, x in batch.items()} for batch in ahead]
      self._streams[shard].save(self._prefix(directory, shard), rows)

  def restore(self, directory: str | os.PathLike[str]) -> None:
    """Goes on where `save` was called, by whatever hosts.

    Raises:
      errors.CheckpointError: the state is missing, damaged, or of other data.
    """
    path = pathlib.Path(directory) / "data.json"
    try:
      saved = json.loads(path.read_text())
    except (OSError, ValueError) as error:
      raise errors.CheckpointError(
        f"{directory} holds no state of the data: {error}"
      ) from error
    for key, value in self._record.items():
      if saved.get(key) != value:
        raise errors.CheckpointError(
          f"the data in {directory} were read with {key} = {saved.get(key)}, "
          f"now it is {value}: to go on exactly, set it back"
        )
    caches = saved.get(_CACHES, {})
    if self._reopen is not None and caches != self._caches:
      pipelines = self._reopen(caches)
      for shard, one in self._streams.items():
        one.read_by(pipelines[shard])
      self._caches = caches
    for shard, one in self._streams.items():
      one.restore(self._prefix(directory, shard))
    self._at_start, self._started = False, False

  def _prefix(self, directory: str | os.PathLike[str], shard: int) -> str:
    name = f"shard-{shard:05d}-of-{self._num_shards:05d}"
    return os.path.join(directory, name)


def _filled(rows: stream.Batch, count: int) -> stream.Batch:
  """Fills up with rows of zeros."""
  return {
    key: np.pad(value, ((0, count - len(value)), (0, 0)))
    if len(value) < count
    else value
    for key, value in rows.items()
  }
