"""T5's relative bias: a number per head and bucket of distances."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np


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


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=["table"],
  meta_fields=["bidirectional", "max_distance"],
)
@dataclasses.dataclass(frozen=True)
class RelativeBias:
  """A bias of the logits that depends on the distance alone.

  A pytree whose leaf is the table, so that gradients may be taken by it.

  Attributes:
    table: [buckets N], any float dtype.
    bidirectional: half of the buckets are for keys after the query; else these
      are in bucket 0.
    max_distance: from which on all distances are in one bucket.
  """

  table: jax.Array
  bidirectional: bool = True
  max_distance: int = 128

  def values(
    self, q_length: int, k_length: int, start: jax.Array | int = 0
  ) -> jax.Array:
    """Bias [N, T + S - 1] of the distances s - t - start, ascending.

    In float32 at least.  `diagonals` makes a matrix of it.
    """
    limit, buckets = self.max_distance, self.table.shape[0]
    distance = jnp.arange(1 - q_length, k_length) - start
    of_distance = bucket_of_distance(buckets, limit, self.bidirectional)
    bucket = jnp.asarray(of_distance)[jnp.clip(distance, -limit, limit) + limit]
    dtype = jnp.result_type(jnp.float32, self.table)
    # A product, whose gradient is one, where a look-up's would be a scatter.
    return jnp.einsum(
      "db,bn->nd",
      jax.nn.one_hot(bucket, buckets, dtype=dtype),
      self.table.astype(dtype),
      precision=jax.lax.Precision.HIGHEST,
    )

  def whole(
    self, q_length: int, k_length: int, start: jax.Array | int = 0
  ) -> jax.Array:
    """Bias [1 N T S] of queries start, start+1, ... over keys 0, 1, ...."""
    return diagonals(self.values(q_length, k_length, start), q_length)[None]
