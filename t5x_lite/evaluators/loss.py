"""The objective's own metrics on held-out data."""

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

from t5x_lite import datasets, errors, metrics
from t5x_lite.evaluators import base
from t5x_lite.train_state import TrainState
from t5x_lite.trainer import Trainer


@dataclasses.dataclass(frozen=True)
class LossEvaluator:
  """The objective's metrics (loss, accuracy, ...) on held-out data.

  Attributes:
    name: of the group of metrics.
    dataset: finite (num_epochs=1) unless num_batches is given.
    num_batches: the first so many, always the same; None is all.
  """

  name: str
  dataset: datasets.Dataset
  num_batches: int | None = None

  def __post_init__(self) -> None:
    if self.num_batches is None and self.dataset.num_epochs is None:
      raise errors.ConfigError(
        f"evaluator {self.name!r} would never end: set num_epochs = 1 of its"
        " dataset, or num_batches"
      )
    if self.dataset.document_length is not None:
      raise errors.ConfigError(
        f"evaluator {self.name!r} begins every row anew: set document_length of"
        " its dataset to None"
      )
    if self.num_batches is not None and self.num_batches < 1:
      raise errors.ConfigError(
        f"evaluator {self.name!r}: num_batches is {self.num_batches}; use 1 or"
        " more, or None for all"
      )

  def __call__(self, trainer: Trainer, state: TrainState) -> dict[str, float]:
    """Means over the tokens of all batches.

    Raises:
      DataError: there is no data.
    """
    total: metrics.Metrics | None = None
    # Each host reads all batches, and takes of them what its devices hold.
    own = trainer.partitioner.rows(self.dataset.batch_size)
    held = own[jax.process_index()]
    for batch in self._batches(trainer):
      rows = {name: value[held] for name, value in batch.items()}
      found = trainer.eval_step(state.model, trainer.put(rows))
      total = found if total is None else metrics.merge(total, found)
    if total is None:
      raise errors.DataError(f"evaluator {self.name!r} has no data")
    return metrics.values(total)

  def vocabularies(self, trainer: Trainer) -> dict[str, dict[str, Any]]:
    """The fingerprint of the vocabulary of each feature."""
    dataset = self._fitted(trainer)
    return base.fingerprints(dataset.provider, dataset.feature_lengths)

  def _batches(self, trainer: Trainer) -> Iterable[Mapping[str, np.ndarray]]:
    if self.num_batches is None:  # may be too many to keep
      return self._iterator(trainer)
    if "rows" not in self._kept:
      batches = itertools.islice(self._iterator(trainer), self.num_batches)
      self._kept["rows"] = list(batches)
    return self._kept["rows"]

  @functools.cached_property
  def _kept(self) -> dict[str, Any]:
    return {}

  def _iterator(self, trainer: Trainer) -> datasets.DataIterator:
    trainer.partitioner.check_batch(self.dataset.batch_size, 1)
    return self._fitted(trainer).iterator()

  def _fitted(self, trainer: Trainer) -> datasets.Dataset:
    return self.dataset.for_model(trainer.objective, trainer.abstract.model)
