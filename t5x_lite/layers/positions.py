"""Positions: T5's relative bias, added to the logits of attention."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.nn.initializers import variance_scaling

from t5x_lite import errors
from t5x_lite.layers.linear import param


def bucket_of_distance(
  buckets: int, max_distance: int, bidirectional: bool
) -> np.ndarray:
  """T5's bucket of each distance d = key - query in [-max, max].

  Half of the buckets are exact, the rest logarithmic up to `max_distance`;
  both directions share them evenly, or the future falls into bucket 0 when
  not bidirectional (Raffel et al. 2020, section 2.1; numbers as in the public
  implementations).

  Returns:
    [2 max_distance + 1] int32; entry i is for distance i - max_distance.
    Greater distances have the bucket of the nearest end.
  """
  distance = np.arange(-max_distance, max_distance + 1)
  base = np.zeros_like(distance)
  if bidirectional:
    buckets //= 2
    base = np.where(distance > 0, buckets, 0)
    away = np.abs(distance)
  else:
    away = np.maximum(-distance, 0)
  exact = buckets // 2
  ratio = np.log(np.maximum(away, 1) / exact) / np.log(max_distance / exact)
  # The guard keeps exact powers on the upper side of their boundary.
  logarithmic = exact + np.floor(ratio * (buckets - exact) + 1e-9).astype(int)
  inexact = np.minimum(logarithmic, buckets - 1)
  return (base + np.where(away < exact, away, inexact)).astype(np.int32)


def diagonals(values: jax.Array, rows: int) -> jax.Array:
  """Spreads [N, T + S - 1] along diagonals: out[n, t, s] = values[n, s-t+T-1].

  By reshapes of a repeated row, so that its gradient is a sum and not a
  scatter.  Returns [N, rows, S].
  """
  heads, length = values.shape
  # Rows of period length + 1 read at period length are shifted by one each.
  padded = jnp.pad(values, ((0, 0), (0, 1)))
  tiled = jnp.broadcast_to(padded[:, None], (heads, rows, length + 1))
  flat = tiled.reshape(heads, rows * (length + 1))[:, : rows * length]
  shifted = flat.reshape(heads, rows, length)  # [n, t, j]: values[(j - t) % ..]
  return shifted[:, :, rows - 1 :]


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
    init = variance_scaling(1.0, "fan_avg", "uniform")
    self.table = param(rngs, (buckets, heads), (None, "heads"), init)

  def __call__(
    self, q_length: int, k_length: int, start: jax.Array | int = 0
  ) -> jax.Array:
    """Bias [1 N T S] of queries start, start+1, ... over keys 0, 1, ....

    Distances count tokens, so the bias is right within every packed example;
    between examples, attention is masked.
    """
    limit = self.max_distance
    distance = jnp.arange(1 - q_length, k_length) - start
    of_distance = bucket_of_distance(self.buckets, limit, self.bidirectional)
    bucket = jnp.asarray(of_distance)[jnp.clip(distance, -limit, limit) + limit]
    one_hot = jax.nn.one_hot(bucket, self.buckets)
    values = jnp.einsum("db,bn->nd", one_hot, self.table[...])
    return diagonals(values, q_length)[None]
