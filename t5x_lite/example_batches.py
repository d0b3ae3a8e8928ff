"""Examples in batches of one shape, through a function on the devices.

The last batch is filled with rows of zeros, so that the function compiles
once; results come in the order of the examples, and every host reads all.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from t5x_lite import errors
from t5x_lite.partitioning import Partitioner

Example = Mapping[str, Any]  # token ids by feature, and more
Arrays = Mapping[str, np.ndarray]


class ExampleBatches:
  """Batches of a number of rows, on the devices of a partitioner.

  Attributes:
    partitioner: where batches and results lie.
    size: number of rows over all devices.
    replicated: the sharding of results that every host reads.
  """

  def __init__(self, partitioner: Partitioner, size: int):
    partitioner.check_batch(size, 1)
    self.partitioner, self.size = partitioner, size
    self.replicated = NamedSharding(partitioner.mesh, PartitionSpec())

  def chunks(self, examples: Iterable[Any]) -> Iterator[list[Any]]:
    """So many examples at a time, fewer at the end."""
    iterator = iter(examples)
    while chunk := list(itertools.islice(iterator, self.size)):
      yield chunk

  def padded(
    self, chunk: Sequence[Example], lengths: Mapping[str, int]
  ) -> dict[str, np.ndarray]:
    """`padded` to the number of rows."""
    return padded(chunk, lengths, self.size)

  def put(self, features: Arrays) -> dict[str, jax.Array]:
    """Features [B ...] on the devices, from this host's share of the rows."""
    own = self.partitioner.rows(self.size)[jax.process_index()]
    return self.partitioner.put(
      {name: rows[own] for name, rows in features.items()}
    )

  def run(
    self,
    function: Callable[[dict[str, jax.Array]], Any],
    batches: Iterable[tuple[Arrays, int]],
  ) -> Iterator[Any]:
    """Results, cut to the rows that are examples, one batch ahead.

    Args:
      function: from features on the devices to a tree of arrays [B ...].
      batches: features [B ...], and how many of the rows are examples.
    """
    pending: tuple[Any, int] | None = None
    for features, count in batches:
      with self.partitioner.activate():
        result = function(self.put(features))
      if pending is not None:  # The devices work while the host reads.
        yield _fetched(*pending)
      pending = (result, count)
    if pending is not None:
      yield _fetched(*pending)


def padded(
  chunk: Sequence[Example], lengths: Mapping[str, int], size: int
) -> dict[str, np.ndarray]:
  """Task features [B L] in the layout of `datasets.Dataset`.

  Args:
    chunk: at most B examples.
    lengths: L by feature; a feature that an example lacks is empty.
    size: B.

  Raises:
    DataError: an example is longer.
  """
  batch = {}
  for feature, length in lengths.items():
    shape = (size, length)
    tokens, segments = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    for row, example in enumerate(chunk):
      ids = example.get(feature, ())
      if len(ids) > length:
        raise errors.DataError(
          f"an example has {len(ids)} tokens of {feature!r}, more than"
          f" feature_lengths allow, {length}: give more (FEATURE_LENGTHS), or"
          " cut it"
        )
      tokens[row, : len(ids)] = ids
      segments[row, : len(ids)] = 1
    positions = np.arange(length, dtype=np.int32) * segments
    batch[feature] = tokens
    batch[f"{feature}_segment_ids"] = segments
    batch[f"{feature}_positions"] = positions
  return batch


def check_ids(batch: Arrays, limits: Mapping[str, int | None]) -> None:
  """Raises DataError for an id that a model does not have.

  Its embedding would give NaN for such an id, and no error.

  Args:
    batch: task features.
    limits: number of ids by feature, None for any number.
  """
  for feature, limit in limits.items():
    if limit is None or feature not in batch:
      continue
    greatest = int(batch[feature].max())
    if greatest >= limit:
      raise errors.DataError(
        f"{feature} hold the id {greatest} but the model has {limit}"
        " embeddings: use the vocabulary that the model was trained with"
        " (VOCABULARY), or a larger VOCAB_SIZE"
      )


def _fetched(result: Any, count: int) -> Any:
  return jax.tree.map(lambda x: x[:count], jax.device_get(result))
