"""What becomes of a model on rows longer or shorter than it was trained on."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

from t5x_lite import datasets, errors
from t5x_lite.evaluators.loss import LossEvaluator
from t5x_lite.train_state import TrainState
from t5x_lite.trainer import Trainer


@dataclasses.dataclass(frozen=True)
class LengthEvaluator:
  """The objective's metrics on a task of several lengths: "<length>/<metric>".

  Attributes:
    task: constructor of a task by `length`, which has a method `register`,
      such as `tasks.synthetic.InductionHeads`.
    lengths: of rows.
    dataset: of each, but for its mixture, its lengths and its batch size.
    num_examples: of each length; where a batch has more, all of one batch.
    batch_tokens: at most so many tokens in a batch, so that long rows need no
      more memory than short ones; a row that is longer is a batch alone.
    name: of the group of metrics.
  """

  task: Callable[..., Any]
  lengths: Sequence[int]
  dataset: datasets.Dataset
  num_examples: int = 1024
  batch_tokens: int = 65536
  name: str = "length"

  def __post_init__(self) -> None:
    own = type(self).__name__
    if not self.lengths:
      raise errors.ConfigError(f"{own}.lengths is empty: give one or more")
    for length in self.lengths:
      if length < 1:
        raise errors.ConfigError(
          f"{own}.lengths has {length}: use lengths of 1 or more"
        )
    for field in ("num_examples", "batch_tokens"):
      value = getattr(self, field)
      if value < 1:
        raise errors.ConfigError(f"{own}.{field} is {value}; use 1 or more")

  def __call__(self, trainer: Trainer, state: TrainState) -> dict[str, float]:
    """Means over the examples of each length.

    Raises:
      ConfigError: the task has no such length, or a mesh does not divide the
        rows of a batch.
    """
    return {
      f"{length}/{name}": value
      for length, evaluator in self._each.items()
      for name, value in evaluator(trainer, state).items()
    }

  def vocabularies(self, trainer: Trainer) -> dict[str, dict[str, Any]]:
    """The fingerprint of the vocabulary of each feature."""
    first = next(iter(self._each.values()))
    return first.vocabularies(trainer)

  @functools.cached_property
  def _each(self) -> dict[int, LossEvaluator]:
    return {length: self._of(length) for length in self.lengths}

  def _of(self, length: int) -> LossEvaluator:
    # A power of two, which devices can share.
    rows = 1 << (max(1, self.batch_tokens // length).bit_length() - 1)
    dataset = dataclasses.replace(
      self.dataset,
      mixture=self.task(length=length),
      feature_lengths=dict.fromkeys(self.dataset.feature_lengths, length),
      batch_size=rows,
      num_shards=1,
    )
    batches = math.ceil(self.num_examples / rows)
    return LossEvaluator(str(length), dataset, batches)
