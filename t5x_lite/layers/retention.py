"""Retention (Sun et al. 2023): linear attention that forgets, without a sum.

  S_t = gamma_t S_{t-1} + k_t v_t',  y_t = q_t' S_t

Each head forgets at its own rate.  A norm of each head's output takes the place
of linear attention's normalizer, and a gate follows (equations 5 to 8).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import pallas_kernels
from t5x_lite.layers.context import Context
from t5x_lite.layers.feed_forward import activation_of
from t5x_lite.layers.linear import Einsum, Initializer, fan_in
from t5x_lite.layers.linear_attention import (
  by_heads,
  into_heads,
  out_of_heads,
  refuse_prefix,
)
from t5x_lite.layers.resets import resets
from t5x_lite.rules import parts


class FixedDecay(nnx.Module):
  """gamma = 1 - 2^(-first - n) in head n = 0, 1, ... (equation 8).

  Attributes:
    first: of the head that forgets fastest.
  """

  def __init__(
    self, dim: int, heads: int, *, first: float = 5.0, rngs: nnx.Rngs
  ):
    del dim, rngs
    self.heads, self.first = heads, first

  def __call__(self, x: jax.Array) -> jax.Array:
    """log(gamma), [B T N] float32, of x [B T D]."""
    forgotten = np.exp2(-self.first - np.arange(self.heads))
    log_decay = jnp.asarray(np.log1p(-forgotten), jnp.float32)
    return jnp.broadcast_to(log_decay, (*x.shape[:2], self.heads))


class GatedDecay(nnx.Module):
  """gamma = sigmoid(w_n' x)^(1 / temperature), of the token itself.

  The gated retention of Sun et al. 2024 (You Only Cache Once, section 3.1): a
  head forgets when the text tells it to.

  Attributes:
    temperature: the higher, the slower forgetting starts out.
  """

  def __init__(
    self,
    dim: int,
    heads: int,
    *,
    temperature: float = 16.0,
    init: Callable[..., Initializer] = fan_in,
    rngs: nnx.Rngs,
  ):
    self.temperature = temperature
    shape, axes = (dim, heads), ("embed", "heads")
    self.gate = Einsum("btd,dn->btn", shape, axes, init=init(0), rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    """log(gamma), [B T N] float32, of x [B T D]."""
    gates = self.gate(x).astype(jnp.float32)
    return jax.nn.log_sigmoid(gates) / self.temperature


class Retention(nnx.Module):
  """Gated multi-scale retention; causal.

  Attributes:
    heads: N.
    head_dim: width of a head's query and key.
    value_dim: H, width of a head's value; None is twice head_dim.
    decay: constructor of log(gamma), called with (dim, heads, rngs=...).
    rotary: constructor of `Rotary`, called with head_dim; None for none.
    activation: of the gate.
    epsilon: of the norm of each head, which has no parameters.
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
    value_dim: int | None = None,
    decay: Callable[..., Any] = FixedDecay,
    rotary: Callable[..., Any] | None = None,
    activation: str = "swish",
    epsilon: float = 1e-6,
    init: Callable[..., Initializer] = fan_in,
    chunk: int | None = None,
    implementation: str | None = None,
    rngs: nnx.Rngs,
  ):
    activation_of(activation)  # refuses an unknown name
    self.activation, self.epsilon = activation, epsilon
    self.heads, self.head_dim = heads, head_dim
    self.value_dim = value_dim or 2 * head_dim
    self.chunk, self.implementation = chunk, implementation

    def project(width: int) -> Einsum:
      return into_heads(dim, heads, width, init=init, rngs=rngs)

    self.query, self.key = project(head_dim), project(head_dim)
    self.value, self.gate = project(self.value_dim), project(self.value_dim)
    self.out = out_of_heads(dim, heads, self.value_dim, init=init, rngs=rngs)
    self.decay = decay(dim, heads, rngs=rngs)
    self.rotary = rotary(head_dim) if rotary else None

  def init_state(
    self, batch_size: int, length: int, dtype: str, ctx: Context
  ) -> jax.Array:
    """S, [B N P H] float32, P the head_dim: no larger for a longer text."""
    shape = (batch_size, self.heads, self.head_dim, self.value_dim)
    return jnp.zeros(shape, jnp.float32)

  def __call__(
    self, x: jax.Array, ctx: Context, state: Any = None
  ) -> tuple[jax.Array, Any]:
    refuse_prefix("Retention", ctx)
    q, k = self.query(x), self.key(x) * self.head_dim**-0.5
    if self.rotary is not None:
      q, k = self.rotary(q, ctx.positions), self.rotary(k, ctx.positions)
    y, final = pallas_kernels.linear_attention(
      by_heads(q),
      by_heads(k),
      by_heads(self.value(x)),
      log_decay=self.decay(x),
      initial=state,
      resets=resets(ctx),
      chunk=self.chunk,
      shards=parts("length", x.shape[1]),
      implementation=self.implementation,
    )
    y = self._norm(y).astype(x.dtype)
    y = by_heads(activation_of(self.activation)(self.gate(x)) * y)
    return self.out(y), None if state is None else final

  def _norm(self, y: jax.Array) -> jax.Array:
    """Each head of y [B T N H] with mean 0 and variance 1, in float32."""
    y = y.astype(jnp.float32)
    y = y - jnp.mean(y, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(y), axis=-1, keepdims=True)
    return y * jax.lax.rsqrt(variance + self.epsilon)
