"""Strategies: how the next token of each row is chosen from its logits.

A strategy is a function (logits [B V] float32, key) -> tokens [B] int32.
`key` is a fresh jax.random key for every step, or None when the caller gave
none; a strategy that draws needs one, a deterministic one ignores it.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

Strategy = Callable[[jax.Array, jax.Array | None], jax.Array]


def greedy(logits: jax.Array, key: jax.Array | None) -> jax.Array:
  """The most probable token; of equals, the one with the smallest id."""
  del key
  return jnp.argmax(logits, axis=-1).astype(jnp.int32)
