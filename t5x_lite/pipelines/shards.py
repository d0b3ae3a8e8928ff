"""The examples of a data shard, as a tf.data pipeline of chunks.

A run divides its data into a fixed number of shards, and each has a pipeline
with seeds of its own.  Which host reads a shard makes no difference to what
is in it, nor do the number of cores or the speed of the others.
"""

import functools
import logging
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from t5x_lite import errors, pieces
from t5x_lite.pipelines import (
  cached,
  damage,
  graphs,
  lookups,
  order,
  providers,
)

if typing.TYPE_CHECKING:
  import seqio
  import tensorflow as tf

  from t5x_lite import datasets

# Examples that cross from TensorFlow to numpy at once.
CHUNK = 128


class Pipeline:
  """What a data shard reads, built when it is first used.

  Args:
    dataset: whose shard it is.
    shard: its number, from 0.
    tables: caches that are read in place of tasks, by name.
  """

  def __init__(
    self,
    dataset: "datasets.Dataset",
    shard: int,
    tables: "Mapping[str, cached.Table] | None" = None,
  ):
    self._dataset = dataset
    self._shard = shard
    self._tables = dict(tables or {})
    self._chunk = pieces.examples_of_chunk(CHUNK, dataset.document_length)

  @property
  def name(self) -> str:
    """How messages call it."""
    count = self._dataset.num_shards
    part = f", shard {self._shard} of {count}" if count > 1 else ""
    return (
      f"{self._dataset.provider.name!r} (split {self._dataset.split!r}{part})"
    )

  def check(self) -> None:
    """Builds the pipeline and reads an example.

    Raises:
      errors.ConfigError: there is no such split, or it must not be shuffled.
      errors.DataError: there is no data, or an endless pipeline has state
        that cannot be saved or fixed by a seed.
    """
    _ = self._built

  def check_savable(self) -> None:
    """Raises errors.DataError if the pipeline has state of its own."""
    if self._built[1] is None:
      graphs.serialize(self._built[0], self.name)

  def chunks(self) -> "tf.data.Dataset":
    """Returns the pipeline, from its beginning whenever it is called.

    Elements map a feature to [N T] ids, zero beyond `feature + "/length"` [N];
    or to the ids alone, one example after the other, if all are cached.
    """
    mixed, graph = self._built
    # Made anew, for iterators over one dataset share its random numbers.
    if graph is None:
      mixed = self._mixed(self._tasks())
    else:
      mixed = graphs.streamlined(mixed, graph)
    return mixed.prefetch(2).with_options(options())

  def read(self, chunks: Iterator) -> Any:
    """Returns the next element of an iterator, None at its end.

    Raises:
      errors.DataError: it cannot be read.
    """
    import tensorflow as tf

    try:
      return next(chunks, None)
    except tf.errors.OpError as error:
      explained = damage.explained(
        error, self._dataset.provider, self._dataset.split
      )
      if explained is None:
        raise
      raise explained from error

  @functools.cached_property
  def _built(self) -> tuple["tf.data.Dataset", Any]:
    """The pipeline and its graph, None if it has state."""
    endless = self._dataset.num_epochs is None
    tasks = self._tasks()
    mixed = self._mixed(tasks)
    try:
      graph = graphs.serialize(mixed, self.name)
    except graphs.StatefulError:
      if endless:
        raise
      return mixed, None  # Finite data can be read without being saved.
    if endless:
      for name, examples in tasks.items():
        self._check_not_empty(name, examples)
    return mixed, graph

  def _tasks(self) -> dict[str, "tf.data.Dataset"]:
    """Returns the examples of each task; their rows where `_rows_alone`."""
    dataset = self._dataset
    tasks = tasks_of_split(dataset)
    alone, found, base = self._rows_alone(tasks), {}, 0
    for task in tasks:
      table = self._tables.get(task.name)
      if table is None:
        examples = _cut(_examples(dataset, task, self._shard), dataset)
      elif table.fitting.prefix.whole:
        make = functools.partial(lookups.as_rows, table=table, base=base)
        examples = _examples(dataset, task, self._shard, make)
        if alone:
          base += table.num_rows
        else:
          examples = _cut(self._of_rows(examples, [table]).unbatch(), dataset)
      else:
        make = functools.partial(lookups.continued, table=table)
        examples = _cut(_examples(dataset, task, self._shard, make), dataset)
      found[task.name] = examples
    return found

  def _rows_alone(self, tasks: "Sequence[seqio.Task]") -> bool:
    """Whether every task is cached as a whole."""
    tables = [self._tables.get(task.name) for task in tasks]
    return all(table and table.fitting.prefix.whole for table in tables)

  def _of_rows(
    self, rows: "tf.data.Dataset", tables: "Sequence[cached.Table]"
  ) -> "tf.data.Dataset":
    """Returns batches of cut examples, ragged, with the counts of tokens."""
    import tensorflow as tf

    lengths = self._dataset.example_lengths

    def look_up(batch: Mapping[str, "tf.Tensor"]) -> dict[str, Any]:
      found = lookups.chunk(tables, batch["row"], lengths)
      sizes = {k: tf.cast(v.row_lengths(), tf.int32) for k, v in found.items()}
      return found | {f"{name}/length": v for name, v in sizes.items()}

    return rows.batch(self._chunk).map(look_up)

  def _mixed(self, tasks: Mapping[str, "tf.data.Dataset"]) -> "tf.data.Dataset":
    """Draws from the tasks at their rates, and makes chunks.

    A finite mixture goes on until all of its tasks are through.
    """
    import tensorflow as tf

    dataset, provider = self._dataset, self._dataset.provider
    mixed, *others = tasks.values()
    if others:
      if dataset.num_epochs is None:
        sample = provider._sample_fn
      else:
        sample = functools.partial(
          tf.data.Dataset.sample_from_datasets, stop_on_empty_dataset=False
        )
      rates = providers.rates(provider)
      weights = [rates[name] for name in tasks]
      seed = order.seed(dataset.seed, self._shard, provider.name)
      mixed = sample([mixed, *others], weights, seed)
    if not self._rows_alone(of_split := tasks_of_split(dataset)):
      return mixed.padded_batch(self._chunk)
    tables = [self._tables[task.name] for task in of_split]
    names = dataset.feature_lengths
    return self._of_rows(mixed, tables).map(
      lambda batch: batch | {name: batch[name].flat_values for name in names}
    )

  def _check_not_empty(self, task: str, examples: "tf.data.Dataset") -> None:
    """Reads an example: endless repetition of nothing would never end."""
    graph = graphs.serialize(examples, self.name)
    first = graphs.first_epoch(examples, graph).with_options(options())
    if self.read(iter(first)) is None:
      raise errors.DataError(
        f"task {task!r} has no examples in {self.name}: its preprocessors drop "
        "all of them, or there are fewer than data shards (then use more data, "
        "or set Dataset.num_shards = 1)"
      )


def tasks_of_split(dataset: "datasets.Dataset") -> list["seqio.Task"]:
  """Returns the tasks that have the split; warns of others."""
  tasks = providers.tasks(dataset.provider)
  known = sorted({split for task in tasks for split in task.splits})
  split = dataset.split.partition("[")[0]  # TFDS: "train[:90%]".
  if split not in known:
    raise errors.ConfigError(
      f"{dataset.provider.name!r} has no split {split!r}"
      f"{errors.suggest(split, known)}; it has {known}"
    )
  others = tuple(task.name for task in tasks if split not in task.splits)
  if others:
    _warn(split, others)
  return [task for task in tasks if split in task.splits]


@functools.cache
def _warn(split: str, others: tuple[str, ...]) -> None:
  """Tells once, not for every shard, which tasks are left out."""
  if len(others) == 1:
    logging.warning("task %s has no split %r: left out", others[0], split)
    return
  more = f" and {len(others) - 3} more" if len(others) > 3 else ""
  named = ", ".join(others[:3]) + more
  logging.warning("tasks %s have no split %r: left out", named, split)


def _cut(
  examples: "tf.data.Dataset", dataset: "datasets.Dataset"
) -> "tf.data.Dataset":
  """Cuts features to their lengths and counts their tokens."""
  import tensorflow as tf

  def cut(example: Mapping[str, "tf.Tensor"]) -> dict[str, "tf.Tensor"]:
    limits = dataset.example_lengths.items()
    ids = {name: example[name][:limit] for name, limit in limits}
    return ids | {f"{name}/length": tf.size(v) for name, v in ids.items()}

  return examples.map(cut)


def options() -> "tf.data.Options":
  """Returns options for one of several pipelines that run side by side."""
  import tensorflow as tf

  result = tf.data.Options()
  result.deterministic = True
  result.autotune.enabled = False
  result.experimental_optimization.apply_default_optimizations = False
  result.threading.private_threadpool_size = 1
  result.threading.max_intra_op_parallelism = 1
  return result


def _examples(
  dataset: "datasets.Dataset",
  task: "seqio.Task",
  shard: int,
  make: "Callable[[order.Source], seqio.Task] | None" = None,
) -> "tf.data.Dataset":
  """Returns what a task, or the one that `make` makes of its source, gives."""
  import seqio
  import tensorflow as tf

  if (
    dataset.shuffle
    and task.shuffle_buffer_size is None
    and not task.source.performs_internal_shuffling
  ):
    raise errors.ConfigError(
      f"task {task.name!r} must not be shuffled (its shuffle_buffer_size is "
      "None): set Dataset.shuffle = False"
    )
  source = order.Source(task.source, dataset.seed, dataset.num_shards)
  made = task.replace(source=source) if make is None else make(source)
  try:
    return made.get_dataset(
      dict(dataset.example_lengths),
      split=dataset.split,
      shuffle=dataset.shuffle,
      shuffle_buffer_size=dataset.shuffle_buffer,
      seed=order.seed(dataset.seed, shard, task.name),
      shard_info=seqio.ShardInfo(shard, dataset.num_shards),
      num_epochs=dataset.num_epochs,
      trim_output_features=False,
      try_in_mem_cache=False,
    )
  except (OSError, tf.errors.NotFoundError) as error:
    raise errors.DataError(
      f"the data of task {task.name!r} cannot be read: {error}"
    ) from error
