"""Normalization over the model width, with statistics in float32."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn import initializers

from t5x_lite.layers.linear import param


class RMSNorm(nnx.Module):
  """x / rms(x) * scale (Zhang and Sennrich 2019); the LayerNorm of T5."""

  def __init__(self, dim: int, *, epsilon: float = 1e-6, rngs: nnx.Rngs):
    self.epsilon = epsilon
    self.scale = param(rngs, (dim,), ("embed",), initializers.ones)

  def __call__(self, x: jax.Array) -> jax.Array:
    y = x.astype(jnp.float32)
    mean_square = jnp.mean(jnp.square(y), axis=-1, keepdims=True)
    y = y * jax.lax.rsqrt(mean_square + self.epsilon)
    return (y * self.scale[...]).astype(x.dtype)
