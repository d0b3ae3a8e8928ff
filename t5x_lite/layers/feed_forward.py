"""Feed-forward sublayers."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from t5x_lite import errors
from t5x_lite.layers.context import Context, dropout
from t5x_lite.layers.linear import Einsum, Initializer, fan_in
from t5x_lite.rules import constrain

_ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
  "relu": jax.nn.relu,
  "squared_relu": lambda x: jnp.square(jax.nn.relu(x)),  # So et al. 2021
  "gelu": jax.nn.gelu,  # the tanh approximation: "gelu_new", GPT-2, T5 1.1
  "gelu_exact": lambda x: jax.nn.gelu(x, approximate=False),  # BERT, BART
  "swish": jax.nn.swish,
  "silu": jax.nn.silu,  # another name of swish
  "elu": jax.nn.elu,
  "selu": jax.nn.selu,
  "softplus": jax.nn.softplus,
  "sigmoid": jax.nn.sigmoid,
  "tanh": jnp.tanh,
  "linear": lambda x: x,
}


def activation_of(name: str) -> Callable[[jax.Array], jax.Array]:
  """The element-wise function of that name.

  Raises:
    ConfigError: there is none.
  """
  if name not in _ACTIVATIONS:
    raise errors.ConfigError(
      f"activation {name!r} is not one of {', '.join(_ACTIVATIONS)}"
      f"{errors.suggest(name, _ACTIVATIONS)}"
    )
  return _ACTIVATIONS[name]


class FeedForward(nnx.Module):
  """wo(activation(wi(x))); T5 1.0 with relu, BERT and GPT with a GELU.

  Attributes:
    activation: name of an element-wise function.
    use_bias: of all projections.
    init: of the kernels; called with their input axes.
  """

  def __init__(
    self,
    dim: int,
    *,
    hidden: int,
    activation: str = "relu",
    dropout: float = 0.0,
    use_bias: bool = False,
    init: Callable[..., Initializer] = fan_in,
    rngs: nnx.Rngs,
  ):
    activation_of(activation)  # refuses an unknown name
    self.activation, self.dropout = activation, dropout
    project = functools.partial(
      Einsum, init=init(0), use_bias=use_bias, rngs=rngs
    )
    shape, axes = (dim, hidden), ("embed", "mlp")
    self.wi = project("btd,df->btf", shape, axes)
    self.wo = project("btf,fd->btd", shape[::-1], axes[::-1])

  def init_state(
    self, batch_size: int, length: int, dtype: str, ctx: Context
  ) -> None:
    """Nothing to remember."""

  def hidden(self, x: jax.Array) -> jax.Array:
    """Activations [B T F]."""
    return activation_of(self.activation)(self.wi(x))

  def __call__(
    self, x: jax.Array, ctx: Context, state: Any = None
  ) -> tuple[jax.Array, Any]:
    y = constrain(self.hidden(x), "batch", "length", "mlp")
    return self.wo(dropout(y, self.dropout, ctx.key)), state


class GatedFeedForward(FeedForward):
  """wo(activation(gate(x)) * wi(x)) (Shazeer 2020).

  By activation: sigmoid is GLU, gelu GEGLU (T5 1.1), relu ReGLU, swish SwiGLU
  (PaLM, LLaMA), linear LiGLU.
  """

  def __init__(
    self,
    dim: int,
    *,
    hidden: int,
    activation: str = "gelu",
    dropout: float = 0.0,
    use_bias: bool = False,
    init: Callable[..., Initializer] = fan_in,
    rngs: nnx.Rngs,
  ):
    super().__init__(
      dim,
      hidden=hidden,
      activation=activation,
      dropout=dropout,
      use_bias=use_bias,
      init=init,
      rngs=rngs,
    )
    self.gate = Einsum(
      "btd,df->btf",
      (dim, hidden),
      ("embed", "mlp"),
      init=init(0),
      use_bias=use_bias,
      rngs=rngs,
    )

  def hidden(self, x: jax.Array) -> jax.Array:
    """Activations [B T F]."""
    return activation_of(self.activation)(self.gate(x)) * self.wi(x)
