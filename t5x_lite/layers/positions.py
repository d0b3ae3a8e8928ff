"""Positions added to embeddings, or to the logits of attention.

Of the first kind, a stack's `positions`, are LearnedPositions and
SinusoidalPositions: (positions [B T], dtype) -> [B T D].  Of the second, a
stack's `bias`, are RelativeBias and Alibi: (T, S, start) -> [1 N T S], or what
attention makes it of.  Those that rotate queries and keys are in rotary.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.nn import initializers

import pallas_kernels
from pallas_kernels.attention.relative import diagonals
from t5x_lite import errors
from t5x_lite.layers.linear import param


class RelativeBias(nnx.Module):
  """A learned number per head and bucketed distance, shared by all layers."""

  def __init__(
    self,
    *,
    heads: int,
    buckets: int = 32,
    max_distance: int = 128,
    bidirectional: bool = True,
    rngs: nnx.Rngs,
  ):
    exact = buckets // (4 if bidirectional else 2)
    if not 1 <= exact < max_distance:
      raise errors.ConfigError(
        f"relative bias with {buckets} buckets and max_distance"
        f" {max_distance}: {exact} of the buckets of a direction are exact,"
        " which must be at least 1 and less than max_distance"
      )
    self.buckets = buckets
    self.max_distance = max_distance
    self.bidirectional = bidirectional
    init = initializers.variance_scaling(1.0, "fan_avg", "uniform")
    self.table = param(rngs, (buckets, heads), (None, "heads"), init)

  def __call__(
    self, q_length: int, k_length: int, start: jax.Array | int = 0
  ) -> jax.Array | pallas_kernels.RelativeBias:
    """The bias of queries start, start+1, ... over keys 0, 1, ....

    Distances count tokens, so the bias is right within every packed example;
    between examples, attention is masked.

    Returns:
      What attention makes of a block at a time, and for one query, a step of
      decoding, [1 N 1 S], which all layers share.
    """
    bias = pallas_kernels.RelativeBias(
      self.table[...], self.bidirectional, self.max_distance
    )
    return bias.whole(1, k_length, start) if q_length == 1 else bias


class Alibi(nnx.Module):
  """Attention logits fall linearly with distance (Press et al. 2022).

  Head n of N falls by 2^(-8 (n + 1) / N) a token.  Where N is no power of 2,
  the slopes are those of the next smaller one, and between them every second
  of the next larger one, as in the authors' code.  There is no parameter.
  """

  def __init__(self, *, heads: int, rngs: nnx.Rngs):
    del rngs
    self.heads = heads

  def __call__(
    self, q_length: int, k_length: int, start: jax.Array | int = 0
  ) -> jax.Array:
    """Bias [1 N T S] of queries start, start+1, ... over keys 0, 1, ...."""
    distance = jnp.abs(jnp.arange(1 - q_length, k_length) - start)
    slopes = jnp.asarray(alibi_slopes(self.heads), jnp.float32)
    values = -slopes[:, None] * distance.astype(jnp.float32)
    return diagonals(values, q_length)[None]


def alibi_slopes(heads: int) -> np.ndarray:
  """[N] float64, see `Alibi`."""
  power = 2 ** (heads.bit_length() - 1)
  slopes = 2.0 ** (-8.0 * np.arange(1, power + 1) / power)
  between = 2.0 ** (-4.0 * np.arange(1, 2 * (heads - power), 2) / power)
  return np.concatenate([slopes, between])


class LearnedPositions(nnx.Module):
  """A vector per position (Gehring et al. 2017); BERT, GPT, BART.

  Attributes:
    length: number of positions there are.
    offset: rows of the table before that of position 0, which only published
      weights have: 2 in BART and RoBERTa.
  """

  def __init__(
    self,
    dim: int,
    *,
    length: int,
    offset: int = 0,
    std: float = 0.02,
    rngs: nnx.Rngs,
  ):
    self.length, self.offset = length, offset
    shape, init = (length + offset, dim), initializers.normal(std)
    self.table = param(rngs, shape, (None, "embed"), init)

  def check(self, length: int) -> None:
    """Raises ConfigError for rows of more tokens than there are positions."""
    if length > self.length:
      raise errors.ConfigError(
        f"rows of {length} tokens, but the model has {self.length} learned"
        " positions: use shorter FEATURE_LENGTHS, or give the model more"
      )

  def __call__(self, positions: jax.Array, dtype: str) -> jax.Array:
    """Rows [B T D] for positions [B T]."""
    self.check(positions.shape[1])
    rows = jnp.take(self.table[...], positions + self.offset, axis=0)
    return rows.astype(dtype)


class SinusoidalPositions(nnx.Module):
  """sin and cos of position times frequency (Vaswani et al. 2017, 3.5).

  Features 2i and 2i + 1 have frequency base^(-2i / D).  There is no parameter.
  """

  def __init__(self, dim: int, *, base: float = 10000.0, rngs: nnx.Rngs):
    del rngs
    if dim % 2:
      raise errors.ConfigError(f"sinusoidal positions need an even dim: {dim}")
    self.dim, self.base = dim, base

  def check(self, length: int) -> None:
    """There is no longest row."""

  def __call__(self, positions: jax.Array, dtype: str) -> jax.Array:
    """Rows [B T D] for positions [B T]."""
    exponents = np.arange(0, self.dim, 2, dtype=np.float64) / self.dim
    frequencies = jnp.asarray(self.base**-exponents, jnp.float32)
    angles = positions[..., None].astype(jnp.float32) * frequencies
    pairs = jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-1)
    return pairs.reshape(*positions.shape, self.dim).astype(dtype)
