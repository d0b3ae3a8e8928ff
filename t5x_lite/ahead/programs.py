"""The programs of a run, lowered for devices that need not be there."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from t5x_lite import datasets, errors, example_batches, pieces
from t5x_lite.auto_mesh import Automatic
from t5x_lite.compilation import Compilation
from t5x_lite.decoding import Predictor, Search, decoder_of
from t5x_lite.objectives import Generative, Objective, Recurrent
from t5x_lite.optimizers import Optimizer
from t5x_lite.partitioning import Partitioner
from t5x_lite.trainer import Trainer

TRAIN, EVAL, DECODE = "train", "eval", "decode"
STEPS = (TRAIN, EVAL, DECODE)
_MIXTURE = "any"  # no data is read


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
  """What a training run computes with, as its gin files have it.

  Attributes:
    model: constructor, called with rngs=...
    objective: from batch to loss.
    optimizer: from gradients to updates.
    partitioner: mesh and rules, or what chooses them.
    feature_lengths: of a row, by feature.
    batch_size: rows of a batch over all devices.
    num_microbatches: parts that a batch is computed in.
    decoder: for the decode step; None is greedy, to the length of the targets.
    decode_batch_size: rows that are decoded together; None is `batch_size`.
    compilation: XLA's options for the training step.
  """

  model: Callable[..., Any]
  objective: Objective
  optimizer: Optimizer
  partitioner: Partitioner | Automatic
  feature_lengths: Mapping[str, int]
  batch_size: int
  num_microbatches: int = 1
  decoder: Search | None = None
  decode_batch_size: int | None = None
  compilation: Compilation = Compilation()  # noqa: RUF009 (frozen)

  @functools.cached_property
  def trainer(self) -> Trainer:
    """Checked against the mesh.

    Raises:
      ConfigError: model, objective, batch and mesh don't fit.
    """
    made = Trainer(
      self.model,
      self.objective,
      self.optimizer,
      self.partitioner,
      num_microbatches=self.num_microbatches,
      batch_size=self.batch_size,
    )
    made.check()
    made.partitioner.check_batch(self.batch_size, self.num_microbatches)
    return made

  def lowered(self, step: str) -> jax.stages.Lowered:
    """One of STEPS, traced and lowered for the devices of the mesh.

    Raises:
      ConfigError: the model does not decode.
    """
    state = self.trainer.abstract
    if step == TRAIN:
      return self.trainer.lower(state, self.batch)
    if step == EVAL:
      return self.trainer.lower_eval(state.model, self.batch)
    return self._decoding()

  @functools.cached_property
  def batch(self) -> dict[str, jax.ShapeDtypeStruct]:
    """Model features of a training batch [B ...]."""
    lengths = self._lengths
    rows = example_batches.padded([], lengths, 1)
    if isinstance(self.objective, Recurrent):
      zeros = np.zeros((1, 1), np.int32)
      rows |= {f"{name}{pieces.BEFORE}": zeros for name in lengths}
    return self._abstract(self.objective.convert(rows), self.batch_size)

  @functools.cached_property
  def _lengths(self) -> Mapping[str, int]:
    dataset = datasets.Dataset(
      mixture=_MIXTURE,
      feature_lengths=self.feature_lengths,
      batch_size=self.batch_size,
      num_shards=1,
    )
    model = self.trainer.abstract.model
    return dataset.for_model(self.objective, model).feature_lengths

  def _abstract(
    self, rows: Mapping[str, np.ndarray], size: int
  ) -> dict[str, jax.ShapeDtypeStruct]:
    sharding = self.trainer.partitioner.batch_sharding()
    return {
      name: jax.ShapeDtypeStruct(
        (size, *row.shape[1:]),
        jax.dtypes.canonicalize_dtype(row.dtype),
        sharding=sharding,
      )
      for name, row in rows.items()
    }

  def decodes(self) -> bool:
    """Whether the objective's models generate text."""
    return isinstance(self.objective, Generative)

  @functools.cached_property
  def search(self) -> Search:
    """The decoder, with some id for the end: which one changes nothing here."""
    search = decoder_of(self.feature_lengths, self.decoder)
    return search.completed(eos=1)

  def _decoding(self) -> jax.stages.Lowered:
    if not isinstance(self.objective, Generative):
      raise errors.ConfigError(
        f"{type(self.objective).__name__} does not generate text: leave"
        " 'decode' out of STEPS"
      )
    size = self.decode_batch_size or self.batch_size
    lengths = dict(self.feature_lengths)
    for name in self.objective.prompt_features:
      if name not in lengths:
        # As long as the targets, of which it is the beginning.
        lengths[name] = lengths["targets"]
    predictor = Predictor(
      self.search,
      self.objective,
      self.trainer.partitioner,
      feature_lengths=lengths,
      batch_size=size,
    )
    prompts = {name: lengths[name] for name in self.objective.prompt_features}
    rows = self.objective.prompt(example_batches.padded([], prompts, 1))
    batch = self._abstract(rows, size)
    return predictor.lower(self.trainer.abstract.model, batch)
