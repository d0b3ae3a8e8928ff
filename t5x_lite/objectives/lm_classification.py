"""The class of an example by a decoder, which learns its text as well."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite import errors, metrics, models
from t5x_lite.metrics import Metrics
from t5x_lite.objectives import base, chunked, discriminative, fitting


@dataclasses.dataclass(frozen=True)
class LMClassification:
  """A decoder's class of an example, and its text besides.

  L2 + lambda L1 of Radford et al. 2018, equation 5: the cross-entropy of the
  class, told at the last token, and that of each next token of the inputs.
  The model reads the inputs as they are: a task that wants a token to begin
  or to end with has it in there.  The two losses are divided by normalizers
  of their own, so by default the means over classes and over tokens are
  added; with normalization None it is the equation's sum.

  Labels are 1 + the class at the first token, 0 at the others, as for
  `Classification`.

  Attributes:
    lm_weight: lambda.
    label_smoothing: probability taken from the class, in [0, 1).
    z_loss: coefficient of log(Z)^2, of the text.
    normalization: what divides the summed losses; see `base.normalizer`.
    logits_chunk: as of `TextTargets`.
  """

  lm_weight: float = 0.5
  label_smoothing: float = 0.0
  z_loss: float = 0.0
  normalization: float | str | None = "real_target_tokens"
  logits_chunk: int | None = None

  features = ("inputs", "labels")
  aligned = ("labels",)

  def __post_init__(self) -> None:
    base.check_normalization(self.normalization)
    base.check_smoothing(self.label_smoothing)
    chunked.check(self, logits_chunk=self.logits_chunk)
    if self.lm_weight < 0:
      raise errors.ConfigError(
        f"LMClassification.lm_weight is {self.lm_weight}; use 0 or more"
      )

  def check(self, model: Any) -> None:
    """Raises ConfigError unless the model is a DecoderOnly with the head."""
    fitting.check_kind(self, model, models.DecoderOnly)
    remedy = fitting.head_file("gpt_classification")
    fitting.check_head(self, model, "classification", remedy)

  def limits(self, model: Any) -> dict[str, int | None]:
    """Of labels."""
    return fitting.label_limit(model, "classification")

  def convert(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """SeqIO's decoder features, and labels at last tokens, [B T] int32."""
    base.check_aligned(batch, self.aligned)
    tokens, segments = batch["inputs"], batch["inputs_segment_ids"]
    positions, real = batch["inputs_positions"], segments != 0
    # A token is the last one if the next is the first, or there is none.
    last = np.roll(base.first_of(segments), -1, axis=1)
    last[:, -1:] = True
    first = np.arange(tokens.shape[1]) - positions
    labels = np.take_along_axis(batch["labels"], first, axis=1)
    weights = real & ~last
    return {
      "decoder_input_tokens": tokens,
      "decoder_target_tokens": np.where(
        weights, np.roll(tokens, -1, axis=1), 0
      ),
      "decoder_loss_weights": weights.astype(np.float32),
      "decoder_segment_ids": segments,
      "decoder_positions": positions,
      "labels": np.where(real & last, labels, 0),
    }

  def normalizer(self, batch: Mapping[str, jax.Array]) -> jax.Array:
    """The two numbers that divide the losses of a whole batch, [2]."""
    labels, segments = batch["labels"], batch["decoder_segment_ids"]
    classes = base.label_normalizer(self.normalization, labels, segments)
    text = base.decoder_normalizer(self.normalization, batch)
    return jnp.stack([classes, text])

  def loss(
    self, model: Any, batch: Mapping[str, jax.Array], key: jax.Array | None
  ) -> tuple[jax.Array, Metrics]:
    """The sums of both losses [2], and metrics; see `base.Objective`."""
    x = model.hidden(batch, key=key)
    classes, result = base.label_loss(
      model.readout("classification", key=key)(x),
      batch["labels"],
      batch["decoder_segment_ids"],
      normalization=self.normalization,
      label_smoothing=self.label_smoothing,
    )
    each = chunked.cross_entropy(
      model.readout("logits"),
      x,
      batch["decoder_target_tokens"],
      chunk=self.logits_chunk,
      z_loss=self.z_loss,
    )
    text, tokens = base.decoder_loss(
      each, batch, normalization=self.normalization
    )
    lm_loss = tokens["loss"]
    weighted = metrics.Mean(self.lm_weight * lm_loss.total, lm_loss.weight)
    result |= {
      "loss": metrics.added(result["loss"], weighted),
      "lm_loss": lm_loss,
      "lm_accuracy": tokens["accuracy"],
      "z_loss": tokens["z_loss"],
    }
    return jnp.stack([classes, self.lm_weight * text]), result

  def predict(
    self, model: Any, batch: Mapping[str, jax.Array]
  ) -> dict[str, jax.Array]:
    """The class of each example, told at its last token."""
    logits = model.outputs(batch, key=None)["classification"]
    lengths = jnp.sum(batch["decoder_segment_ids"] != 0, axis=1)
    last = jnp.maximum(lengths - 1, 0)[:, None, None]
    return discriminative.class_of(
      jnp.take_along_axis(logits, last, axis=1)[:, 0]
    )

  def label(self, labels: np.ndarray) -> Any:
    """The class by the label at the first token."""
    return discriminative.first_class(labels)
