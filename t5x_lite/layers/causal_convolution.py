"""A short convolution along time, of each channel by itself, looking back."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn import initializers

from t5x_lite import errors
from t5x_lite.layers.linear import Initializer, param


class CausalConvolution(nnx.Module):
  """y_t = sum_i kernel_i x_{t - W + 1 + i} + bias, within t's example.

  What is before an example counts as zeros, wherever the example stands: at
  the start of a row, after padding, or behind another example in a packed row.

  Attributes:
    width: W, the number of taps.
    kernel: [W *shape], the last tap for the token itself.
    bias: [*shape], or None.
  """

  def __init__(
    self,
    shape: Sequence[int],
    axes: Sequence[str | None],
    *,
    width: int = 4,
    use_bias: bool = True,
    rngs: nnx.Rngs,
  ):
    if width < 1:
      raise errors.ConfigError(
        f"CausalConvolution has width {width}: it needs 1 tap at least"
      )
    self.width = width
    self.kernel = param(rngs, (width, *shape), (None, *axes), _taps(width))
    zeros = initializers.zeros
    self.bias = param(rngs, shape, axes, zeros) if use_bias else None

  def init_state(self, batch_size: int, dtype: str) -> jax.Array:
    """No tokens yet: zeros [B W-1 *shape]."""
    shape = self.kernel.shape[1:]
    return jnp.zeros((batch_size, self.width - 1, *shape), dtype)

  def __call__(
    self, x: jax.Array, resets: jax.Array, state: jax.Array | None = None
  ) -> tuple[jax.Array, jax.Array]:
    """Filters x; sums are of float32.

    Args:
      x: [B T *shape].
      resets: [B T] bool, True where an example begins.
      state: [B W-1 *shape], the inputs before x, with zeros for those of other
        examples; None for zeros.

    Returns:
      The output in the dtype of x, and the state after x.
    """
    length, before = x.shape[1], self.width - 1
    if state is None:
      state = jnp.zeros((x.shape[0], before, *x.shape[2:]), x.dtype)
    inputs = jnp.concatenate([state.astype(x.dtype), x], axis=1)
    # Numbers of the examples; those of the call before are not cut again.
    number = jnp.cumsum(resets, axis=1, dtype=jnp.int32)
    number = jnp.pad(number, ((0, 0), (before, 0)))
    kernel = self.kernel[...].astype(jnp.float32)
    y = jnp.zeros((), jnp.float32)
    for tap in range(self.width):
      there = slice(tap, tap + length)
      seen = _over(number[:, there] == number[:, before:], x)
      shifted = jnp.where(seen, inputs[:, there], 0).astype(jnp.float32)
      y = y + kernel[tap] * shifted
    if self.bias is not None:
      y = y + self.bias[...]
    lasts = _over(number[:, length:] == number[:, -1:], x)
    left = jnp.where(lasts, inputs[:, length:], 0).astype(state.dtype)
    return y.astype(x.dtype), left


def _over(mask: jax.Array, x: jax.Array) -> jax.Array:
  """A mask [B T] that broadcasts against x [B T ...]."""
  return mask.reshape(*mask.shape, *[1] * (x.ndim - 2))


def _taps(width: int) -> Initializer:
  """Uniform with variance 1 / (3 W), what PyTorch gives a convolution."""
  bound = width**-0.5

  def init(key: jax.Array, shape: Sequence[int], dtype: object) -> jax.Array:
    return jax.random.uniform(key, shape, jnp.float32, -bound, bound)

  return init
