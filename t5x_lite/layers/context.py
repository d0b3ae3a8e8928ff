"""What a sublayer may look at besides its own input."""

import dataclasses

import jax
import jax.numpy as jnp

import pallas_kernels

Bias = jax.Array | pallas_kernels.RelativeBias


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Context:
  """Built once per forward pass by the model; the stack adds bias and keys.

  Attributes:
    positions: [B T] int32, position of each token in its own example.
    segments: [B T] int32 ids of packed examples, 0 for padding; None when
      every token may see every other.
    prefix: [B S] bool, tokens that all of their example sees although
      attention is causal; S keys are T, or those of the cache.
    start: int32 scalar, where this call's tokens begin in the cache; a number
      where it is known before tracing, which kernels need.
    cache_segments: [B S] int32, as `segments`, of the keys in the cache;
      None when all may be seen.
    bias: [1 N T S] added to the logits of self-attention, or T5's, which each
      layer works out for itself, by block if it can.
    memory: [B S D] output of the encoder.
    memory_segments: [B S] int32, as `segments`, of the encoder's tokens.
    key: for dropout; None is deterministic (there is no train flag).
  """

  positions: jax.Array
  segments: jax.Array | None = None
  prefix: jax.Array | None = None
  start: jax.Array | int | None = None
  cache_segments: jax.Array | None = None
  bias: Bias | None = None
  memory: jax.Array | None = None
  memory_segments: jax.Array | None = None
  key: jax.Array | None = None

  def fold(self, data: int) -> "Context":
    """The same context with another dropout key."""
    if self.key is None:
      return self
    return dataclasses.replace(self, key=jax.random.fold_in(self.key, data))


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
  """Zeroes entries with probability `rate` and rescales the others."""
  if key is None or rate == 0.0:
    return x
  keep = jax.random.bernoulli(key, 1.0 - rate, x.shape)
  return jnp.where(keep, x / (1.0 - rate), jnp.zeros_like(x))
