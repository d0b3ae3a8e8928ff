"""Self-attention with a relative bias of its own, not the stack's."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from t5x_lite.layers.attention import Attention, Cache
from t5x_lite.layers.context import Context
from t5x_lite.layers.positions import RelativeBias


class BiasedAttention(Attention):
  """Attention whose layer learns its own bias (umT5; Chung et al. 2023).

  Attributes:
    bias: constructor of the bias, called with rngs=...; the stack around has
      none.
  """

  def __init__(
    self,
    dim: int,
    *,
    heads: int,
    head_dim: int,
    causal: bool = False,
    scale: float | None = None,
    dropout: float = 0.0,
    bias: Callable[..., Any] = RelativeBias,
    rngs: nnx.Rngs,
  ):
    super().__init__(
      dim,
      heads=heads,
      head_dim=head_dim,
      causal=causal,
      scale=scale,
      dropout=dropout,
      rngs=rngs,
    )
    self.bias = bias(rngs=rngs)

  def __call__(
    self, x: jax.Array, ctx: Context, state: Cache | None = None
  ) -> tuple[jax.Array, Cache | None]:
    length = x.shape[1] if state is None else state["key"].shape[1]
    start = 0 if ctx.start is None else ctx.start
    bias = self.bias(x.shape[1], length, start)
    return super().__call__(x, dataclasses.replace(ctx, bias=bias), state)
