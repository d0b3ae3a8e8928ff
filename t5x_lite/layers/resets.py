"""Where examples begin and end in a row: what scans and convolutions cut at."""

import jax
import jax.numpy as jnp

from t5x_lite.layers import context


def resets(ctx: context.Context) -> jax.Array:
  """True where an example begins, [B T] bool.

  Such a token sees nothing before it: its position is 0, or its segment is
  not that of the token before.  The first token of a call whose position is
  greater than 0 goes on from the state of the call before.
  """
  begins = ctx.positions == 0
  if ctx.segments is None:
    return begins
  changes = ctx.segments[:, 1:] != ctx.segments[:, :-1]
  return begins | jnp.pad(changes, ((0, 0), (1, 0)))


def reverse_resets(ctx: context.Context) -> jax.Array:
  """True where an example ends, [B T] bool, for scans from right to left.

  The next token begins an example, or there is none.
  """
  begins_next = resets(ctx)[:, 1:]
  return jnp.pad(begins_next, ((0, 0), (0, 1)), constant_values=True)
