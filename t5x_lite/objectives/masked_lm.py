"""Masked tokens from an encoder, with or without the next sentence."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite import errors, metrics, models, rules
from t5x_lite.metrics import Metrics
from t5x_lite.objectives import base, chunked, fitting

_MASKED = "add 'masked_lm': @layers.MaskedLMHead to TASK_HEADS"
_PAIRS = (
  "add 'next_sentence': @next_sentence/layers.Classifier to TASK_HEADS, with"
  " next_sentence/layers.Classifier.num_classes = 2, or use"
  " objectives/masked_lm.gin"
)


@dataclasses.dataclass(frozen=True)
class MaskedLM:
  """Cross-entropy of what was masked (Devlin et al. 2019, section 3.1).

  Targets hold the original id of each token to predict, and 0 elsewhere.
  With the next sentence, the loss is the sum of two, each divided by its own
  normalizer: by default the mean over masked tokens and the mean over pairs.

  Attributes:
    next_sentence: whether to tell too if the second part of each example
      follows the first; labels are 1 if it does, 2 if it does not.
    z_loss: coefficient of log(Z)^2, of masked tokens.
    label_smoothing: probability taken from the masked token, in [0, 1).
    normalization: what divides the summed losses; see `base.normalizer`.
    logits_chunk: positions of each row whose logits exist at a time; None is
      all of them.  Numbers don't depend on it; memory does, see `chunked`.
    predictions: the most masked tokens that a row has, the only positions that
      there are logits of; None is all positions.
  """

  next_sentence: bool = False
  z_loss: float = 0.0
  label_smoothing: float = 0.0
  normalization: float | str | None = "real_target_tokens"
  logits_chunk: int | None = None
  predictions: int | None = None

  def __post_init__(self) -> None:
    base.check_normalization(self.normalization)
    base.check_smoothing(self.label_smoothing)
    chunked.check(
      self, logits_chunk=self.logits_chunk, predictions=self.predictions
    )

  @property
  def features(self) -> tuple[str, ...]:
    """Inputs, and what is aligned with them."""
    return ("inputs", *self.aligned)

  @property
  def aligned(self) -> tuple[str, ...]:
    """Targets and, with the next sentence, token types and labels."""
    pairs = ("token_types", "labels") if self.next_sentence else ()
    return ("targets", *pairs)

  def check(self, model: Any) -> None:
    """Raises ConfigError unless the model is an EncoderOnly with the heads."""
    fitting.check_kind(self, model, models.EncoderOnly)
    fitting.check_head(self, model, "masked_lm", _MASKED)
    if self.next_sentence:
      fitting.check_head(self, model, "next_sentence", _PAIRS, classes=2)

  def limits(self, model: Any) -> dict[str, int | None]:
    """Of token types and labels, if it reads them."""
    if not self.next_sentence:
      return {}
    labels = fitting.label_limit(model, "next_sentence")
    return fitting.type_limit(model) | labels

  def convert(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """SeqIO's encoder features, all [B T] int32 but the weights; labels.

    Raises:
      DataError: a row has more masked tokens than `predictions`, or features
        do not cover the inputs.
    """
    targets = batch["targets"]
    most = int(np.max(np.sum(targets != 0, axis=1), initial=0))
    if self.predictions is not None and most > self.predictions:
      raise errors.DataError(
        f"a row has {most} masked tokens but MaskedLM.predictions is"
        f" {self.predictions}: set it (PREDICTIONS) to the most that a row can"
        " have, or to None"
      )
    return {
      **base.encoder_features(batch, self.aligned),
      "encoder_target_tokens": targets,
      "encoder_loss_weights": (targets != 0).astype(np.float32),
    }

  def normalizer(self, batch: Mapping[str, jax.Array]) -> jax.Array:
    """The number, or the two, that divide the loss of a whole batch."""
    segments = batch["encoder_segment_ids"]
    weights = batch["encoder_loss_weights"]
    masked = base.normalizer(self.normalization, weights, segments)
    if not self.next_sentence:
      return masked
    labels = batch["labels"]
    pairs = base.label_normalizer(self.normalization, labels, segments)
    return jnp.stack([masked, pairs])

  def loss(
    self, model: Any, batch: Mapping[str, jax.Array], key: jax.Array | None
  ) -> tuple[jax.Array, Metrics]:
    """Loss sum, or the two of them, and metrics; see `base.Objective`."""
    hidden = model.hidden(batch, key=key)
    segments, weights = (
      batch["encoder_segment_ids"],
      batch["encoder_loss_weights"],
    )
    x, targets, weights, own = self._predicted(
      hidden, batch["encoder_target_tokens"], weights, segments
    )
    token = chunked.cross_entropy(
      model.readout("masked_lm"),
      x,
      targets,
      chunk=self.logits_chunk,
      z_loss=self.z_loss,
      label_smoothing=self.label_smoothing,
    )
    masked, result = base.token_loss(
      token, weights, own, normalization=self.normalization
    )
    if not self.next_sentence:
      return masked, result
    follows, pairs = base.label_loss(
      model.readout("next_sentence", key=key)(hidden),
      batch["labels"],
      segments,
      normalization=self.normalization,
    )
    result |= {
      "loss": metrics.added(result["loss"], pairs["loss"]),
      "next_sentence_loss": pairs["loss"],
      "next_sentence_accuracy": pairs["accuracy"],
    }
    return jnp.stack([masked, follows]), result

  def _predicted(
    self, x: jax.Array, targets: jax.Array, *aligned: jax.Array
  ) -> tuple[jax.Array, ...]:
    """Arrays [B T ...] at the positions to predict, in order, [B P ...]."""
    length = targets.shape[1]
    if self.predictions is None or self.predictions >= length:
      return x, targets, *aligned
    # Where a mesh divides the length, it must divide what is taken of it.
    parts = rules.parts("length", length)
    count = -(-self.predictions // parts) * parts
    where = jnp.argsort(targets == 0, axis=1, stable=True)[:, :count]
    x = jnp.take_along_axis(x, where[..., None], axis=1)
    x = rules.constrain(x, "batch", "length", "embed")
    return x, *(
      jnp.take_along_axis(array, where, axis=1) for array in (targets, *aligned)
    )
