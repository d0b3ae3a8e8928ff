"""S4 and S4D: state-space models that no input changes.

Each of D channels has a linear system of its own, u -> y, with a state of size
P: x' = A x + B u, y = C x + skip u, discretized with a step dt that is learned
(Gu et al. 2021, "S4"; Gu et al. 2022, "S4D").  What mixes channels is the
linear map after it.  Parameters, of each channel, with Q = P / 2:

  log_dt     [D]    logarithm of dt
  log_decay  [D Q]  of minus the real part of the eigenvalues
  frequency  [D Q]  their imaginary part
  low_rank   [R D Q 2]  p of S4: A = diag(eigenvalues) - p p*
  b, c       [D Q 2]  real and imaginary parts; c_backward if bidirectional
  skip       [D]

The papers train all but c and skip with a smaller learning rate and without
weight decay: `optimizers.grouped`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from t5x_lite import errors
from t5x_lite.layers import hippo, s4_low_rank, s4_systems
from t5x_lite.layers.context import Context, dropout
from t5x_lite.layers.feed_forward import activation_of
from t5x_lite.layers.linear import Einsum, Initializer, fan_in, param
from t5x_lite.layers.state_space import (
  StateSpace,
  complex_of,
  fixed,
  parts_of,
)
from t5x_lite.rules import constrain

_DISCRETIZATIONS = ("zoh", "bilinear")


class S4Output(nnx.Module):
  """What follows the systems: linear(dropout(activation(y))), gated.

  Attributes:
    activation: name of an element-wise function.
    gate: name of the function of the gate, "sigmoid" for a GLU (Dauphin et
      al. 2017), as S4D has it; None for a linear map without a gate.
    use_bias: of the linear maps.
    init: of the kernels; called with their input axes.
  """

  def __init__(
    self,
    dim: int,
    *,
    activation: str = "gelu",
    gate: str | None = "sigmoid",
    dropout: float = 0.0,
    use_bias: bool = True,
    init: Callable[..., Initializer] = fan_in,
    rngs: nnx.Rngs,
  ):
    for name in (activation, gate):
      if name is not None:
        activation_of(name)  # refuses an unknown name
    self.activation, self.gate, self.dropout = activation, gate, dropout

    def project() -> Einsum:
      return Einsum(
        "bte,ed->btd",
        (dim, dim),
        ("mlp", "embed"),
        init=init(0),
        use_bias=use_bias,
        rngs=rngs,
      )

    self.out = project()
    self.out_gate: Any = project() if gate else None

  def __call__(self, y: jax.Array, ctx: Context) -> jax.Array:
    y = activation_of(self.activation)(y)
    y = constrain(dropout(y, self.dropout, ctx.key), "batch", "length", "mlp")
    if self.gate is None:
      return self.out(y)
    return self.out(y) * activation_of(self.gate)(self.out_gate(y))


class S4D(StateSpace):
  """A diagonal A (Gu et al. 2022, "S4D").

  Attributes:
    spectrum: the A and B that it starts with: "lin", "inv" or "legs".
    discretization: "zoh" or "bilinear".
    dt_min: of dt at the start, which is log-uniform.
    dt_max: likewise.  For the others see `StateSpace`.
  """

  def __init__(
    self,
    dim: int,
    *,
    state_dim: int = 64,
    spectrum: str = "lin",
    discretization: str = "zoh",
    dt_min: float = 1e-3,
    dt_max: float = 0.1,
    bidirectional: bool = False,
    mode: str | None = None,
    block: int = 64,
    output: Callable[..., Any] | None = S4Output,
    rngs: nnx.Rngs,
  ):
    if discretization not in _DISCRETIZATIONS:
      raise errors.ConfigError(
        f"discretization {discretization!r} is not one of"
        f" {', '.join(_DISCRETIZATIONS)}"
        f"{errors.suggest(discretization, _DISCRETIZATIONS)}"
      )
    self.spectrum, self.discretization = spectrum, discretization
    super().__init__(
      dim,
      state_dim=state_dim,
      system=hippo.spectrum(spectrum, state_dim),
      dt_range=(dt_min, dt_max),
      bidirectional=bidirectional,
      mode=mode,
      block=block,
      output=output,
      rngs=rngs,
    )

  def system(self, c: jax.Array, dtype: Any) -> s4_systems.Diagonal:
    return s4_systems.diagonal(
      self.eigenvalues(dtype),
      complex_of(self.b, dtype),
      c,
      jnp.exp(self.log_dt[...].astype(dtype)),
      self.discretization,
    )


class S4(StateSpace):
  """A diagonal plus low rank A that starts as HiPPO (Gu et al. 2021, "S4").

  Discretized by the bilinear rule.

  Attributes:
    measure: the A and B that it starts with: "legs", "legt" or "fout".
    dt_min: of dt at the start, which is log-uniform.
    dt_max: likewise.  For the others see `StateSpace`.
  """

  def __init__(
    self,
    dim: int,
    *,
    state_dim: int = 64,
    measure: str = "legs",
    dt_min: float = 1e-3,
    dt_max: float = 0.1,
    bidirectional: bool = False,
    mode: str | None = None,
    block: int = 64,
    output: Callable[..., Any] | None = S4Output,
    rngs: nnx.Rngs,
  ):
    values, p, b = hippo.diagonal_plus_low_rank(measure, state_dim)
    self.measure = measure
    super().__init__(
      dim,
      state_dim=state_dim,
      system=(values, b),
      dt_range=(dt_min, dt_max),
      bidirectional=bidirectional,
      mode=mode,
      block=block,
      output=output,
      rngs=rngs,
    )
    self.low_rank = param(
      rngs,
      (len(p), dim, state_dim // 2, 2),
      (None, "mlp", "state", None),
      fixed(parts_of(p)[:, None]),
    )

  def system(self, c: jax.Array, dtype: Any) -> s4_low_rank.DiagonalPlusLowRank:
    return s4_low_rank.DiagonalPlusLowRank(
      self.eigenvalues(dtype),
      complex_of(self.low_rank, dtype),
      complex_of(self.b, dtype),
      c,
      jnp.exp(self.log_dt[...].astype(dtype)),
    )
