"""The rows of synthetic tasks, drawn in tf.data.

Letters: R rows, L their length, M tokens to copy.
"""

import functools
from collections.abc import Callable, Mapping, Sequence

import seqio
import tensorflow as tf

from tasks import draws, features, rows, synthetic

Rows = Mapping[str, tf.Tensor]  # `inputs` and `labels`, [R L] int32

# Of an epoch; the next one has others.
_EXAMPLES = {"train": 1 << 20, "validation": 1 << 12, "test": 1 << 12}
# What is drawn at once.
_TOKENS, _ROWS = 1 << 16, 128


def selective_copying(
  task: synthetic.SelectiveCopying, keys: tf.Tensor
) -> Rows:
  """Rows of `task`, one for each of the keys [R] int64."""
  count, tokens = tf.size(keys), task.tokens
  room = task.length - tokens
  places = tf.sort(
    draws.choose(
      tf.fill([count], room), tf.fill([count], tokens), keys, "places"
    )
  )
  drawn = _below(task.vocab_size - 2, keys, tokens, "tokens") + 1
  number = tf.broadcast_to(tf.range(count)[:, None], tf.shape(places))
  noise = tf.fill([count, room], synthetic.NOISE)
  text = tf.tensor_scatter_nd_update(
    noise, tf.stack([number, places], axis=-1), drawn
  )
  markers = tf.fill([count, tokens], task.vocab_size - 1)
  return {
    "inputs": tf.concat([text, markers], axis=1),
    "labels": tf.concat([tf.zeros([count, room], tf.int32), drawn + 1], 1),
  }


def induction_heads(task: synthetic.InductionHeads, keys: tf.Tensor) -> Rows:
  """Rows of `task`, one for each of the keys [R] int64."""
  length, special = task.length, task.vocab_size - 1
  drawn = _below(special, keys, length, "tokens")
  # What follows it is no special token, for that one comes last.
  place = _below(length - 2, keys, 1, "place")
  answer = tf.gather(drawn, place + 1, batch_dims=1)
  index = tf.range(length)[None]
  last = index == length - 1
  return {
    "inputs": tf.where((index == place) | last, special, drawn),
    "labels": tf.where(last, answer + 1, 0),
  }


def accuracy(
  targets: Sequence[Sequence[int]], predictions: Sequence[Sequence[int]]
) -> dict[str, float]:
  """The shares of right answers, and of examples with all answers right.

  Args:
    targets: of each example the answers by token, -1 where there is none.
    predictions: likewise; where there is no target they may be anything.
  """
  pairs = zip(targets, predictions, strict=True)
  right = [
    [a == b for a, b in zip(target, found, strict=False) if a >= 0]
    for target, found in pairs
  ]
  answers = [each for example in right for each in example]
  return {
    "accuracy": 100.0 * sum(answers) / len(answers),
    "all_right": 100.0 * sum(map(all, right)) / len(right),
  }


class Numbers(seqio.DataSource):
  """The numbers of examples, no two of any splits alike.

  Splits that share a seed would otherwise have the same examples.
  """

  def __init__(self) -> None:
    super().__init__(
      splits=tuple(_EXAMPLES),
      num_input_examples=dict(_EXAMPLES),
      caching_permitted=False,
    )

  @property
  def supports_arbitrary_sharding(self) -> bool:
    """False: what is divided are the examples."""
    return False

  def list_shards(self, split: str) -> Sequence[str]:
    """One, that stands for all."""
    return [split]

  def get_dataset(
    self,
    split: str = "train",
    shuffle: bool = True,
    seed: int | None = None,
    shard_info: seqio.ShardInfo | None = None,
    **unused: object,
  ) -> tf.data.Dataset:
    """Returns {"number": int64} of all examples of a split, or of a shard."""
    first = list(_EXAMPLES).index(split) << 40
    dataset = tf.data.Dataset.range(first, first + _EXAMPLES[split])
    if shard_info is not None:
      dataset = dataset.shard(shard_info.num_shards, shard_info.index)
    return dataset.map(lambda number: {"number": number})


def add(
  name: str,
  make: Callable[[tf.Tensor], Rows],
  *,
  length: int,
  vocab_size: int,
) -> str:
  """Registers a task with SeqIO, once; returns its name.

  Args:
    name: of the task.
    make: from keys [R] int64 to as many rows.
    length: of a row.
    vocab_size: ids of the inputs; labels have one more.
  """
  if name not in seqio.TaskRegistry.names():
    sizes = {"inputs": vocab_size, "labels": vocab_size + 1}
    seqio.TaskRegistry.add(
      name,
      source=Numbers(),
      preprocessors=[functools.partial(_draw, make=make, length=length)],
      output_features={k: features.ids(size) for k, size in sizes.items()},
      metric_fns=[accuracy],
    )
  return name


def _draw(
  dataset: tf.data.Dataset,
  *,
  make: Callable[[tf.Tensor], Rows],
  length: int,
) -> tf.data.Dataset:
  """Examples for numbers, of SeqIO's seeds."""
  together = max(1, min(_ROWS, _TOKENS // length))

  @seqio.map_over_dataset(num_seeds=1)
  def drawn(batch: rows.Batch, seed: tf.Tensor) -> Rows:
    number = batch["number"]
    # Of the place too: a small epoch may have a number twice in a batch.
    places = draws.seeded(tf.stack(seed), tf.size(number))
    return make(draws.bits(places, number, "rows"))

  return rows.unbatch(drawn(dataset.batch(together)))


def _below(limit: int, keys: tf.Tensor, count: int, what: str) -> tf.Tensor:
  """Random int32 from 0 to `limit` - 1, `count` for each key: [R count]."""
  places = tf.range(count)[None]
  return draws.below(tf.constant(limit), keys[:, None], places, what)
