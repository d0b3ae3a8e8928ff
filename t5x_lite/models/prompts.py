"""Prompts of several lengths that end together.

A decoder reads them into its caches in one pass; with their ends at the same
index, every row's next token has the same place.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from t5x_lite.layers import Context


@dataclasses.dataclass(frozen=True)
class Prompts:
  """Rows of a batch with the padding in front.

  Attributes:
    tokens: [B P] int32.
    context: of them; the caches have room for P and `length` more.
    next_positions: [B] int32, of the first token after each.
  """

  tokens: jax.Array
  context: Context
  next_positions: jax.Array


def ending_together(
  batch: Mapping[str, jax.Array], length: int, prefix: jax.Array | None = None
) -> Prompts:
  """Moves the tokens of a batch to the ends of their rows.

  Args:
    batch: `decoder_input_tokens` [B P], padded at the end, with
      `decoder_segment_ids` 0 for padding (by default there is none).
    length: number of tokens that are to follow.
    prefix: [B P], tokens that all of their prompt sees; None if there are none.
  """
  tokens = batch["decoder_input_tokens"]
  width = tokens.shape[1]
  segments = batch.get("decoder_segment_ids", jnp.ones_like(tokens))
  padding = width - jnp.sum(segments != 0, axis=1, dtype=jnp.int32)
  index = jnp.arange(width, dtype=jnp.int32) - padding[:, None]

  def to_end(x: jax.Array) -> jax.Array:
    return jnp.take_along_axis(x, jnp.maximum(index, 0), axis=1)

  room = ((0, 0), (0, length))
  real = (index >= 0).astype(jnp.int32)
  context = Context(
    jnp.maximum(index, 0),
    real,
    prefix=None if prefix is None else jnp.pad(to_end(prefix), room),
    start=0,
    cache_segments=jnp.pad(real, room, constant_values=1),
  )
  return Prompts(to_end(tokens), context, width - padding)
