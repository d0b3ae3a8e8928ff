"""Parameters with logical axes, and the one linear map that uses them."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

# (key, shape, dtype) -> array, as in jax.nn.initializers.
Initializer = Callable[..., jax.Array]


def param(
  rngs: nnx.Rngs,
  shape: Sequence[int],
  axes: Sequence[str | None],
  init: Initializer,
) -> nnx.Param:
  """A float32 parameter whose dimensions are named for the partitioner."""
  value = init(rngs.params(), tuple(shape), jnp.float32)
  return nnx.Param(value, axes=tuple(axes))


def fan_in(*in_axes: int, scale: float = 1.0) -> Initializer:
  """Normal of variance scale / (product of the input dimensions)."""

  def init(key: jax.Array, shape: Sequence[int], dtype: Any) -> jax.Array:
    inputs = math.prod(shape[axis] for axis in in_axes)
    return jax.random.normal(key, shape, dtype) * math.sqrt(scale / inputs)

  return init


class Einsum(nnx.Module):
  """einsum(equation, x, kernel), with the kernel cast to the dtype of x."""

  def __init__(
    self,
    equation: str,
    shape: Sequence[int],
    axes: Sequence[str | None],
    *,
    init: Initializer,
    rngs: nnx.Rngs,
  ):
    self.equation = equation
    self.kernel = param(rngs, shape, axes, init)

  def __call__(self, x: jax.Array) -> jax.Array:
    return jnp.einsum(self.equation, x, self.kernel[...].astype(x.dtype))
