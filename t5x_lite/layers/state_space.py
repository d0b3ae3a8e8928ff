"""What S4 and S4D share: parameters, modes, directions, states."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.nn import initializers

from t5x_lite import errors
from t5x_lite.layers import s4_kernels, s4_systems
from t5x_lite.layers.context import Context
from t5x_lite.layers.linear import Initializer, param
from t5x_lite.layers.resets import resets, reverse_resets
from t5x_lite.layers.s4_convolution import convolve
from t5x_lite.rules import constrain, parts

# What does not decay at all starts with this rate: Cauchy kernels have poles
# where a frequency meets an eigenvalue.
_LEAST_DECAY = 1e-4


class StateSpace(nnx.Module):
  """D systems, of which a subclass says what they are, and what follows them.

  Attributes:
    state_dim: P, even.
    bidirectional: the past and the future are read, with c and c_backward,
      the token itself with both; for encoders.
    mode: how rows are run when nothing is decoded, a name of
      `s4_kernels.MODES`.  None picks: "convolution" for a row that is a single
      example, which is one without segment ids; "blocks" where segments are
      packed or padded, for a convolution cannot be cut.
    block: steps of a block; a row need not be made of whole ones.
    output: constructor of what follows, called with (dim, rngs=...); None for
      nothing.
  """

  def __init__(
    self,
    dim: int,
    *,
    state_dim: int,
    system: tuple[np.ndarray, np.ndarray],
    dt_range: tuple[float, float],
    bidirectional: bool,
    mode: str | None,
    block: int,
    output: Callable[..., Any] | None,
    rngs: nnx.Rngs,
  ):
    if mode is not None and mode not in s4_kernels.MODES:
      raise errors.ConfigError(
        f"mode {mode!r} is not one of {', '.join(s4_kernels.MODES)}, or None"
        f"{errors.suggest(mode, s4_kernels.MODES)}"
      )
    if block < 1:
      raise errors.ConfigError(f"block {block}: a block has at least one step")
    self.dim, self.state_dim, self.bidirectional = dim, state_dim, bidirectional
    self.mode, self.block = mode, block
    values, b = system
    decay = np.maximum(-values.real, _LEAST_DECAY)
    rates, pairs = ("mlp", "state"), ("mlp", "state", None)
    self.log_dt = param(rngs, (dim,), ("mlp",), _log_uniform(*dt_range))
    shape = (dim, state_dim // 2)
    self.log_decay = param(rngs, shape, rates, fixed(np.log(decay)))
    self.frequency = param(rngs, shape, rates, fixed(values.imag))
    self.b = param(rngs, (*shape, 2), pairs, fixed(parts_of(b)))
    # Complex numbers of variance one.
    normal = initializers.normal(math.sqrt(0.5))
    self.c = param(rngs, (*shape, 2), pairs, normal)
    self.c_backward = (
      param(rngs, (*shape, 2), pairs, normal) if bidirectional else None
    )
    self.skip = param(rngs, (dim,), ("mlp",), initializers.normal(1.0))
    self.output = output(dim, rngs=rngs) if output else None

  def system(self, c: jax.Array, dtype: Any) -> s4_systems.System:
    """The system in discrete time, with this c [D Q] complex."""
    raise NotImplementedError

  def eigenvalues(self, dtype: Any) -> jax.Array:
    """[D Q] complex, of continuous time."""
    return jax.lax.complex(
      -jnp.exp(self.log_decay[...].astype(dtype)),
      self.frequency[...].astype(dtype),
    )

  def init_state(
    self, batch_size: int, length: int, dtype: str, ctx: Context
  ) -> jax.Array:
    """Zeros [B D P], float32 at least; the length does not matter.

    Raises:
      ConfigError: the layer is bidirectional.
    """
    if self.bidirectional:
      raise errors.ConfigError(
        f"a bidirectional {type(self).__name__} sees tokens that are not there"
        " yet and cannot decode: bidirectional = False in a decoder"
      )
    shape = (batch_size, self.dim, self.state_dim)
    return jnp.zeros(shape, _precision(dtype))

  def __call__(
    self, x: jax.Array, ctx: Context, state: Any = None
  ) -> tuple[jax.Array, Any]:
    if ctx.prefix is not None and not self.bidirectional:
      raise errors.ConfigError(
        f"{type(self).__name__} cannot see the rest of a prefix: train with"
        " objectives/causal_lm.gin, or bidirectional = True in an encoder"
      )
    dtype = _precision(x.dtype)
    u = constrain(x, "batch", "length", "mlp").astype(dtype)
    mode = self._mode(ctx, state)
    if mode == "convolution" and parts("length", u.shape[1]) == 1:
      y = self._convolve(u)
    else:
      y, final = self._scan(self.c, u, mode, ctx, state)
      state = None if state is None else final
      if self.bidirectional:
        back, _ = self._scan(self.c_backward, u, mode, ctx, reverse=True)
        y = y + back
    y = (y + self.skip[...].astype(dtype) * u).astype(x.dtype)
    return y if self.output is None else self.output(y, ctx), state

  def _mode(self, ctx: Context, state: Any) -> str:
    if state is not None:
      if ctx.positions.shape[1] == 1:
        return "recurrent"
      return "blocks" if self.mode in (None, "convolution") else self.mode
    if self.mode is None:
      return "convolution" if ctx.segments is None else "blocks"
    if self.mode == "convolution" and ctx.segments is not None:
      raise errors.ConfigError(
        f"{type(self).__name__} with mode 'convolution' cannot run rows with"
        " segment ids (packed or padded), for it would carry the state of one"
        " example to the next: set mode = 'blocks', or None to have it picked"
      )
    return self.mode

  def _convolve(self, u: jax.Array) -> jax.Array:
    length, backward = u.shape[1], None
    kernel = self.system(complex_of(self.c, u.dtype), u.dtype).kernel(length)
    if self.bidirectional:
      c = complex_of(self.c_backward, u.dtype)
      backward = self.system(c, u.dtype).kernel(length)
    return convolve(u, kernel, backward)

  def _scan(
    self,
    c: Any,
    u: jax.Array,
    mode: str,
    ctx: Context,
    initial: jax.Array | None = None,
    reverse: bool = False,
  ) -> tuple[jax.Array, jax.Array]:
    cuts = reverse_resets(ctx) if reverse else resets(ctx)
    return s4_kernels.scan(
      self.system(complex_of(c, u.dtype), u.dtype),
      u,
      mode=mode,
      block=self.block,
      resets=None if mode == "convolution" else cuts,
      initial=initial,
      shards=parts("length", u.shape[1]),
      reverse=reverse,
    )


def _precision(dtype: Any) -> Any:
  """float32 at least: of scans, kernels and states."""
  return jnp.promote_types(dtype, jnp.float32)


def parts_of(x: np.ndarray) -> np.ndarray:
  """Complex [...] as [... 2]."""
  return np.stack([x.real, x.imag], axis=-1)


def complex_of(parts: Any, dtype: Any) -> jax.Array:
  """[... 2] as complex [...]."""
  value = parts[...].astype(dtype)
  return jax.lax.complex(value[..., 0], value[..., 1])


def fixed(value: np.ndarray) -> Initializer:
  """The same for every channel."""

  def init(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    del key
    return jnp.broadcast_to(jnp.asarray(value, dtype), shape)

  return init


def _log_uniform(least: float, most: float) -> Initializer:
  """Logarithms, even between those of two numbers.

  Raises:
    ConfigError: they are not positive and in order.
  """
  if not 0 < least <= most:
    raise errors.ConfigError(
      f"dt_min {least} and dt_max {most}: steps start between them, so that"
      " 0 < dt_min <= dt_max"
    )

  def init(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    low, high = math.log(least), math.log(most)
    return jax.random.uniform(key, shape, dtype, low, high)

  return init
