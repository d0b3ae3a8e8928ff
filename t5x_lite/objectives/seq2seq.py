"""Text to text: inputs to an encoder, targets from a decoder."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite import errors, losses, metrics, models
from t5x_lite.metrics import Metrics
from t5x_lite.objectives import base


@dataclasses.dataclass(frozen=True)
class Seq2Seq:
  """Cross-entropy of the targets given the inputs.

  Attributes:
    z_loss: coefficient of log(Z)^2.
    label_smoothing: probability taken from the target, in [0, 1).
    normalization: what divides the summed loss; see `base.normalizer`.
  """

  z_loss: float = 1e-4
  label_smoothing: float = 0.0
  normalization: float | str | None = "real_target_tokens"

  features = ("inputs", "targets")

  def __post_init__(self) -> None:
    base.check_normalization(self.normalization)
    if not 0 <= self.label_smoothing < 1:
      raise errors.ConfigError(
        f"label_smoothing {self.label_smoothing} is not in [0, 1)"
      )

  def check(self, model: Any) -> None:
    """Raises ConfigError unless the model is an EncoderDecoder."""
    if not isinstance(model, models.EncoderDecoder):
      raise errors.ConfigError(
        "Seq2Seq needs an EncoderDecoder model, got"
        f" {type(model).__name__}: use another objective file"
      )

  def convert(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """SeqIO's encoder-decoder features, all [B T] int32 but the weights."""
    targets, segments = batch["targets"], batch["targets_segment_ids"]
    return {
      "encoder_input_tokens": batch["inputs"],
      "encoder_segment_ids": batch["inputs_segment_ids"],
      "encoder_positions": batch["inputs_positions"],
      "decoder_target_tokens": targets,
      "decoder_input_tokens": base.shift_right(targets, segments),
      "decoder_loss_weights": (segments != 0).astype(np.float32),
      "decoder_segment_ids": segments,
      "decoder_positions": batch["targets_positions"],
    }

  def normalizer(self, batch: Mapping[str, jax.Array]) -> jax.Array:
    """The number that divides the loss sum of a whole batch; scalar."""
    return base.normalizer(
      self.normalization,
      batch["decoder_loss_weights"],
      batch["decoder_segment_ids"],
    )

  def loss(
    self, model: Any, batch: Mapping[str, jax.Array], key: jax.Array | None
  ) -> tuple[jax.Array, Metrics]:
    """Loss sum and metrics; see `base.Objective`."""
    logits = model(batch, key=key)
    targets = batch["decoder_target_tokens"]
    weights = batch["decoder_loss_weights"]
    token = losses.cross_entropy(
      logits,
      targets,
      z_loss=self.z_loss,
      label_smoothing=self.label_smoothing,
    )
    weight = jnp.sum(weights)
    total = token.cross_entropy + token.z_loss
    each = {
      "loss": total,
      "cross_entropy": token.cross_entropy,
      "z_loss": token.z_loss,
      "accuracy": token.correct,
    }
    result = {
      name: metrics.Mean(jnp.sum(values * weights), weight)
      for name, values in each.items()
    }
    if self.normalization == "average_per_sequence":
      weights = base.per_sequence(weights, batch["decoder_segment_ids"])
    return jnp.sum(total * weights), result
