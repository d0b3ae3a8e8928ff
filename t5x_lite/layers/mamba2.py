"""Mamba-2: one decay for all channels of a head, so that products do the work.

Dao and Gu 2024, https://arxiv.org/abs/2405.21060, section 7 and figure 6.  In
the shapes, N heads of width H are the expanded width, P is the state of each
channel, and K the groups of heads that share B and C.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn import initializers

import pallas_kernels
from t5x_lite import errors
from t5x_lite.layers.causal_convolution import CausalConvolution
from t5x_lite.layers.context import Context
from t5x_lite.layers.linear import Einsum, Initializer, param
from t5x_lite.layers.linear_attention import refuse_prefix
from t5x_lite.layers.resets import resets
from t5x_lite.layers.selective import FanInUniform, StepSizes
from t5x_lite.rules import constrain, parts

# Tails [B W-1 ...] of the convolutions of "x", "b" and "c"; "scan" [B N P H].
State = dict[str, jax.Array]


class GatedRMSNorm(nnx.Module):
  """rms_norm(x * silu(z)) * scale, in groups of heads, in float32."""

  def __init__(
    self,
    heads: int,
    head_dim: int,
    *,
    groups: int = 1,
    epsilon: float = 1e-5,
    rngs: nnx.Rngs,
  ):
    self.groups, self.epsilon = groups, epsilon
    shape, axes = (heads, head_dim), ("heads", "head_dim")
    self.scale = param(rngs, shape, axes, initializers.ones)

  def __call__(self, x: jax.Array, z: jax.Array) -> jax.Array:
    """[B T N H], in the dtype of the gate z."""
    y = x.astype(jnp.float32) * jax.nn.silu(z.astype(jnp.float32))
    shape = y.shape
    y = y.reshape(*shape[:2], self.groups, -1, shape[-1])
    mean_square = jnp.mean(jnp.square(y), axis=(-2, -1), keepdims=True)
    y = y * jax.lax.rsqrt(mean_square + self.epsilon)
    return (y.reshape(shape) * self.scale[...]).astype(z.dtype)


class Mamba2(nnx.Module):
  """out(norm(ssd(silu(conv(x, b, c))), gate)), with x, b, c, gate from one D.

  Attributes:
    expand: N H / D.
    head_dim: H.
    state_dim: P.
    groups: K, a divisor of N.
    use_bias: of the projections from and to the width D.
    convolution: constructor of a `CausalConvolution`, called with (shape,
      axes, rngs=...).
    norm: constructor of a `GatedRMSNorm`, called with (heads, head_dim,
      groups=..., rngs=...).
    steps: of the scan.
    num_layers: of the stack, by whose root the output starts out smaller, as
      in GPT-2; None to leave it as it is.
    init: of the kernels; called with their input axes.
    chunk: of `pallas_kernels.linear_attention`; None picks one.
  """

  def __init__(
    self,
    dim: int,
    *,
    expand: int = 2,
    head_dim: int = 64,
    state_dim: int = 128,
    groups: int = 1,
    use_bias: bool = False,
    convolution: Callable[..., Any] = CausalConvolution,
    norm: Callable[..., Any] = GatedRMSNorm,
    steps: StepSizes = StepSizes(),  # noqa: B008 (it is frozen)
    num_layers: int | None = None,
    init: Callable[..., Initializer] = FanInUniform(),  # noqa: B008
    chunk: int | None = None,
    rngs: nnx.Rngs,
  ):
    heads = _heads(dim * expand, head_dim, groups)
    self.expand, self.head_dim, self.state_dim = expand, head_dim, state_dim
    self.heads, self.groups = heads, groups
    self.steps, self.chunk = steps, chunk
    inner, inner_axes = (heads, head_dim), ("heads", "head_dim")
    group, group_axes = (groups, state_dim), (None, "state")

    def enter(shape: tuple[int, ...], axes: tuple[str | None, ...]) -> Einsum:
      letters = "nh"[: len(shape)]
      return Einsum(
        f"btd,d{letters}->bt{letters}",
        (dim, *shape),
        ("embed", *axes),
        init=init(0),
        use_bias=use_bias,
        rngs=rngs,
      )

    self.gate = enter(inner, inner_axes)
    self.x, self.x_convolution = (
      enter(inner, inner_axes),
      convolution(inner, inner_axes, rngs=rngs),
    )
    self.b, self.b_convolution = (
      enter(group, group_axes),
      convolution(group, group_axes, rngs=rngs),
    )
    self.c, self.c_convolution = (
      enter(group, group_axes),
      convolution(group, group_axes, rngs=rngs),
    )
    self.step = enter((heads,), ("heads",))
    self.step_bias = param(rngs, (heads,), ("heads",), steps)
    self.a_log = param(rngs, (heads,), ("heads",), _log_uniform)
    self.skip = param(rngs, (heads,), ("heads",), initializers.ones)
    self.norm = norm(heads, head_dim, groups=groups, rngs=rngs)
    self.out = Einsum(
      "btNh,Nhd->btd",  # see Attention.out for the capital
      (heads, head_dim, dim),
      ("heads", "head_dim", "embed"),
      init=init(0, 1, scale=1.0 / (num_layers or 1)),
      use_bias=use_bias,
      rngs=rngs,
    )

  def init_state(
    self, batch_size: int, length: int, dtype: str, ctx: Context
  ) -> State:
    """Zeros; how many tokens follow doesn't matter."""
    shape = (batch_size, self.heads, self.state_dim, self.head_dim)
    return {
      "x": self.x_convolution.init_state(batch_size, dtype),
      "b": self.b_convolution.init_state(batch_size, dtype),
      "c": self.c_convolution.init_state(batch_size, dtype),
      "scan": jnp.zeros(shape, jnp.float32),
    }

  def __call__(
    self, x: jax.Array, ctx: Context, state: State | None = None
  ) -> tuple[jax.Array, State | None]:
    refuse_prefix("Mamba2", ctx)
    begins = resets(ctx)
    before: Any = state or dict.fromkeys(("x", "b", "c", "scan"))
    new: State = {}

    def filtered(name: str) -> jax.Array:
      y = getattr(self, name)(x)
      if name == "x":
        y = constrain(y, "batch", "length", "heads", "head_dim")
      convolution = getattr(self, f"{name}_convolution")
      y, new[name] = convolution(y, begins, before[name])
      return jax.nn.silu(y)

    z = constrain(self.gate(x), "batch", "length", "heads", "head_dim")
    u, b, c = filtered("x"), filtered("b"), filtered("c")
    dt = self.steps.of(self.step(x), self.step_bias[...])
    u = u.astype(jnp.float32)
    y, new["scan"] = pallas_kernels.linear_attention(
      c,
      b,
      dt[..., None] * u,
      log_decay=-jnp.exp(self.a_log[...]) * dt,
      initial=before["scan"],
      resets=begins,
      chunk=self.chunk,
      shards=parts("length", x.shape[1]),
    )
    y = self.norm(y + self.skip[...][:, None] * u, z)
    y = constrain(y, "batch", "length", "heads", "head_dim")
    return self.out(y), None if state is None else new


def _heads(inner: int, head_dim: int, groups: int) -> int:
  """The number of heads.

  Raises:
    ConfigError: they don't divide.
  """
  if inner % head_dim:
    raise errors.ConfigError(
      f"Mamba2 of width {inner} (expand times dim) has heads of {head_dim}:"
      " head_dim must divide the width"
    )
  heads = inner // head_dim
  if heads % groups:
    raise errors.ConfigError(
      f"Mamba2 with {heads} heads and {groups} groups: groups must divide heads"
    )
  return heads


def _log_uniform(key: jax.Array, shape: Sequence[int], dtype: Any) -> jax.Array:
  """log(a), with a uniform from 1 to 16."""
  return jnp.log(jax.random.uniform(key, shape, dtype, 1.0, 16.0))
