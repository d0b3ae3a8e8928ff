"""What `prefill` leaves and `step` needs."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from t5x_lite.layers.state import map_changing


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=[
    "layers",
    "index",
    "positions",
    "memory_segments",
    "cache_segments",
    "decoder",
    "logits",
  ],
  meta_fields=["length"],
)
@dataclasses.dataclass(frozen=True)
class DecodeState:
  """A pytree, for any sublayers.

  Attributes:
    layers: states of the decoder's layers.
    index: int32 scalar, number of tokens in the caches.
    positions: [B] int32, position of each row's next token.
    memory_segments: [B S] int32, 0 for padding of the encoder's input; None
      without an encoder.
    cache_segments: [B S] int32, 0 for padding in the caches; None if there
      is none.
    decoder: the decoder's layers one by one, where they are better read so;
      else None.
    logits: from activations to logits, likewise.
    length: number of tokens that the caches have room for; static.
  """

  layers: Any
  index: jax.Array
  positions: jax.Array
  memory_segments: jax.Array | None
  cache_segments: jax.Array | None
  decoder: tuple[Any, ...] | None
  logits: Any
  length: int

  def repeat(self, count: int) -> "DecodeState":
    """Every row `count` times, one after another."""

    def rows(x: Any) -> Any:
      return jax.tree.map(lambda y: jnp.repeat(y, count, axis=0), x)

    return dataclasses.replace(
      self,
      layers=rows(self.layers),
      positions=rows(self.positions),
      memory_segments=rows(self.memory_segments),
      cache_segments=rows(self.cache_segments),
    )

  def take(self, parents: jax.Array) -> "DecodeState":
    """The caches in another order, within the rows that `repeat` made of one.

    Args:
      parents: [B K] int32, in 0 .. K - 1; K is what `repeat` was given.
    """
    size, count = parents.shape

    def chosen(x: jax.Array) -> jax.Array:
      by_row = x.reshape(size, count, *x.shape[1:])
      index = parents.reshape(size, count, *[1] * (x.ndim - 1))
      return jnp.take_along_axis(by_row, index, axis=1).reshape(x.shape)

    return dataclasses.replace(self, layers=map_changing(chosen, self.layers))
