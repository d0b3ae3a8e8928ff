"""The definition of attention in plain jnp, which keeps all weights at once."""

import jax
import jax.numpy as jnp

from pallas_kernels.attention.dropout import Dropout
from pallas_kernels.attention.masks import Mask
from pallas_kernels.attention.relative import RelativeBias


def attention(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  *,
  mask: Mask,
  bias: jax.Array | None,
  relative_bias: RelativeBias | None,
  dropout: Dropout | None,
  scale: float,
  soft_cap: float | None,
) -> tuple[jax.Array, jax.Array]:
  """Output [B T N V] and log-sum-exp [B T N] of `pallas_kernels.attention`."""
  size, q_length, heads, _ = q.shape
  k_length, kv_heads = k.shape[1:3]
  queries, keys = jnp.arange(q_length), jnp.arange(k_length)
  logits = _logits(q, k)
  if scale != 1.0:
    logits = logits * scale
  if soft_cap is not None:
    logits = soft_cap * jnp.tanh(logits / soft_cap)
  if bias is not None:
    logits = logits + bias
  if relative_bias is not None:
    whole = relative_bias.whole(q_length, k_length, mask.q_start)
    logits = logits + whole.astype(logits.dtype)
  visible = mask.visible(queries, keys)
  if visible is not None:
    logits = jnp.where(visible, logits, -jnp.inf)
  weights, lse = softmax(logits)
  if dropout is not None:
    weights = dropout(weights, dropout.seeds(size, heads), queries, keys)
  weights = weights.astype(v.dtype)
  lse = jnp.swapaxes(lse, 1, 2)
  if kv_heads == heads:
    y = jnp.einsum("bnts,bsnh->btnh", weights, v)
    return y.astype(q.dtype), lse
  groups = (kv_heads, heads // kv_heads)
  weights = weights.reshape(size, *groups, q_length, k_length)
  y = jnp.einsum("bkgts,bskh->btkgh", weights, v)
  return y.reshape(size, q_length, heads, -1).astype(q.dtype), lse


@jax.custom_jvp
def softmax(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Weights [... S] and log-sum-exp [...] of logits [... S].

  Of logits that are all -inf the weights are 0, and so is their gradient.
  """
  # Finite, because -inf less -inf would be no number.
  least = jnp.finfo(logits.dtype).min
  top = jnp.max(logits, axis=-1, keepdims=True, initial=least)
  weights = jnp.exp(logits - top)
  total = jnp.sum(weights, axis=-1, keepdims=True)
  lse = jnp.squeeze(top + jnp.log(total), -1)
  # The greatest adds 1, if there is one.
  return weights / jnp.maximum(total, 1), lse


@softmax.defjvp
def _softmax_jvp(
  primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
  """From the weights alone: not even the logits need be kept."""
  (logits,), (change,) = primals, tangents
  weights, lse = softmax(logits)
  mean = jnp.sum(weights * change, axis=-1, keepdims=True)
  return (weights, lse), (weights * (change - mean), jnp.squeeze(mean, -1))


def _logits(q: jax.Array, k: jax.Array) -> jax.Array:
  """q k' [B N T S] in float32 at least, each group with its key head."""
  size, q_length, heads, width = q.shape
  k_length, kv_heads = k.shape[1:3]
  dtype = jnp.result_type(jnp.float32, q, k)
  if kv_heads == heads:
    return jnp.einsum("btnh,bsnh->bnts", q, k, preferred_element_type=dtype)
  q = q.reshape(size, q_length, kv_heads, heads // kv_heads, width)
  logits = jnp.einsum("btkgh,bskh->bkgts", q, k, preferred_element_type=dtype)
  return logits.reshape(size, heads, q_length, k_length)
