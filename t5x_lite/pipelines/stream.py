"""The rows of one data shard: tf.data iterator, packer and saved state."""

import io
import typing
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from t5x_lite import errors, packing, pieces

if typing.TYPE_CHECKING:
  import tensorflow as tf

  from t5x_lite.pipelines import shards

Batch = dict[str, np.ndarray]
# So many examples without a token, and there is no use in reading on.
_EMPTY_EXAMPLES = 10_000
_AHEAD = "ahead/"  # before the names of rows in a shard's file


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
    # Rows that the process which saved had taken and not used.
    self._ahead: Batch = {}

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
    if any(map(len, self._ahead.values())):
      taken = {key: value[:count] for key, value in self._ahead.items()}
      self._ahead = {key: v[count:] for key, v in self._ahead.items()}
      return taken
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

  def save(self, prefix: str, ahead: Sequence[Batch] = ()) -> None:
    """Writes the state to files whose names start with `prefix`.

    Args:
      prefix: a path.
      ahead: the last rows that were returned, which count as not yet taken.

    Raises:
      errors.DataError: the pipeline has state that cannot be saved.
      errors.CheckpointError: the files cannot be written.
    """
    import tensorflow as tf

    self._pipeline.check_savable()
    state = self._packer.state() | {"through": np.array(self._through)}
    unused = [rows for rows in (*ahead, self._ahead) if rows]
    if unused:
      state |= {
        f"{_AHEAD}{key}": np.concatenate([rows[key] for rows in unused])
        for key in unused[0]
      }
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
      self._ahead = {
        key.removeprefix(_AHEAD): state.pop(key)
        for key in list(state)
        if key.startswith(_AHEAD)
      }
      self._packer.restore(state)
    except Exception as error:  # Damaged files raise all kinds of them.
      raise errors.CheckpointError(
        f"the state of the data cannot be read from {prefix}*: {error}  It is "
        "damaged, or was saved by another version of TensorFlow or of the "
        "task; restore another step"
      ) from error
