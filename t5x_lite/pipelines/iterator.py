"""Batches of packed or padded examples, and the state to go on from.

Each data shard is a stream of its own: a tf.data iterator, a packer and a
saved state.  A batch is the rows of all shards in the order of the shards.
"""

import io
import json
import os
import pathlib
import typing
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from typing import Any

import numpy as np

from t5x_lite import errors, packing, pieces
from t5x_lite.pipelines import divide

if typing.TYPE_CHECKING:
  import tensorflow as tf

  from t5x_lite.pipelines import shards

  Reopen = Callable[[Mapping[str, str]], Sequence[shards.Pipeline]]

Batch = dict[str, np.ndarray]
# So many examples without a token, and there is no use in reading on.
_EMPTY_EXAMPLES = 10_000
_CACHES = "caches"  # in data.json, beside the fingerprint


class Stream:
  """The rows of one data shard.

  Args:
    pipeline: of the shard.
    packer: new.
    sizes: of the vocabulary, by feature.
    endless: whether the pipeline repeats forever.
  """

  def __init__(
    self,
    pipeline: "shards.Pipeline",
    packer: packing.Packer | pieces.Pieces,
    sizes: Mapping[str, int],
    *,
    endless: bool,
  ):
    self._pipeline = pipeline
    self._packer = packer
    self._sizes = sizes
    self._endless = endless
    self._iterator: Any = None
    self._through = False
    self._num_empty = 0

  @property
  def name(self) -> str:
    """How messages call it."""
    return self._pipeline.name

  def read_by(self, pipeline: "shards.Pipeline") -> None:
    """Goes on with another pipeline of the same examples, once restored."""
    self._pipeline = pipeline

  def start(self) -> None:
    """Waits for a first chunk; from then on TensorFlow reads ahead."""
    if self._packer.hungry and not self._through:
      self._read()

  def rows(self, count: int) -> Batch:
    """Returns the next rows; fewer at the end of a finite shard."""
    while self._packer.num_ready < count:
      if not self._through and self._packer.hungry:
        self._read()
      elif self._packer.num_tokens:
        self._packer.lay_out()
      else:
        break
    return self._packer.take(count)

  def _opened(self) -> Any:
    if self._iterator is None:
      self._iterator = iter(self._pipeline.chunks())
    return self._iterator

  def _read(self) -> None:
    chunk = self._pipeline.read(self._opened())
    if chunk is None:
      if self._endless:
        raise errors.DataError(
          f"{self.name} has no examples: use fewer shards "
          "(Dataset.num_shards), or more data"
        )
      self._through = True
      return
    examples = {name: self._checked(chunk, name) for name in self._sizes}
    self._packer.add(examples)
    if any(len(example.tokens) for example in examples.values()):
      self._num_empty = 0
      return
    self._num_empty += len(next(iter(examples.values())).lengths)
    if self._num_empty >= _EMPTY_EXAMPLES:
      raise errors.DataError(
        f"{self.name}: {self._num_empty} examples in a row have no tokens"
      )

  def _checked(
    self, chunk: Mapping[str, "tf.Tensor"], feature: str
  ) -> packing.Ragged:
    """Drops the padding of a chunk, if it has any, and checks its ids."""
    tokens, lengths = chunk[feature].numpy(), chunk[f"{feature}/length"].numpy()
    if tokens.ndim == 2:
      tokens = tokens[np.arange(tokens.shape[1]) < lengths[:, None]]
    size = self._sizes[feature]
    if len(tokens):
      low, high = int(tokens.min()), int(tokens.max())
      if low < 0 or high >= size:
        raise errors.DataError(
          f"{self.name}: feature {feature!r} holds the id "
          f"{low if low < 0 else high}, but its vocabulary has {size} ids, "
          f"0 to {size - 1}: is it the vocabulary that made the ids, with all "
          "its extra_ids?"
        )
    return packing.Ragged(tokens.astype(np.int32, copy=False), lengths)

  def save(self, prefix: str) -> None:
    """Writes the state to files whose names start with `prefix`.

    Raises:
      errors.DataError: the pipeline has state that cannot be saved.
      errors.CheckpointError: the files cannot be written.
    """
    import tensorflow as tf

    self._pipeline.check_savable()
    state = self._packer.state() | {"through": np.array(self._through)}
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **state)
    try:
      tf.train.Checkpoint(iterator=self._opened()).write(prefix)
      with tf.io.gfile.GFile(f"{prefix}.npz", "wb") as file:
        file.write(buffer.getvalue())
    except (tf.errors.OpError, OSError) as error:
      raise errors.CheckpointError(
        f"the state of the data cannot be written to {prefix}*: {error}"
      ) from error

  def restore(self, prefix: str) -> None:
    """Goes on where `save` was called.

    Raises:
      errors.CheckpointError: the files are missing or of another pipeline.
    """
    import tensorflow as tf

    self._iterator = iter(self._pipeline.chunks())
    try:
      checkpoint = tf.train.Checkpoint(iterator=self._iterator)
      checkpoint.read(prefix).assert_consumed()
      with tf.io.gfile.GFile(f"{prefix}.npz", "rb") as file:
        state = dict(np.load(io.BytesIO(file.read())))
      self._through = bool(state.pop("through"))
      self._packer.restore(state)
    except Exception as error:  # Damaged files raise all kinds of them.
      raise errors.CheckpointError(
        f"the state of the data cannot be read from {prefix}*: {error}  It is "
        "damaged, or was saved by another version of TensorFlow or of the "
        "task; restore another step"
      ) from error


class DataIterator:
  """Yields the batches of one host, exactly the same again after `restore`."""

  def __init__(
    self,
    streams: Mapping[int, Stream],
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

  def __next__(self) -> Batch:
    """Returns features, segment ids and positions, int32 [B L].

    Raises:
      StopIteration: every example has been seen.  Until then the batch is
        filled up with rows of zeros.
      errors.DataError: the data is unfit; see `datasets.Dataset`.
    """
    if not self._started:
      with futures.ThreadPoolExecutor(len(self._streams)) as pool:
        list(pool.map(Stream.start, self._streams.values()))
      self._started = True
    rows = {
      shard: stream.rows(self._rows) for shard, stream in self._streams.items()
    }
    if not any(len(value) for part in rows.values() for value in part.values()):
      if self._at_start:
        names = [stream.name for stream in self._streams.values()]
        raise errors.DataError(f"there are no examples in {', '.join(names)}")
      raise StopIteration
    self._at_start = False
    parts = [_filled(rows[shard], self._rows) for shard in self._share.visible]
    return {
      key: np.concatenate([part[key] for part in parts]) for key in parts[0]
    }

  def own(self, batch: Mapping[str, np.ndarray]) -> Batch:
    """Of a batch, the rows that this host's devices hold; mostly all."""
    taken = self._share.taken
    return {k: v if taken is None else v[taken] for k, v in batch.items()}

  def save(self, directory: str | os.PathLike[str]) -> None:
    """Writes the state of this host's shards into `directory`.

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
    for shard in self._share.saved:
      self._streams[shard].save(self._prefix(directory, shard))

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
      for shard, stream in self._streams.items():
        stream.read_by(pipelines[shard])
      self._caches = caches
    for shard, stream in self._streams.items():
      stream.restore(self._prefix(directory, shard))
    self._at_start, self._started = False, False

  def _prefix(self, directory: str | os.PathLike[str], shard: int) -> str:
    name = f"shard-{shard:05d}-of-{self._num_shards:05d}"
    return os.path.join(directory, name)


def _filled(rows: Batch, count: int) -> Batch:
  """Fills up with rows of zeros."""
  return {
    key: np.pad(value, ((0, count - len(value)), (0, 0)))
    if len(value) < count
    else value
    for key, value in rows.items()
  }
