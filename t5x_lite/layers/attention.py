"""Attention sublayers: over the sequence itself, and over the encoder's."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

import pallas_kernels
from t5x_lite.layers.context import Context
from t5x_lite.layers.linear import Einsum, fan_in
from t5x_lite.partitioning import constrain

Cache = dict[str, jax.Array]  # {"key": [B S N H], "value": [B S N H]}


class Attention(nnx.Module):
  """Multi-head self-attention (Vaswani et al. 2017) without biases.

  Attributes:
    causal: a token sees itself and what is before it.
    scale: factor of the logits; None is 1 / sqrt(head_dim).  T5 uses 1 and
      initializes the query with the factor instead.
    implementation: of `pallas_kernels.attention`; None picks one.
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
    implementation: str | None = None,
    rngs: nnx.Rngs,
  ):
    self.heads, self.head_dim, self.causal = heads, head_dim, causal
    self.scale = head_dim**-0.5 if scale is None else scale
    self.dropout, self.implementation = dropout, implementation

    def project(factor: float = 1.0) -> Einsum:
      return Einsum(
        "btd,dnh->btnh",
        (dim, heads, head_dim),
        ("embed", "heads", "head_dim"),
        init=fan_in(0, scale=factor),
        rngs=rngs,
      )

    # Whatever part of 1 / sqrt(head_dim) the logits lack, the query starts
    # with, so that logits have variance one at initialization.
    self.query = project(1.0 / (head_dim * self.scale**2))
    self.key = project()
    self.value = project()
    self.out = Einsum(
      "btnh,nhd->btd",
      (heads, head_dim, dim),
      ("heads", "head_dim", "embed"),
      init=fan_in(0, 1),
      rngs=rngs,
    )

  def init_state(
    self, batch_size: int, length: int, dtype: str, ctx: Context
  ) -> Cache:
    """An empty cache for `length` tokens."""
    shape = (batch_size, length, self.heads, self.head_dim)
    return {"key": jnp.zeros(shape, dtype), "value": jnp.zeros(shape, dtype)}

  def __call__(
    self, x: jax.Array, ctx: Context, state: Cache | None = None
  ) -> tuple[jax.Array, Cache | None]:
    k, v, segments = self.key(x), self.value(x), ctx.segments
    start = 0 if ctx.start is None else ctx.start
    if state is not None:  # a row of a cache is one example
      segments = None
      state = {
        name: jax.lax.dynamic_update_slice_in_dim(
          state[name], new, start, axis=1
        )
        for name, new in (("key", k), ("value", v))
      }
      k, v = state["key"], state["value"]
    return self.attend(
      x,
      k,
      v,
      ctx,
      causal=self.causal,
      bias=ctx.bias,
      q_segments=segments,
      k_segments=segments,
      q_start=start,
    ), state

  def attend(
    self, x: jax.Array, k: jax.Array, v: jax.Array, ctx: Context, **where: Any
  ) -> jax.Array:
    """Output [B T D] for keys and values [B S N H]; `where` is the mask."""
    heads = ("batch", "length", "heads", "head_dim")
    y = pallas_kernels.attention(
      constrain(self.query(x), *heads),
      constrain(k, *heads),
      constrain(v, *heads),
      scale=self.scale,
      dropout=self.dropout,
      key=ctx.key,
      implementation=self.implementation,
      **where,
    )
    return self.out(y)


class CrossAttention(Attention):
  """Attention from the decoder to `ctx.memory`, the encoder's output."""

  def init_state(
    self, batch_size: int, length: int, dtype: str, ctx: Context
  ) -> Cache:
    """Keys and values of the memory, projected once for all steps.

    Raises:
      ValueError: there is no memory.
    """
    if ctx.memory is None:
      raise ValueError("CrossAttention needs the encoder's output, ctx.memory")
    return {"key": self.key(ctx.memory), "value": self.value(ctx.memory)}

  def __call__(
    self, x: jax.Array, ctx: Context, state: Cache | None = None
  ) -> tuple[jax.Array, Cache | None]:
    kv = self.init_state(0, 0, "", ctx) if state is None else state
    y = self.attend(
      x,
      kv["key"],
      kv["value"],
      ctx,
      q_segments=ctx.segments,
      k_segments=ctx.memory_segments,
    )
    return y, state
