"""Answers at the tokens that ask for one, by a decoder alone."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite import models
from t5x_lite.metrics import Metrics
from t5x_lite.objectives import base, fitting


@dataclasses.dataclass(frozen=True)
class CausalLabelling:
  """Cross-entropy of the answer at each token that has one.

  The answer is a token: the model's logits, which elsewhere tell the next
  token, tell it.  The model reads the inputs as they are, up to and with the
  token in question, and no answer is an input: it cannot lean on those that
  it gave before.  Labels are 1 + the answer, 0 where there is none.

  Attributes:
    label_smoothing: probability taken from the answer, in [0, 1).
    normalization: what divides the summed loss; see `base.normalizer`.
  """

  label_smoothing: float = 0.0
  normalization: float | str | None = "real_target_tokens"

  features: ClassVar[tuple[str, ...]] = ("inputs", "labels")
  aligned: ClassVar[tuple[str, ...]] = ("labels",)

  def __post_init__(self) -> None:
    base.check_normalization(self.normalization)
    base.check_smoothing(self.label_smoothing)

  def check(self, model: Any) -> None:
    """Raises ConfigError unless the model is a causal DecoderOnly."""
    fitting.check_kind(self, model, models.DecoderOnly)

  def limits(self, model: Any) -> dict[str, int | None]:
    """Of labels: none, and one for each token."""
    return {"labels": 1 + model.vocab_size}

  def convert(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """SeqIO's decoder features and `labels`, all [B T] int32.

    Raises:
      DataError: labels do not cover the tokens of the inputs.
    """
    base.check_aligned(batch, self.aligned)
    return {
      "decoder_input_tokens": batch["inputs"],
      "decoder_segment_ids": batch["inputs_segment_ids"],
      "decoder_positions": batch["inputs_positions"],
      "labels": batch["labels"],
    }

  def normalizer(self, batch: Mapping[str, jax.Array]) -> jax.Array:
    """The number that divides the loss sum of a whole batch; scalar."""
    segments = batch["decoder_segment_ids"]
    return base.label_normalizer(self.normalization, batch["labels"], segments)

  def loss(
    self, model: Any, batch: Mapping[str, jax.Array], key: jax.Array | None
  ) -> tuple[jax.Array, Metrics]:
    """Loss sum and metrics; see `base.Objective`."""
    return base.label_loss(
      model(batch, key=key),
      batch["labels"],
      batch["decoder_segment_ids"],
      normalization=self.normalization,
      label_smoothing=self.label_smoothing,
    )

  def predict(
    self, model: Any, batch: Mapping[str, jax.Array]
  ) -> dict[str, jax.Array]:
    """The answer of each token [B T], -1 where there is no token."""
    found = jnp.argmax(model(batch, key=None), axis=-1)
    real = batch["decoder_segment_ids"] != 0
    return {"prediction": jnp.where(real, found, -1)}

  def label(self, labels: np.ndarray) -> Any:
    """The answer of each token [T], -1 where there is none."""
    return (labels - 1).tolist()
