"""The definition of attention in plain jnp, and the path taken on CPU."""

import jax
import jax.numpy as jnp

# Finite, so that a row without any visible key gives a mean and not NaN.
MASKED = -1e10


def visible(
  q_length: int,
  k_length: int,
  *,
  causal: bool,
  q_segments: jax.Array | None,
  k_segments: jax.Array | None,
  q_start: jax.Array | int,
) -> jax.Array | None:
  """Which keys a query sees: bool [1 or B, 1, T, S], or None for all."""
  mask = None
  if causal:
    queries = q_start + jnp.arange(q_length)
    mask = (queries[:, None] >= jnp.arange(k_length)[None, :])[None, None]
  if q_segments is not None and k_segments is not None:
    same = (q_segments[:, :, None] == k_segments[:, None, :])[:, None]
    mask = same if mask is None else mask & same
  return mask


def attention(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  *,
  causal: bool,
  q_segments: jax.Array | None,
  k_segments: jax.Array | None,
  q_start: jax.Array | int,
  bias: jax.Array | None,
  scale: float,
  dropout: float,
  key: jax.Array | None,
) -> jax.Array:
  """See `pallas_kernels.attention`."""
  logits = jnp.einsum("btnh,bsnh->bnts", q, k, preferred_element_type="float32")
  if scale != 1.0:
    logits = logits * scale
  if bias is not None:
    logits = logits + bias
  mask = visible(
    q.shape[1],
    k.shape[1],
    causal=causal,
    q_segments=q_segments,
    k_segments=k_segments,
    q_start=q_start,
  )
  if mask is not None:
    logits = jnp.where(mask, logits, MASKED)
  weights = jax.nn.softmax(logits, axis=-1)
  if dropout and key is not None:
    keep = jax.random.bernoulli(key, 1 - dropout, weights.shape)
    weights = jnp.where(keep, weights / (1 - dropout), 0.0)
  return jnp.einsum("bnts,bsnh->btnh", weights.astype(v.dtype), v)
