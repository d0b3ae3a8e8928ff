"""What the trainer asks of an objective, and what objectives share.

An objective reads features of a SeqIO task, int32 ids.  Beside text these are

  token_types  0 or 1 for every token of the inputs: their first or second part
  labels       for every token of the inputs: 1 + its class, 0 where there is
               none; the class of a whole example stands at its first token

with a `seqio.PassThroughVocabulary`, so that the run's vocabulary leaves them
alone.  Zeros inside an example are values; padding has segment id 0.
"""

from collections.abc import Collection, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite import errors, losses, metrics
from t5x_lite.metrics import Metrics

NORMALIZATIONS = (
  "real_target_tokens",
  "total_target_tokens",
  "average_per_sequence",
)


class Objective(Protocol):
  """From task features to a loss."""

  @property
  def features(self) -> tuple[str, ...]:
    """Names of the task features that it reads."""

  @property
  def aligned(self) -> tuple[str, ...]:
    """Those with a value for every token of `inputs`, and so its length."""

  def convert(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Model features from packed or padded task features, on the host."""

  def check(self, model: Any) -> None:
    """Raises ConfigError for a model of the wrong kind."""

  def limits(self, model: Any) -> dict[str, int | None]:
    """The number of ids of features that are no text; None for any number."""

  def normalizer(self, batch: Mapping[str, jax.Array]) -> jax.Array:
    """The number that divides the loss sum of a whole batch; scalar or [K]."""

  def loss(
    self, model: Any, batch: Mapping[str, jax.Array], key: jax.Array | None
  ) -> tuple[jax.Array, Metrics]:
    """Sum of the losses over the batch, and metrics.

    Float32, scalar, or [K] if the loss has K parts with a normalizer each;
    what is minimized is the sum of the parts after that division.
    """


def shift_right(
  tokens: np.ndarray, segments: np.ndarray, start: int = 0
) -> np.ndarray:
  """Decoder inputs [B T]: each example moved right by one after `start`."""
  shifted = np.where(first_of(segments), start, np.roll(tokens, 1, axis=1))
  return np.where(segments == 0, 0, shifted).astype(tokens.dtype)


def first_of(segments: np.ndarray) -> np.ndarray:
  """Whether a token is the first of its example (or of padding), [B T]."""
  return np.diff(segments, axis=1, prepend=-1) != 0


def encoder_features(
  batch: Mapping[str, np.ndarray], aligned: Collection[str]
) -> dict[str, np.ndarray]:
  """Model features [B T] of inputs and what covers them; raises DataError."""
  check_aligned(batch, aligned)
  features = {
    "encoder_input_tokens": batch["inputs"],
    "encoder_segment_ids": batch["inputs_segment_ids"],
    "encoder_positions": batch["inputs_positions"],
  }
  if "token_types" in aligned:
    features["encoder_token_types"] = batch["token_types"]
  if "labels" in aligned:
    features["labels"] = batch["labels"]
  return features


def check_aligned(
  batch: Mapping[str, np.ndarray], aligned: Collection[str]
) -> None:
  """Raises DataError unless the features cover the tokens of `inputs`."""
  for name in aligned:
    own, inputs = (batch[f"{n}_segment_ids"] for n in (name, "inputs"))
    if not np.array_equal(own, inputs):
      raise errors.DataError(
        f"the task's feature {name!r} must have a value for every token of"
        " 'inputs', and no EOS of its own (seqio.Feature(..., add_eos=False)),"
        " but some examples differ in length"
      )


def check_normalization(value: float | str | None) -> None:
  """Raises ConfigError unless None, a positive number or a known name."""
  if isinstance(value, str):
    known = value in NORMALIZATIONS
  else:
    known = value is None or value > 0
  if not known:
    raise errors.ConfigError(
      f"normalization {value!r} is not None (the sum), a positive number, or"
      f" one of {', '.join(NORMALIZATIONS)}"
      f"{errors.suggest(str(value), NORMALIZATIONS)}"
    )


def check_smoothing(value: float) -> None:
  """Raises ConfigError unless it is a probability below 1."""
  if not 0 <= value < 1:
    raise errors.ConfigError(f"label_smoothing {value} is not in [0, 1)")


def normalizer(
  normalization: float | str | None, weights: jax.Array, segments: jax.Array
) -> jax.Array:
  """The divisor of a summed loss.

  Args:
    normalization: None for the sum; a number; "real_target_tokens" (sum of
      the weights); "total_target_tokens" (with padding);
      "average_per_sequence" (number of packed examples).
    weights: [B T] loss weights.
    segments: [B T] ids of packed examples, 0 for padding.

  Returns:
    Scalar float32, at least a tiny number, so that empty batches give 0.
  """
  if normalization is None:
    return jnp.ones((), jnp.float32)
  if normalization == "total_target_tokens":
    return jnp.asarray(weights.size, jnp.float32)
  if normalization == "real_target_tokens":
    return jnp.maximum(jnp.sum(weights), 1.0)
  if normalization == "average_per_sequence":
    sequences = jnp.sum(jnp.max(segments, axis=1))
    return jnp.maximum(sequences.astype(jnp.float32), 1.0)
  return jnp.asarray(normalization, jnp.float32)


def per_sequence(weights: jax.Array, segments: jax.Array) -> jax.Array:
  """Weights [B T] divided by their sum over the token's own example."""
  same = segments[:, :, None] == segments[:, None, :]
  sums = jnp.einsum("bts,bs->bt", same.astype(weights.dtype), weights)
  return weights / jnp.maximum(sums, 1e-9)


def total(
  normalization: float | str | None,
  values: jax.Array,
  weights: jax.Array,
  segments: jax.Array,
) -> jax.Array:
  """The loss sum that belongs to `normalizer`, of values [B T]; scalar."""
  if normalization == "average_per_sequence":
    weights = per_sequence(weights, segments)
  return jnp.sum(values * weights)


def means(values: Mapping[str, jax.Array], weights: jax.Array) -> Metrics:
  """Means over tokens of values [B T], by name."""
  weight = jnp.sum(weights)
  return {
    name: metrics.Mean(jnp.sum(value * weights), weight)
    for name, value in values.items()
  }


def token_loss(
  token: losses.TokenLosses,
  weights: jax.Array,
  segments: jax.Array,
  *,
  normalization: float | str | None,
) -> tuple[jax.Array, Metrics]:
  """Loss sum of tokens or classes, and its means over all of weight.

  Args:
    token: losses of each, [B T]; anything where there is no weight.
    weights: [B T].
    segments: [B T] ids of packed examples, 0 for padding.
    normalization: see `normalizer`.
  """
  loss = token.cross_entropy + token.z_loss
  each = {
    "loss": loss,
    "cross_entropy": token.cross_entropy,
    "z_loss": token.z_loss,
    "accuracy": token.correct,
  }
  return total(normalization, loss, weights, segments), means(each, weights)


def decoder_loss(
  token: losses.TokenLosses,
  batch: Mapping[str, jax.Array],
  *,
  normalization: float | str | None,
) -> tuple[jax.Array, Metrics]:
  """`token_loss` of a batch's decoder targets."""
  return token_loss(
    token,
    batch["decoder_loss_weights"],
    batch["decoder_segment_ids"],
    normalization=normalization,
  )


def decoder_normalizer(
  normalization: float | str | None, batch: Mapping[str, jax.Array]
) -> jax.Array:
  """`normalizer` of a batch's decoder targets."""
  weights = batch["decoder_loss_weights"]
  return normalizer(normalization, weights, batch["decoder_segment_ids"])


def label_weights(labels: jax.Array) -> jax.Array:
  """1 where there is a label, float32 [B T]."""
  return (labels != 0).astype(jnp.float32)


def label_normalizer(
  normalization: float | str | None, labels: jax.Array, segments: jax.Array
) -> jax.Array:
  """`normalizer` of labels [B T]."""
  return normalizer(normalization, label_weights(labels), segments)


def label_loss(
  logits: jax.Array,
  labels: jax.Array,
  segments: jax.Array,
  *,
  normalization: float | str | None,
  label_smoothing: float = 0.0,
) -> tuple[jax.Array, Metrics]:
  """`token_loss` of classes where there is a label; logits [B T C]."""
  loss, result = token_loss(
    losses.cross_entropy(logits, labels - 1, label_smoothing=label_smoothing),
    label_weights(labels),
    segments,
    normalization=normalization,
  )
  return loss, {name: result[name] for name in ("loss", "accuracy")}
