"""Attention sublayers: over the sequence itself, and over the encoder's."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

import pallas_kernels
from t5x_lite import errors
from t5x_lite.layers import kernels
from t5x_lite.layers.context import Bias, Context
from t5x_lite.layers.linear import Einsum, Initializer, fan_in
from t5x_lite.layers.state import Constant
from t5x_lite.rules import constrain

KeysValues = dict[str, jax.Array]  # {"key": [B S K H], "value": [B S K H]}
# The same as [B K S H]: what one query needs of a head lies together, so that
# a step of decoding reads it at the speed of memory and copies nothing.
Cache = dict[str, jax.Array]


def _transposed(x: dict[str, jax.Array]) -> dict[str, jax.Array]:
  """Keys and values as a cache has them, or a cache's as a layer has them."""
  return {name: jnp.swapaxes(array, 1, 2) for name, array in x.items()}


class Attention(nnx.Module):
  """Multi-head self-attention (Vaswani et al. 2017).

  Attributes:
    heads: N, of the queries.
    kv_heads: K, of keys and values, a divisor of N; None is N.  K = 1 is
      multi-query attention, K < N grouped-query attention.
    causal: a token sees itself and what is before it.
    scale: factor of the logits; None is 1 / sqrt(head_dim).  T5 uses 1 and
      initializes the query with the factor instead.
    window: (left, right), how many tokens before and after itself a token
      sees; None for no limit, of one side or both.
    pattern: sparse mask, as `pallas_kernels.longformer` and `bigbird` make.
    soft_cap: bound of the logits, by tanh; None for none.
    use_bias: of all four projections.
    rotary: constructor of `Rotary`, called with head_dim; None for none.
    qk_norm: constructor of a norm of each head's query and key, called with
      (head_dim, rngs=...) (Dehghani et al. 2023); None for none.
    init: of the kernels; called with their input axes.
    implementation: of `pallas_kernels.attention`; None picks one.
  """

  def __init__(
    self,
    dim: int,
    *,
    heads: int,
    head_dim: int,
    kv_heads: int | None = None,
    causal: bool = False,
    scale: float | None = None,
    window: tuple[int | None, int | None] | None = None,
    pattern: pallas_kernels.Pattern | None = None,
    soft_cap: float | None = None,
    dropout: float = 0.0,
    use_bias: bool = False,
    rotary: Callable[..., Any] | None = None,
    qk_norm: Callable[..., Any] | None = None,
    init: Callable[..., Initializer] = fan_in,
    implementation: str | None = None,
    rngs: nnx.Rngs,
  ):
    kv_heads = kv_heads or heads
    if heads % kv_heads:
      raise errors.ConfigError(
        f"attention with {heads} heads and {kv_heads} kv_heads: kv_heads must"
        " divide heads"
      )
    self.heads, self.kv_heads, self.head_dim = heads, kv_heads, head_dim
    self.causal, self.soft_cap, self.dropout = causal, soft_cap, dropout
    self.scale = head_dim**-0.5 if scale is None else scale
    self.window, self.pattern = window, pattern
    self.implementation = implementation
    self.rotary = rotary(head_dim) if rotary else None
    # One head cannot be divided, whatever the rule for the others.
    grouped = "kv_heads" if kv_heads > 1 else None
    self.kv_axis = "heads" if kv_heads == heads else grouped

    def project(count: int, axis: str | None, factor: float = 1.0) -> Einsum:
      return Einsum(
        "btd,dnh->btnh",
        (dim, count, head_dim),
        ("embed", axis, "head_dim"),
        init=init(0, scale=factor),
        use_bias=use_bias,
        rngs=rngs,
      )

    # Whatever part of 1 / sqrt(head_dim) the logits lack, the query starts
    # with, so that logits have variance one at initialization.
    self.query = project(heads, "heads", 1.0 / (head_dim * self.scale**2))
    self.key = project(kv_heads, self.kv_axis)
    self.value = project(kv_heads, self.kv_axis)
    self.query_norm = qk_norm(head_dim, rngs=rngs) if qk_norm else None
    self.key_norm = qk_norm(head_dim, rngs=rngs) if qk_norm else None
    # einsum sums over letters in the order of their codes: capital N, before
    # h, is the order in memory, and nothing has to be transposed.
    self.out = Einsum(
      "btNh,Nhd->btd",
      (heads, head_dim, dim),
      ("heads", "head_dim", "embed"),
      init=init(0, 1),
      use_bias=use_bias,
      rngs=rngs,
    )

  def init_state(
    self, batch_size: int, length: int, dtype: str, ctx: Context
  ) -> Any:
    """An empty `Cache` for `length` tokens."""
    shape = (batch_size, self.kv_heads, length, self.head_dim)
    return {"key": jnp.zeros(shape, dtype), "value": jnp.zeros(shape, dtype)}

  def keys_values(
    self, x: jax.Array, positions: jax.Array | None = None
  ) -> KeysValues:
    """Keys and values [B S K H] of x [B S D]."""
    k = self.key(x)
    if self.key_norm is not None:
      k = self.key_norm(k)
    if self.rotary is not None and positions is not None:
      k = self.rotary(k, positions)
    return {"key": k, "value": self.value(x)}

  def __call__(
    self, x: jax.Array, ctx: Context, state: Any = None
  ) -> tuple[jax.Array, Any]:
    kv = self.keys_values(x, ctx.positions)
    start = 0 if ctx.start is None else ctx.start
    q_segments = k_segments = ctx.segments
    if state is not None:
      k_segments = ctx.cache_segments
      q_segments = None if k_segments is None else q_segments
      state = {
        name: jax.lax.dynamic_update_slice_in_dim(
          state[name], new.astype(state[name].dtype), start, axis=2
        )
        for name, new in _transposed(kv).items()
      }
      kv = _transposed(state)
    y = self.attend(
      x,
      kv,
      ctx,
      positions=ctx.positions,
      causal=self.causal,
      bias=ctx.bias,
      q_segments=q_segments,
      k_segments=k_segments,
      k_prefix=ctx.prefix,
      q_start=start,
    )
    return y, state

  def attend(
    self,
    x: jax.Array,
    kv: KeysValues,
    ctx: Context,
    *,
    positions: jax.Array | None = None,
    bias: Bias | None = None,
    **where: Any,
  ) -> jax.Array:
    """Output [B T D] for keys and values [B S K H]; `where` is the mask."""
    q = self.query(x)
    if self.query_norm is not None:
      q = self.query_norm(q)
    if self.rotary is not None and positions is not None:
      q = self.rotary(q, positions)
    axes = ("batch", "length", self.kv_axis, "head_dim")
    lazy = isinstance(bias, pallas_kernels.RelativeBias)
    y = kernels.attention(
      constrain(q, "batch", "length", "heads", "head_dim"),
      constrain(kv["key"], *axes),
      constrain(kv["value"], *axes),
      bias=None if lazy else bias,
      relative_bias=bias if lazy else None,
      window=self.window,
      pattern=self.pattern,
      scale=self.scale,
      soft_cap=self.soft_cap,
      dropout=self.dropout,
      key=ctx.key,
      implementation=self.implementation,
      **where,
    )
    return self.out(y)


class CrossAttention(Attention):
  """Attention from the decoder to `ctx.memory`, the encoder's output.

  Positions of the two sequences are not compared: `rotary` has no effect.
  """

  def init_state(
    self, batch_size: int, length: int, dtype: str, ctx: Context
  ) -> Constant:
    """Keys and values of the memory, projected once for all steps.

    Raises:
      ValueError: there is no memory.
    """
    cache = _transposed(self._of_memory(ctx))
    # Else XLA would transpose it in every step, to save room.
    return Constant(jax.lax.optimization_barrier(cache))

  def _of_memory(self, ctx: Context) -> KeysValues:
    if ctx.memory is None:
      raise ValueError("CrossAttention needs the encoder's output, ctx.memory")
    return self.keys_values(ctx.memory)

  def __call__(
    self, x: jax.Array, ctx: Context, state: Any = None
  ) -> tuple[jax.Array, Any]:
    kv = self._of_memory(ctx) if state is None else _transposed(state.value)
    y = self.attend(
      x,
      kv,
      ctx,
      q_segments=ctx.segments,
      k_segments=ctx.memory_segments,
    )
    return y, state
