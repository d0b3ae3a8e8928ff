"""Dropout of attention weights that needs no array of random numbers.

Whether a weight is kept is a function of the seed and the weight's row, head,
query and key: any implementation finds it for any block by itself, in the
forward and the backward pass, in 32-bit operations that all devices have.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

# Rates are multiples of 2^-24: compared are signed numbers, which all have.
_BITS = 24


# The first row, the first head and the number of heads: see `attention`.
Place = tuple[jax.Array | int, jax.Array | int, int]


def mix(x: jax.Array) -> jax.Array:
  """A bijection of uint32 of which each output bit needs all input bits.

  The constants are Wellons's, found by search for least bias:
  https://nullprogram.com/blog/2018/07/31/.
  """
  x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
  x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
  return x ^ (x >> 16)


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=["seed", "first_row", "first_head"],
  meta_fields=["rate", "all_heads"],
)
@dataclasses.dataclass(frozen=True)
class Dropout:
  """Zeroes weights with probability `rate` and divides the others by 1 - rate.

  Attributes:
    seed: [2] uint32.
    rate: in [0, 1), static.
    first_row: number of the first row in the whole batch, of which this device
      may have a part only.
    first_head: number of the first query head among all, likewise.
    all_heads: how many query heads there are; None for those at hand.
  """

  seed: jax.Array
  rate: float
  first_row: jax.Array | int = 0
  first_head: jax.Array | int = 0
  all_heads: int | None = None

  @classmethod
  def of(
    cls, rate: float, key: jax.Array | None, place: Place | None = None
  ) -> "Dropout | None":
    """None where nothing is to be dropped; ValueError for a wrong rate."""
    if not 0 <= rate < 1:
      raise ValueError(f"attention needs a dropout in [0, 1), not {rate}")
    if key is None or round(rate * 2**_BITS) == 0:
      return None
    seed = jax.random.bits(key, (2,), "uint32")
    return cls(seed, rate, *(place or (0, 0, None)))

  @property
  def threshold(self) -> int:
    """A weight stays if the upper 24 of its bits are at least this."""
    return round(self.rate * 2**_BITS)

  def seeds(self, rows: int, heads: int) -> tuple[jax.Array, jax.Array]:
    """A seed for the queries and one for the keys of each head, [B N] uint32.

    A weight's bits are mix(mix(of queries ^ t) ^ mix(of keys ^ s)), with t and
    s counted from 0 in the arrays given.
    """
    row = jnp.asarray(self.first_row, jnp.uint32) + jnp.arange(
      rows, dtype="uint32"
    )
    head = jnp.asarray(self.first_head, jnp.uint32) + jnp.arange(
      heads, dtype="uint32"
    )
    place = row[:, None] * jnp.uint32(self.all_heads or heads) + head
    return mix(self.seed[0] ^ place), mix(self.seed[1] ^ place)

  def keep(
    self,
    seeds: tuple[jax.Array, jax.Array],
    queries: jax.Array,
    keys: jax.Array,
  ) -> jax.Array:
    """Bool [... t s].

    Args:
      seeds: [...] twice, of `seeds`.
      queries: [t], indices from 0 on.
      keys: [s], likewise.
    """
    rows = mix(seeds[0][..., None] ^ queries.astype("uint32"))
    columns = mix(seeds[1][..., None] ^ keys.astype("uint32"))
    bits = mix(rows[..., :, None] ^ columns[..., None, :]) >> (32 - _BITS)
    return bits.astype("int32") >= self.threshold

  def __call__(
    self,
    weights: jax.Array,
    seeds: tuple[jax.Array, jax.Array],
    queries: jax.Array,
    keys: jax.Array,
  ) -> jax.Array:
    """Weights [... t s] after dropout; arguments as of `keep`."""
    kept = self.keep(seeds, queries, keys)
    return jnp.where(kept, weights / (1 - self.rate), jnp.zeros_like(weights))
