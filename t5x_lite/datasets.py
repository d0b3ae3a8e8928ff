"""A SeqIO task or mixture as batches of numpy arrays, exactly resumable.

The order of examples is a function of the configuration and its seed alone.
The data is divided into a fixed number of shards, hosts divide the shards
among them, and a batch is made of the rows of all shards in their order: the
same batch whoever reads it.  The state of the iterator (shuffle buffers,
examples waiting to be packed) is saved shard by shard, so that a run goes on
with the next batch after any stop, and on any number of hosts.
"""

import dataclasses
import functools
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from t5x_lite import errors, pieces, vocabularies
from t5x_lite.pipelines import (
  cached,
  divide,
  iterator,
  providers,
  shards,
  stream,
)

DataIterator = iterator.DataIterator


@dataclasses.dataclass(frozen=True)
class Dataset:
  """A split of a task or mixture, and how batches are made of it.

  Attributes:
    mixture: name of a registered SeqIO task or mixture, or an object whose
      method `register` registers one and returns its name.
    feature_lengths: length of a row, by feature; longer examples are cut.
    batch_size: rows of a batch over all hosts.
    split: of the task.
    shuffle: whether examples are shuffled, every epoch in another order.
    seed: of the order and of all that is random in preprocessing.
    pack: whether a row holds many examples; otherwise it holds one.
    document_length: examples may be as long as this, more than a row; a row
      of a batch then goes on where the same row of the batch before ended.
      Set by training objectives that do.  None: an example fits in a row.
    num_epochs: None repeats forever.  After a finite number the last batch is
      filled up with rows of zeros.
    num_shards: of the data.  Part of the order, so constant in a run; hosts
      divide them evenly.  Each is read by one thread.
    shuffle_buffer: examples of a task in a shard among which the next one is
      drawn; None is the task's own.
    vocabulary: of all text features, in place of the task's own.
    task_modules: modules that register tasks; imported first.
    vocab_size: ids of the model, if known: the vocabulary may not have more.
    limits: instead of it, by feature, for those that are no text, such as
      labels; None for any number of ids.
    use_cache: whether to read what `t5x_lite cache` made ahead, where it fits;
      the examples and their order are the same without.
  """

  mixture: Any
  feature_lengths: Mapping[str, int]
  batch_size: int
  split: str = "train"
  shuffle: bool = True
  seed: int = 0
  pack: bool = True
  document_length: int | None = None
  num_epochs: int | None = None
  num_shards: int = 4
  shuffle_buffer: int | None = None
  vocabulary: vocabularies.Vocabulary | None = None
  task_modules: Sequence[str] = ("tasks",)
  vocab_size: int | None = None
  limits: Mapping[str, int | None] = dataclasses.field(default_factory=dict)
  use_cache: bool = True

  def __post_init__(self):
    counts = {
      "batch_size": self.batch_size,
      "num_shards": self.num_shards,
      "num_epochs": self.num_epochs,
      "shuffle_buffer": self.shuffle_buffer,
      "document_length": self.document_length,
    } | {f"feature_lengths[{k!r}]": v for k, v in self.feature_lengths.items()}
    for name, value in counts.items():
      if value is not None and value < 1:
        raise errors.ConfigError(f"Dataset.{name} is {value}; use 1 or more")
    if not self.feature_lengths:
      raise errors.ConfigError(
        "Dataset.feature_lengths is empty; T5's are "
        "{'inputs': 512, 'targets': 114}"
      )
    if self.document_length and not self.pack:
      raise errors.ConfigError(
        "Dataset.document_length is for packed rows: leave it out, or pack"
      )
    if self.seed < 0:
      raise errors.ConfigError(f"Dataset.seed is {self.seed}; use 0 or more")
    if self.batch_size % self.num_shards:
      raise errors.ConfigError(
        f"batch_size {self.batch_size} is not divisible by the number of data "
        f"shards, {self.num_shards}: change it, or set Dataset.num_shards to "
        f"{_largest_divisor(self.batch_size, self.num_shards)}"
      )
    if self.vocabulary and self.vocab_size is not None:
      size = int(self.vocabulary.fingerprint()["size"])
      _check_vocab_size(self.vocabulary, size, self.vocab_size)

  def for_model(self, objective: Any, model: Any) -> "Dataset":
    """Returns the dataset of an objective's features, checked against a model.

    Features that are aligned with `inputs` are as long, whatever length is
    given for them.

    Args:
      objective: see `objectives.Objective`.
      model: one that it has checked; may be abstract.

    Raises:
      errors.ConfigError: a feature has no length, or the vocabulary has more
        ids than the model.
    """
    lengths = {}
    for name in objective.features:
      source = "inputs" if name in objective.aligned else name
      if source not in self.feature_lengths:
        raise errors.ConfigError(
          f"the objective needs the feature {source!r}, but Dataset."
          f"feature_lengths has only {sorted(self.feature_lengths)}"
          f"{errors.suggest(source, self.feature_lengths)}: give its length"
        )
      lengths[name] = self.feature_lengths[source]
    return dataclasses.replace(
      self,
      feature_lengths=lengths,
      vocab_size=model.vocab_size,
      limits=objective.limits(model),
    )

  @functools.cached_property
  def provider(self) -> providers.Provider:
    """The SeqIO task or mixture, with the vocabulary of this dataset.

    Raises:
      errors.ConfigError: there is none of this name, or it has no such
        feature.
      errors.DataError: the vocabulary cannot be read.
    """
    return providers.find(
      self.mixture,
      task_modules=self.task_modules,
      vocabulary=self.vocabulary,
      features=self.feature_lengths,
    )

  @property
  def example_lengths(self) -> Mapping[str, int]:
    """Tokens of an example at most, by feature."""
    limit = self.document_length
    return {k: limit or length for k, length in self.feature_lengths.items()}

  def fingerprint(self) -> dict[str, Any]:
    """Returns all that the order of examples depends on, as JSON values."""
    features = self.provider.output_features
    # Runs of before there was such a thing go on.
    long = {"document_length": self.document_length}
    return (long if self.document_length else {}) | {
      "mixture": self.provider.name,
      "tasks": providers.rates(self.provider),
      "vocabulary": {
        name: providers.fingerprint(features[name].vocabulary)
        for name in self.feature_lengths
      },
      "feature_lengths": dict(self.feature_lengths),
      "batch_size": self.batch_size,
      "split": self.split,
      "shuffle": self.shuffle,
      "shuffle_buffer": self.shuffle_buffer,
      "seed": self.seed,
      "pack": self.pack,
      "num_epochs": self.num_epochs,
      "num_shards": self.num_shards,
    }

  def iterator(
    self,
    *,
    host_index: int = 0,
    num_hosts: int = 1,
    rows: Sequence[Sequence[int]] | None = None,
  ) -> iterator.DataIterator:
    """Returns an iterator over the rows of one host, from the beginning.

    Args:
      host_index: of this host.
      num_hosts: that share the rows of a batch.
      rows: those of each host; by default equal parts, in order.

    Raises:
      errors.ConfigError: the data shards cannot be divided among the hosts,
        or what `provider` raises.
      errors.DataError: there is no data, or an endless pipeline has state
        that cannot be saved or fixed by a seed.
    """
    share = divide.share(
      self.batch_size, self.num_shards, host_index, num_hosts, rows
    )
    # All hosts must see the end of finite data with the same batch.
    endless = self.num_epochs is None
    read = share.visible if endless else range(self.num_shards)
    sizes = self._vocab_sizes()
    pipelines = self._pipelines(self.tables)
    for shard in read:
      pipelines[shard].check()
    streams = {
      shard: stream.Stream(
        pipelines[shard],
        pieces.packer(self),
        sizes,
        endless=self.num_epochs is None,
      )
      for shard in read
    }
    return iterator.DataIterator(
      streams,
      share=share,
      num_shards=self.num_shards,
      rows_per_shard=self.batch_size // self.num_shards,
      record=self.fingerprint(),
      caches={name: t.folder.name for name, t in self.tables.items()},
      reopen=self._reopened,
    )

  @functools.cached_property
  def tables(self) -> Mapping[str, cached.Table]:
    """The caches that fit, by task.

    Raises:
      errors.DataError: one is damaged, or its source has changed unseen.
    """
    if not self.use_cache or "[" in self.split:
      return {}
    found = {
      task.name: cached.find(task, self.split, self.example_lengths)
      for task in shards.tasks_of_split(self)
    }
    return {name: table for name, table in found.items() if table}

  @functools.cached_property
  def _made(self) -> dict[frozenset[str], Sequence[shards.Pipeline]]:
    return {}

  def _pipelines(
    self, tables: Mapping[str, cached.Table]
  ) -> Sequence[shards.Pipeline]:
    """Returns the pipeline of each shard, made once."""
    key = frozenset(tables)
    if key not in self._made:
      self._made[key] = [
        shards.Pipeline(self, index, tables) for index in range(self.num_shards)
      ]
    return self._made[key]

  def _reopened(self, caches: Mapping[str, str]) -> Sequence[shards.Pipeline]:
    """Returns pipelines that read these caches: a saved state is theirs."""
    for task, folder in caches.items():
      table = self.tables.get(task)
      if table is None or table.folder.name != folder:
        raise errors.CheckpointError(
          f"the data were read from the cache {folder} of task {task!r}, which "
          "is not there any more: make it again (t5x_lite cache) to go on "
          "exactly"
        )
    logging.info(
      "the data go on as they were read when the step was saved: %s from a "
      "cache",
      ", ".join(sorted(caches)) or "nothing",
    )
    return self._pipelines({task: self.tables[task] for task in caches})

  def _vocab_sizes(self) -> dict[str, int]:
    """Returns the number of ids of each feature, checked against the model."""
    sizes = {}
    for name in self.feature_lengths:
      vocabulary = self.provider.output_features[name].vocabulary
      sizes[name] = vocabulary.vocab_size
      if name in self.limits:
        _check_size(name, sizes[name], self.limits[name])
      else:
        _check_vocab_size(vocabulary, sizes[name], self.vocab_size)
    return sizes


def _check_vocab_size(vocabulary: Any, size: int, limit: int | None) -> None:
  if limit is not None and size > limit:
    raise errors.ConfigError(
      f"{vocabulary} has {size} ids, but the model only {limit}: give the "
      f"model a vocab_size of {size} or more"
    )


def _check_size(feature: str, size: int, limit: int | None) -> None:
  if limit is not None and size > limit:
    raise errors.ConfigError(
      f"the task's feature {feature!r} has {size} ids, 0 to {size - 1}, but the"
      f" model takes {limit}: make it larger (for labels, NUM_CLASSES is the"
      " number of classes, without the 0 of those that have none)"
    )


def _largest_divisor(number: int, limit: int) -> int:
  return next(n for n in range(limit, 0, -1) if number % n == 0)
