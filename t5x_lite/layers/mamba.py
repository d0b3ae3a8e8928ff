"""Mamba: a state space whose steps depend on the input (S6).

Gu and Dao 2023, https://arxiv.org/abs/2312.00752, figure 3 and algorithm 2.
In the shapes, E is the expanded width, P the state of each of its channels,
and R the rank of the step sizes.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn import initializers

from t5x_lite.layers import kernels
from t5x_lite.layers.causal_convolution import CausalConvolution
from t5x_lite.layers.context import Context
from t5x_lite.layers.linear import Einsum, Initializer, param
from t5x_lite.layers.linear_attention import refuse_prefix
from t5x_lite.layers.resets import resets
from t5x_lite.layers.selective import FanInUniform, StepSizes
from t5x_lite.rules import constrain, parts

State = dict[str, jax.Array]  # {"convolution": [B W-1 E], "scan": [B E P]}


class Mamba(nnx.Module):
  """out(scan(silu(conv(wi x))) * silu(gate x)): mixer and feed-forward in one.

  Attributes:
    expand: E / D.
    state_dim: P.
    rank: R; None is D / 16, rounded up.
    use_bias: of the projections from and to the width D.
    convolution: constructor of a `CausalConvolution`, called with (shape,
      axes, rngs=...).
    steps: of the scan.
    num_layers: of the stack, by whose root the output starts out smaller, as
      in GPT-2; None to leave it as it is.
    init: of the kernels; called with their input axes.
    chunk: of `pallas_kernels.selective_scan`; None picks one.
    implementation: likewise.
  """

  def __init__(
    self,
    dim: int,
    *,
    expand: int = 2,
    state_dim: int = 16,
    rank: int | None = None,
    use_bias: bool = False,
    convolution: Callable[..., Any] = CausalConvolution,
    steps: StepSizes = StepSizes(),  # noqa: B008 (it is frozen)
    num_layers: int | None = None,
    init: Callable[..., Initializer] = FanInUniform(),  # noqa: B008
    chunk: int | None = None,
    implementation: str | None = None,
    rngs: nnx.Rngs,
  ):
    inner, rank = expand * dim, rank or math.ceil(dim / 16)
    self.expand, self.state_dim, self.rank = expand, state_dim, rank
    self.steps = steps
    self.chunk, self.implementation = chunk, implementation

    def enter() -> Einsum:
      return Einsum(
        "btd,de->bte",
        (dim, inner),
        ("embed", "mlp"),
        init=init(0),
        use_bias=use_bias,
        rngs=rngs,
      )

    self.wi, self.gate = enter(), enter()
    self.convolution = convolution((inner,), ("mlp",), rngs=rngs)
    # One product for step sizes, B and C: none of them is sharded.
    self.select = Einsum(
      "bte,er->btr",
      (inner, rank + 2 * state_dim),
      ("mlp", None),
      init=init(0),
      rngs=rngs,
    )
    self.step = Einsum(
      "btr,re->bte",
      (rank, inner),
      (None, "mlp"),
      init=FanInUniform()(0),
      rngs=rngs,
    )
    self.step_bias = param(rngs, (inner,), ("mlp",), steps)
    self.a_log = param(rngs, (inner, state_dim), ("mlp", "state"), _counted)
    self.skip = param(rngs, (inner,), ("mlp",), initializers.ones)
    self.out = Einsum(
      "bte,ed->btd",
      (inner, dim),
      ("mlp", "embed"),
      init=init(0, scale=1.0 / (num_layers or 1)),
      use_bias=use_bias,
      rngs=rngs,
    )

  def init_state(
    self, batch_size: int, length: int, dtype: str, ctx: Context
  ) -> State:
    """Zeros; how many tokens follow doesn't matter."""
    return {
      "convolution": self.convolution.init_state(batch_size, dtype),
      "scan": jnp.zeros((batch_size, *self.a_log.shape), jnp.float32),
    }

  def __call__(
    self, x: jax.Array, ctx: Context, state: State | None = None
  ) -> tuple[jax.Array, State | None]:
    refuse_prefix("Mamba", ctx)
    begins = resets(ctx)
    before: Any = state or {"convolution": None, "scan": None}
    z = constrain(self.gate(x), "batch", "length", "mlp")
    u = constrain(self.wi(x), "batch", "length", "mlp")
    u, last = self.convolution(u, begins, before["convolution"])
    u = jax.nn.silu(u)
    ends = (self.rank, self.rank + self.state_dim)
    step, b, c = jnp.split(self.select(u), ends, axis=-1)
    step, fused = self.step(step), {}
    if self.steps.bounded:
      step = self.steps.of(step, self.step_bias[...])
    else:
      fused = {"dt_bias": self.step_bias[...], "dt_softplus": True}
    y, final = kernels.selective_scan(
      u,
      step,
      -jnp.exp(self.a_log[...]),
      b,
      c,
      d=self.skip[...],
      z=z,
      **fused,
      initial=before["scan"],
      resets=begins,
      chunk=self.chunk,
      shards=parts("length", x.shape[1]),
      implementation=self.implementation,
    )
    y = constrain(y, "batch", "length", "mlp")
    new = None if state is None else {"convolution": last, "scan": final}
    return self.out(y), new


def _counted(key: jax.Array, shape: Sequence[int], dtype: Any) -> jax.Array:
  """log(1), ..., log(P) for every channel: S4D-Real (Gu et al. 2022)."""
  count = jnp.arange(1, shape[-1] + 1, dtype=dtype)
  return jnp.broadcast_to(jnp.log(count), shape)
