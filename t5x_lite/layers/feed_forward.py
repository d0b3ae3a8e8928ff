"""Feed-forward sublayers."""

from typing import Any

import jax
from flax import nnx

from t5x_lite import errors
from t5x_lite.layers.context import Context, dropout
from t5x_lite.layers.linear import Einsum, fan_in
from t5x_lite.partitioning import constrain

# jax.nn.gelu is the tanh approximation, as in T5 1.1 ("gelu_new").
_ACTIVATIONS = {
  "relu": jax.nn.relu,
  "gelu": jax.nn.gelu,
  "silu": jax.nn.silu,
}


class FeedForward(nnx.Module):
  """wo(activation(wi(x))); T5 1.0 with relu."""

  def __init__(
    self,
    dim: int,
    *,
    hidden: int,
    activation: str = "relu",
    dropout: float = 0.0,
    rngs: nnx.Rngs,
  ):
    if activation not in _ACTIVATIONS:
      raise errors.ConfigError(
        f"activation {activation!r} is not one of {', '.join(_ACTIVATIONS)}"
        f"{errors.suggest(activation, _ACTIVATIONS)}"
      )
    self.activation = activation
    self.dropout = dropout
    shape, axes = (dim, hidden), ("embed", "mlp")
    self.wi = Einsum("btd,df->btf", shape, axes, init=fan_in(0), rngs=rngs)
    self.wo = Einsum(
      "btf,fd->btd", shape[::-1], axes[::-1], init=fan_in(0), rngs=rngs
    )

  def init_state(
    self, batch_size: int, length: int, dtype: str, ctx: Context
  ) -> None:
    """Nothing to remember."""

  def hidden(self, x: jax.Array) -> jax.Array:
    """Activations [B T F]."""
    return _ACTIVATIONS[self.activation](self.wi(x))

  def __call__(
    self, x: jax.Array, ctx: Context, state: Any = None
  ) -> tuple[jax.Array, Any]:
    y = constrain(self.hidden(x), "batch", "length", "mlp")
    return self.wo(dropout(y, self.dropout, ctx.key)), state


class GatedFeedForward(FeedForward):
  """wo(activation(gate(x)) * wi(x)) (Shazeer 2020); T5 1.1 with gelu."""

  def __init__(
    self,
    dim: int,
    *,
    hidden: int,
    activation: str = "gelu",
    dropout: float = 0.0,
    rngs: nnx.Rngs,
  ):
    super().__init__(
      dim, hidden=hidden, activation=activation, dropout=dropout, rngs=rngs
    )
    shape, axes = (dim, hidden), ("embed", "mlp")
    self.gate = Einsum("btd,df->btf", shape, axes, init=fan_in(0), rngs=rngs)

  def hidden(self, x: jax.Array) -> jax.Array:
    """Activations [B T F]."""
    return _ACTIVATIONS[self.activation](self.gate(x)) * self.wi(x)
