"""A block is named residual sublayers, applied in order."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import nnx

from t5x_lite.layers.context import Context, dropout
from t5x_lite.layers.norms import RMSNorm
from t5x_lite.partitioning import constrain


class PreNorm(nnx.Module):
  """x + dropout(sublayer(norm(x)))."""

  def __init__(
    self,
    dim: int,
    *,
    sublayer: Callable[..., Any],
    norm: Callable[..., Any] = RMSNorm,
    dropout: float = 0.0,
    rngs: nnx.Rngs,
  ):
    self.dropout = dropout
    self.norm = norm(dim, rngs=rngs)
    self.sublayer = sublayer(dim, rngs=rngs)

  def init_state(
    self, batch_size: int, length: int, dtype: str, ctx: Context
  ) -> Any:
    """The state of the sublayer."""
    return self.sublayer.init_state(batch_size, length, dtype, ctx)

  def __call__(
    self, x: jax.Array, ctx: Context, state: Any = None
  ) -> tuple[jax.Array, Any]:
    y, state = self.sublayer(self.norm(x), ctx.fold(0), state)
    return x + dropout(y, self.dropout, ctx.fold(1).key), state


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
