"""Linear attention (Katharopoulos et al. 2020): attention without a softmax.

With features phi(x) = elu(x) + 1 in place of exp(q k'), the sum over keys is

  y_t = phi(q_t)' S / phi(q_t)' z,  S = sum_s phi(k_s) v_s',  z = sum_s phi(k_s)

(equations 4 to 7).  The sums over s <= t are a recurrence (equations 16 to
20), so that a step of decoding costs the same at any length.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

import pallas_kernels
from t5x_lite import errors
from t5x_lite.layers.context import Context
from t5x_lite.layers.linear import Einsum, Initializer, fan_in
from t5x_lite.layers.resets import resets, reverse_resets
from t5x_lite.rules import constrain, parts

# Added to the normalizer, as in the authors' code: features can underflow.
_TINY = 1e-6


def into_heads(
  dim: int,
  heads: int,
  width: int,
  *,
  use_bias: bool = False,
  init: Callable[..., Initializer] = fan_in,
  rngs: nnx.Rngs,
) -> Einsum:
  """A linear map from [B T D] to [B T N H]."""
  return Einsum(
    "btd,dnh->btnh",
    (dim, heads, width),
    ("embed", "heads", "head_dim"),
    init=init(0),
    use_bias=use_bias,
    rngs=rngs,
  )


def out_of_heads(
  dim: int,
  heads: int,
  width: int,
  *,
  use_bias: bool = False,
  init: Callable[..., Initializer] = fan_in,
  rngs: nnx.Rngs,
) -> Einsum:
  """A linear map from [B T N H] to [B T D]."""
  return Einsum(
    "btNh,Nhd->btd",
    (heads, width, dim),
    ("heads", "head_dim", "embed"),
    init=init(0, 1),
    use_bias=use_bias,
    rngs=rngs,
  )


def by_heads(x: jax.Array) -> jax.Array:
  """x [B T N H], its heads divided among devices."""
  return constrain(x, "batch", "length", "heads", "head_dim")


def refuse_prefix(name: str, ctx: Context) -> None:
  """Raises ConfigError if tokens are to see the rest of a prefix."""
  if ctx.prefix is not None:
    raise errors.ConfigError(
      f"{name} needs a causal objective: it reads from left to right and cannot"
      " see the rest of a prefix; set BIDIRECTIONAL = False"
      " (PrefixLM.bidirectional), or use objectives/causal_lm.gin"
    )


def elu_plus_one(x: jax.Array) -> jax.Array:
  """elu(x) + 1 in float32, to full precision also where it is near 0."""
  x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  positive = x > 0
  return jnp.where(positive, x + 1.0, jnp.exp(jnp.where(positive, 0.0, x)))


class LinearAttention(nnx.Module):
  """Self-attention whose cost is linear in the length.

  Attributes:
    heads: N.
    causal: a token sees itself and what is before it; otherwise all of its
      example.
    use_bias: of all four projections.
    init: of the kernels; called with their input axes.
    chunk: tokens that `pallas_kernels.linear_attention` takes at once; None
      picks.
    implementation: of that function; None picks one.
  """

  def __init__(
    self,
    dim: int,
    *,
    heads: int,
    head_dim: int,
    causal: bool = False,
    use_bias: bool = False,
    init: Callable[..., Initializer] = fan_in,
    chunk: int | None = None,
    implementation: str | None = None,
    rngs: nnx.Rngs,
  ):
    self.heads, self.head_dim, self.causal = heads, head_dim, causal
    self.chunk, self.implementation = chunk, implementation

    def project() -> Einsum:
      return into_heads(
        dim, heads, head_dim, use_bias=use_bias, init=init, rngs=rngs
      )

    self.query, self.key, self.value = project(), project(), project()
    self.out = out_of_heads(
      dim, heads, head_dim, use_bias=use_bias, init=init, rngs=rngs
    )

  def init_state(
    self, batch_size: int, length: int, dtype: str, ctx: Context
  ) -> jax.Array:
    """S and z, [B N H H + 1] float32: no larger for a longer text.

    Raises:
      ConfigError: the layer is not causal.
    """
    if not self.causal:
      raise errors.ConfigError(
        "LinearAttention that sees both ways cannot decode step by step: set"
        " layers.LinearAttention.causal = True in a decoder"
      )
    shape = (batch_size, self.heads, self.head_dim, self.head_dim + 1)
    return jnp.zeros(shape, jnp.float32)

  def __call__(
    self, x: jax.Array, ctx: Context, state: Any = None
  ) -> tuple[jax.Array, Any]:
    q = by_heads(elu_plus_one(self.query(x)))
    k = by_heads(elu_plus_one(self.key(x)))
    v = by_heads(self.value(x)).astype(q.dtype)
    # A value that is always one sums up the normalizer.
    v = jnp.concatenate([v, jnp.ones_like(v[..., :1])], axis=-1)
    if self.causal:
      refuse_prefix("LinearAttention", ctx)
      y, final = self._scan(q, k, v, resets(ctx), state)
      state = None if state is None else final
    elif ctx.segments is None:
      y = jnp.einsum("btnp,bnph->btnh", q, jnp.einsum("bsnp,bsnh->bnph", k, v))
    else:
      y = self._both_ways(q, k, v, ctx)
    y = y[..., :-1] / (y[..., -1:] + _TINY)
    return self.out(y.astype(x.dtype)), state

  def _scan(
    self,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    begins: jax.Array,
    state: jax.Array | None = None,
  ) -> tuple[jax.Array, jax.Array]:
    return pallas_kernels.linear_attention(
      q,
      k,
      v,
      initial=state,
      resets=begins,
      chunk=self.chunk,
      shards=parts("length", q.shape[1]),
      implementation=self.implementation,
    )

  def _both_ways(
    self, q: jax.Array, k: jax.Array, v: jax.Array, ctx: Context
  ) -> jax.Array:
    """Sums over each token's example, of those that share a row.

    What is before and what is after a token both hold the token itself.
    """

    def flip(x: jax.Array) -> jax.Array:
      return jnp.flip(x, axis=1)

    before, _ = self._scan(q, k, v, resets(ctx))
    ends = flip(reverse_resets(ctx))
    after, _ = self._scan(flip(q), flip(k), flip(v), ends)
    itself = jnp.sum(q * k, axis=-1, keepdims=True) * v
    return before + flip(after) - itself
