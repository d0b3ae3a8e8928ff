"""Long convolutions by FFT, also of arrays that are divided among devices."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import linear_call
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import PartitionSpec


def convolve(
  u: jax.Array, kernel: jax.Array, backward: jax.Array | None = None
) -> jax.Array:
  """y_t = sum_s kernel[t - s] u_s, and backward[s - t] from what is after.

  Args:
    u: [... T D].
    kernel: [D T].
    backward: [D T]; None for a causal convolution.
  """
  length = u.shape[-2]
  size = _even_smooth(2 * length - 1)  # no end meets the other
  kernel = jnp.pad(kernel, ((0, 0), (0, size - length)))
  if backward is not None:
    # Lag -k is at size - k; lag 0 is in both.
    kernel = kernel.at[:, 0].add(backward[:, 0])
    kernel = kernel.at[:, size - length + 1 :].add(backward[:, :0:-1])
  u = jnp.swapaxes(u, -1, -2)
  y = irfft(rfft(u, size) * rfft(kernel, size), size)[..., :length]
  return jnp.swapaxes(y, -1, -2)


def rfft(x: jax.Array, n: int) -> jax.Array:
  """As `jnp.fft.rfft`; each device transforms the rows that it holds."""
  return _by_rows(lambda x: jnp.fft.rfft(x, n), x)


def irfft(x: jax.Array, n: int) -> jax.Array:
  """As `jnp.fft.irfft`; each device transforms the rows that it holds."""
  return _by_rows(lambda x: jnp.fft.irfft(x, n), x)


def _by_rows(function: Callable[[jax.Array], jax.Array], x: jax.Array) -> Any:
  """A linear function of the last axis of x.

  For an FFT of its own XLA gathers all rows on every device (jax 0.10).
  """
  if jax.sharding.get_abstract_mesh().size <= 1:
    return function(x)
  last, dtype = x.shape[-1], x.dtype

  def transposed(y: jax.Array) -> jax.Array:
    of = jax.ShapeDtypeStruct((*y.shape[:-1], last), dtype)
    return jax.linear_transpose(function, of)(y)[0]

  # What is partitioned by hand has no derivative, unless it is given one.
  forward, back = _divided(function), _divided(transposed)
  return linear_call(lambda _, x: forward(x), lambda _, y: back(y), (), x)


def _divided(function: Callable[[jax.Array], jax.Array]) -> Any:
  """The function, with all axes but the last left as they are divided."""

  def partition(mesh: Any, arguments: Any, result: Any) -> Any:
    rows = arguments[0].sharding
    return mesh, function, rows, (rows,)

  divided = custom_partitioning(function)
  divided.def_partition(partition, sharding_rule="... t -> ... f")
  return lambda x: _whole(divided(_whole(x)))


def _whole(x: jax.Array) -> jax.Array:
  """x, of whose last axis each device has all."""
  axes = (PartitionSpec.UNCONSTRAINED,) * (x.ndim - 1)
  return jax.lax.with_sharding_constraint(x, PartitionSpec(*axes, None))


def _even_smooth(least: int) -> int:
  """The least even number without prime factors above 5: FFTs like those."""

  def smooth(n: int) -> bool:
    for factor in (2, 3, 5):
      while n % factor == 0:
        n //= factor
    return n == 1

  n = least + least % 2
  while not smooth(n):
    n += 2
  return n
