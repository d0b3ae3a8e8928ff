"""Token embeddings, and the two ways from activations to logits."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn import initializers

from t5x_lite.layers.linear import fan_in, param
from t5x_lite.partitioning import constrain


class Embedding(nnx.Module):
  """A row per token; unscaled, as T5's."""

  def __init__(self, vocab_size: int, dim: int, *, rngs: nnx.Rngs):
    init = initializers.normal(1.0)
    self.tokens = param(rngs, (vocab_size, dim), ("vocab", "embed"), init)

  def __call__(self, tokens: jax.Array, dtype: str) -> jax.Array:
    """Rows [B T D] of tokens [B T], in `dtype`."""
    x = jnp.take(self.tokens[...], tokens, axis=0).astype(dtype)
    return constrain(x, "batch", "length", "embed")

  def attend(self, x: jax.Array) -> jax.Array:
    """Tied float32 logits [B T V] of x [B T D], scaled by 1 / sqrt(D)."""
    x = x * (x.shape[-1] ** -0.5)
    table = self.tokens[...].astype(x.dtype)
    return _logits("btd,vd->btv", x, table)


class LogitsHead(nnx.Module):
  """Untied logits: a matrix of their own (T5 1.1)."""

  def __init__(self, vocab_size: int, dim: int, *, rngs: nnx.Rngs):
    shape, axes = (dim, vocab_size), ("embed", "vocab")
    self.kernel = param(rngs, shape, axes, fan_in(0))

  def __call__(self, x: jax.Array) -> jax.Array:
    """float32 logits [B T V] of x [B T D]."""
    return _logits("btd,dv->btv", x, self.kernel[...].astype(x.dtype))


def _logits(equation: str, x: jax.Array, kernel: jax.Array) -> jax.Array:
  logits = jnp.einsum(equation, x, kernel, preferred_element_type=jnp.float32)
  return constrain(logits, "batch", "length", "vocab")
