"""What selective state spaces share: step sizes, and where they start."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from t5x_lite import errors
from t5x_lite.layers.linear import Initializer


@dataclasses.dataclass(frozen=True)
class StepSizes:
  """Step sizes dt, softplus(x + bias) within bounds (Gu and Dao 2023).

  Called, it makes the biases: without an input, the step sizes of channels
  are log-uniform between `smallest` and `largest`.

  Attributes:
    smallest: at initialization.
    largest: likewise.
    least: lower bound, always.
    most: upper bound, always; None for none.
  """

  smallest: float = 1e-3
  largest: float = 0.1
  least: float = 0.0
  most: float | None = None

  def __post_init__(self) -> None:
    if not 0 < self.smallest <= self.largest:
      raise errors.ConfigError(
        f"StepSizes from {self.smallest} to {self.largest}: smallest must be"
        " positive and largest no less"
      )

  def __call__(
    self, key: jax.Array, shape: Sequence[int], dtype: Any
  ) -> jax.Array:
    low, high = math.log(self.smallest), math.log(self.largest)
    dt = jnp.exp(jax.random.uniform(key, shape, dtype, low, high))
    # The inverse of softplus: log(exp(dt) - 1), exact for a small dt too.
    return dt + jnp.log(-jnp.expm1(-dt))

  @property
  def bounded(self) -> bool:
    """Whether the bounds are more than softplus has by itself."""
    return self.least > 0.0 or self.most is not None

  def of(self, x: jax.Array, bias: jax.Array) -> jax.Array:
    """float32 step sizes [B T *E] of x [B T *E] and biases [*E]."""
    dt = jax.nn.softplus(x.astype(jnp.float32) + bias)
    if self.bounded:
      dt = jnp.clip(dt, self.least, self.most)
    return dt


@dataclasses.dataclass(frozen=True)
class FanInUniform:
  """Uniform with variance scale / (3 inputs): PyTorch's of a linear map.

  Stands where `fan_in` stands.
  """

  def __call__(self, *in_axes: int, scale: float = 1.0) -> Initializer:
    def init(key: jax.Array, shape: Sequence[int], dtype: Any) -> jax.Array:
      inputs = math.prod(shape[axis] for axis in in_axes)
      bound = math.sqrt(scale / inputs)
      return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init
