"""Attention's definition in float64, all at once, and inputs for it.

It shares nothing with `pallas_kernels` but the buckets of distances, which
tests/layers/positions_test.py works out by hand.
"""

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels.attention.relative import bucket_of_distance

MOVING = ("q", "k", "v", "bias", "table")


def mask(
  shape,
  *,
  causal=False,
  window=None,
  pattern=None,
  q_segments=None,
  k_segments=None,
  k_prefix=None,
  q_start=0,
):
  """Bool [B T S], one pair after the other."""
  result = np.zeros(shape, bool)
  left, right = window or (None, None)
  for b, t, s in np.ndindex(*shape):
    p = q_start + t
    seen = not causal or s <= p or (k_prefix is not None and k_prefix[b, s])
    seen &= left is None or s >= p - left
    seen &= right is None or s <= p + right
    if q_segments is not None:
      seen &= q_segments[b, t] == k_segments[b, s]
    if pattern is not None:
      seen &= in_pattern(pattern, p, s)
    result[b, t, s] = seen
  return result


def in_pattern(pattern, p, s):
  if min(p, s) < pattern.global_tokens:
    return True
  if pattern.window is not None:
    if -pattern.window[0] <= s - p <= pattern.window[1]:
      return True
  if not pattern.blocks:
    return False
  return s // pattern.size in pattern.blocks[p // pattern.size]


def mixed(x):
  for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):
    x = ((x ^ (x >> shift)) * factor) % 2**32
  return x


def kept(seed, rate, shape):
  """Bool [B N T S], whether a weight survives dropout."""
  b, n, t, s = shape
  heads = np.arange(b * n, dtype=np.uint64).reshape(b, n)
  first, second = (mixed(int(x) ^ heads)[..., None] for x in seed)
  rows = mixed(first ^ np.arange(t, dtype=np.uint64))
  columns = mixed(second ^ np.arange(s, dtype=np.uint64))
  bits = mixed(rows[..., None] ^ columns[:, :, None])
  return bits / 2**32 >= rate


def attention(
  moving, seen, *, keep=None, rate=0.0, scale=1.0, soft_cap=None, rule=None
):
  """Output [B T N V] and log-sum-exp [B T N]; all but `moving` is static.

  rule: (bidirectional, max_distance, q_start) of the relative bias.
  """
  q, k, v = (moving[name] for name in "qkv")
  groups = q.shape[2] // k.shape[2]
  k, v = (jnp.repeat(x, groups, axis=2) for x in (k, v))
  logits = jnp.einsum("btnh,bsnh->bnts", q, k) * scale
  if soft_cap is not None:
    logits = soft_cap * jnp.tanh(logits / soft_cap)
  if "bias" in moving:
    logits = logits + moving["bias"]
  if "table" in moving:
    bidirectional, limit, start = rule
    t, s = logits.shape[2:]
    distance = np.arange(s) - np.arange(t)[:, None] - start
    buckets = bucket_of_distance(len(moving["table"]), limit, bidirectional)
    bucket = buckets[np.clip(distance, -limit, limit) + limit]
    logits = logits + jnp.moveaxis(moving["table"][bucket], -1, 0)
  seen = seen[:, None]
  some = seen.any(-1)
  # Shifted by a bound, not by the greatest: there is room in float64.
  weights = jnp.where(seen, jnp.exp(jnp.where(seen, logits, 0.0)), 0.0)
  total = jnp.where(some, weights.sum(-1), 1.0)
  lse = jnp.where(some, jnp.log(total), -jnp.inf)
  weights = weights / total[..., None]
  if keep is not None:
    weights = jnp.where(keep, weights / (1 - rate), 0.0)
  y = jnp.einsum("bnts,bsnh->btnh", weights, v)
  return y, jnp.swapaxes(lse, 1, 2)


def with_gradients(moving, cotangents, *args, **kwargs):
  """Output, log-sum-exp and gradients by `moving`, of float64."""
  with jax.enable_x64(True):
    moving, cotangents = jax.tree.map(
      lambda x: jnp.asarray(x, jnp.float64), (moving, cotangents)
    )

    @jax.jit
    def run(moving, cotangents):
      outputs, pull = jax.vjp(lambda x: attention(x, *args, **kwargs), moving)
      return outputs, pull(cotangents)[0]

    return jax.device_get(run(moving, cotangents))
