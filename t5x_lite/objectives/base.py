"""What the trainer asks of an objective, and what objectives share."""

from collections.abc import Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite import errors
from t5x_lite.metrics import Metrics

NORMALIZATIONS = (
  "real_target_tokens",
  "total_target_tokens",
  "average_per_sequence",
)


class Objective(Protocol):
  """From task features to a loss.

  Attributes:
    features: names of the task features that it reads.
  """

  features: tuple[str, ...]

  def convert(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Model features from packed or padded task features, on the host."""

  def check(self, model: Any) -> None:
    """Raises ConfigError for a model of the wrong kind."""

  def normalizer(self, batch: Mapping[str, jax.Array]) -> jax.Array:
    """The number that divides the loss sum of a whole batch; scalar."""

  def loss(
    self, model: Any, batch: Mapping[str, jax.Array], key: jax.Array | None
  ) -> tuple[jax.Array, Metrics]:
    """Sum of the losses over the batch (float32 scalar), and metrics."""


def shift_right(
  tokens: np.ndarray, segments: np.ndarray, start: int = 0
) -> np.ndarray:
  """Decoder inputs [B T]: each example moved right by one after `start`."""
  shifted = np.roll(tokens, 1, axis=1)
  first = np.diff(segments, axis=1, prepend=-1) != 0
  return np.where(first | (segments == 0), start, shifted)


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
