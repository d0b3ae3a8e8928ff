"""What objectives share whose targets are the tokens of a decoder."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import numpy as np

from t5x_lite.metrics import Metrics
from t5x_lite.objectives import base, chunked


@dataclasses.dataclass(frozen=True)
class TextTargets:
  """Cross-entropy of `decoder_target_tokens`; subclasses say what they are.

  Attributes:
    z_loss: coefficient of log(Z)^2; PaLM's is 1e-4 (Chowdhery et al. 2022,
      section 5).
    label_smoothing: probability taken from the target, in [0, 1).
    logits_chunk: positions of each row whose logits exist at a time; None is
      all of them.  Numbers don't depend on it; memory does, see `chunked`.
    normalization: what divides the summed loss; see `base.normalizer`.
    start: id that each example begins with.
  """

  z_loss: float = 1e-4
  label_smoothing: float = 0.0
  normalization: float | str | None = "real_target_tokens"
  start: int = 0
  logits_chunk: int | None = None

  aligned = ()
  prompt_features = ("inputs",)
  scored_features: ClassVar[tuple[str, ...]] = ("inputs", "targets")

  def __post_init__(self) -> None:
    base.check_normalization(self.normalization)
    base.check_smoothing(self.label_smoothing)
    chunked.check(self, logits_chunk=self.logits_chunk)

  def limits(self, model: Any) -> dict[str, int | None]:
    """All features are text."""
    return {}

  def convert(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """SeqIO's decoder features, all [B T] int32 but the weights."""
    targets, segments = batch["targets"], batch["targets_segment_ids"]
    return {
      "decoder_target_tokens": targets,
      "decoder_input_tokens": base.shift_right(targets, segments, self.start),
      "decoder_loss_weights": (segments != 0).astype(np.float32),
      "decoder_segment_ids": segments,
      "decoder_positions": batch["targets_positions"],
    }

  def scored(
    self, batch: Mapping[str, np.ndarray], ends: Sequence[int] = ()
  ) -> dict[str, np.ndarray]:
    """The features of training, where only targets have weight."""
    return self.convert(batch)

  def normalizer(self, batch: Mapping[str, jax.Array]) -> jax.Array:
    """The number that divides the loss sum of a whole batch; scalar."""
    return base.decoder_normalizer(self.normalization, batch)

  def loss(
    self, model: Any, batch: Mapping[str, jax.Array], key: jax.Array | None
  ) -> tuple[jax.Array, Metrics]:
    """Loss sum and metrics; see `base.Objective`."""
    return self.of_hidden(model.hidden(batch, key=key), model, batch)

  def of_hidden(
    self, x: jax.Array, model: Any, batch: Mapping[str, jax.Array]
  ) -> tuple[jax.Array, Metrics]:
    """Loss sum and metrics of what the decoder makes of a batch, [B T D]."""
    token = chunked.cross_entropy(
      model.readout(),
      x,
      batch["decoder_target_tokens"],
      chunk=self.logits_chunk,
      z_loss=self.z_loss,
      label_smoothing=self.label_smoothing,
    )
    return base.decoder_loss(token, batch, normalization=self.normalization)
