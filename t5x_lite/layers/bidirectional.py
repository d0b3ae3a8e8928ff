"""A sublayer that sees both ways, of two that read in one direction."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from t5x_lite import errors
from t5x_lite.layers.context import Context
from t5x_lite.layers.resets import reverse_resets


class Bidirectional(nnx.Module):
  """forward(x) + reversed(backward(reversed(x))) (Schuster and Paliwal 1997).

  Lets an encoder have any causal mixer.  Each example of a row is read in both
  directions by itself; the two mixers have parameters of their own.

  Attributes:
    mixer: constructor of a causal sublayer, called with (dim, rngs=...).
    causal: False, for those who ask.
  """

  causal = False

  def __init__(self, dim: int, *, mixer: Callable[..., Any], rngs: nnx.Rngs):
    self.forward = mixer(dim, rngs=rngs)
    self.backward = mixer(dim, rngs=rngs)

  def init_state(
    self, batch_size: int, length: int, dtype: str, ctx: Context
  ) -> Any:
    """Refused.

    Raises:
      ConfigError: always.
    """
    raise errors.ConfigError(
      "Bidirectional sees tokens that are not there yet and cannot decode: use"
      f" {type(self.forward).__name__} alone in a decoder"
    )

  def __call__(
    self, x: jax.Array, ctx: Context, state: Any = None
  ) -> tuple[jax.Array, Any]:
    there, _ = self.forward(x, ctx.fold(0))
    back, _ = self.backward(jnp.flip(x, axis=1), _reversed(ctx).fold(1))
    return there + jnp.flip(back, axis=1), state


def _reversed(ctx: Context) -> Context:
  """The context of the row read from its end, positions counted from there."""
  begins = jnp.flip(reverse_resets(ctx), axis=1)
  index = jnp.arange(begins.shape[1], dtype=jnp.int32)
  first = jax.lax.cummax(jnp.where(begins, index, 0), axis=1)
  segments = ctx.segments
  return dataclasses.replace(
    ctx,
    positions=index - first,
    segments=None if segments is None else jnp.flip(segments, axis=1),
  )
