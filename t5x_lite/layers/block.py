"""A block is named residual sublayers, applied in order."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import nnx

from t5x_lite.layers.context import Context
from t5x_lite.layers.residual import PreNorm
from t5x_lite.rules import constrain


class Block(nnx.Module):
  """Residual sublayers by name, in the order given.

  T5's encoder is {attention, feed_forward}, its decoder {attention,
  cross_attention, feed_forward}; another family is other names and classes.

  Attributes:
    names: the sublayers' names, which are also their attribute names.
  """

  def __init__(
    self,
    dim: int,
    *,
    sublayers: Mapping[str, Callable[..., Any]],
    residual: Callable[..., Any] = PreNorm,
    rngs: nnx.Rngs,
  ):
    self.names = tuple(sublayers)
    for name, sublayer in sublayers.items():
      setattr(self, name, residual(dim, sublayer=sublayer, rngs=rngs))

  def init_state(
    self, batch_size: int, length: int, dtype: str, ctx: Context
  ) -> dict[str, Any]:
    """States of the sublayers by name."""
    return {
      name: getattr(self, name).init_state(batch_size, length, dtype, ctx)
      for name in self.names
    }

  def __call__(
    self, x: jax.Array, ctx: Context, state: dict[str, Any] | None = None
  ) -> tuple[jax.Array, dict[str, Any] | None]:
    new_state = {}
    for i, name in enumerate(self.names):
      before = None if state is None else state[name]
      x, new_state[name] = getattr(self, name)(x, ctx.fold(i), before)
    x = constrain(x, "batch", "length", "embed")
    return x, None if state is None else new_state


class Parallel(nnx.Module):
  """A sublayer that is the sum of sublayers, all of the same input (PaLM).

  In a pre-norm block {parallel: Parallel{attention, feed_forward}} computes
  x + attention(norm(x)) + feed_forward(norm(x)) (Wang and Komatsuzaki 2021).

  Attributes:
    names: the sublayers' names, which are also their attribute names.
  """

  def __init__(
    self,
    dim: int,
    *,
    sublayers: Mapping[str, Callable[..., Any]],
    rngs: nnx.Rngs,
  ):
    self.names = tuple(sublayers)
    for name, sublayer in sublayers.items():
      setattr(self, name, sublayer(dim, rngs=rngs))

  def init_state(
    self, batch_size: int, length: int, dtype: str, ctx: Context
  ) -> dict[str, Any]:
    """States of the sublayers by name."""
    return {
      name: getattr(self, name).init_state(batch_size, length, dtype, ctx)
      for name in self.names
    }

  def __call__(
    self, x: jax.Array, ctx: Context, state: dict[str, Any] | None = None
  ) -> tuple[jax.Array, dict[str, Any] | None]:
    outputs, new_state = [], {}
    for i, name in enumerate(self.names):
      before = None if state is None else state[name]
      y, new_state[name] = getattr(self, name)(x, ctx.fold(i), before)
      outputs.append(y)
    return sum(outputs[1:], outputs[0]), None if state is None else new_state
