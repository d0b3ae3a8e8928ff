"""Ways to run a time-invariant system over a row; all give the same.

  convolution  by FFT, with the kernel of the whole row.  Nothing can begin or
               end within it: neither packed examples nor a state before it.
  blocks       within a block of steps a short convolution, from block to block
               a state: what is known of every block at once is computed at
               once, and a scan over the blocks is left.
  associative  all states of a block by `jax.lax.associative_scan`.
  recurrent    step by step: the definition, and how a model decodes.

All but the convolution take an initial state, are cut wherever an example
begins, and keep no states but those between blocks, not for gradients either.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from t5x_lite.layers.s4_systems import System, einsum

# (u [B C D], h [B D P], resets [B C]) -> (y [B C D], h [B D P])
Body = Callable[..., tuple[jax.Array, jax.Array]]


def convolve(
  u: jax.Array, kernel: jax.Array, backward: jax.Array | None = None
) -> jax.Array:
  """y_t = sum_s kernel[t - s] u_s, and backward[s - t] from what is after.

  Args:
    u: [B T D].
    kernel: [D T].
    backward: [D T]; None for a causal convolution.
  """
  length = u.shape[1]
  size = _even_smooth(2 * length - 1)  # no end meets the other
  kernel = jnp.pad(kernel, ((0, 0), (0, size - length)))
  if backward is not None:
    # Lag -k is at size - k; lag 0 is in both.
    kernel = kernel.at[:, 0].add(backward[:, 0])
    kernel = kernel.at[:, size - length + 1 :].add(backward[:, :0:-1])
  spectrum = jnp.fft.rfft(u, size, axis=1) * jnp.fft.rfft(kernel).T
  return jnp.fft.irfft(spectrum, size, axis=1)[:, :length]


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


def scan(
  system: System,
  u: jax.Array,
  *,
  mode: str,
  block: int,
  resets: jax.Array,
  initial: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Runs a system over rows, going on from a state.

  Args:
    system: with D channels and a state of P.
    u: [B T D].
    mode: "blocks", "associative" or "recurrent".
    block: steps in a block, C.
    resets: [B T] bool; where True the state before the step counts as 0.
    initial: [B D P]; None for zeros.

  Returns:
    y [B T D] and the last state [B D P].
  """
  size, length, channels = u.shape
  if initial is None:
    state_dim = system.output.shape[-1]
    initial = jnp.zeros((size, channels, state_dim), u.dtype)
  run, block = _RUNS[mode], min(block, length)
  # What is left over by whole blocks comes first: the state after it is that
  # after so many steps, which the state after a padded block would not be.
  rest = length % block
  if not rest:
    return run(system, u, initial, resets, block)
  first, h = run(system, u[:, :rest], initial, resets[:, :rest], rest)
  y, h = run(system, u[:, rest:], h, resets[:, rest:], block)
  return jnp.concatenate([first, y], axis=1), h


def _blocks(
  system: System, u: jax.Array, h: jax.Array, resets: jax.Array, block: int
) -> tuple[jax.Array, jax.Array]:
  """Of length n C: within blocks by lags, between them by states."""
  size, length, channels = u.shape
  read, write = system.read(block), system.write(block)
  kernel = einsum("dkp,dp->dk", write, system.output)
  index = jnp.arange(length)
  begins = jnp.where(resets, index, index // block * block)
  y = _by_lags(kernel, u, index - jax.lax.cummax(begins, axis=1))

  in_blocks = (size, length // block, block)
  # Of each step, how many examples began in its block up to it.
  begun = jnp.cumsum(resets.reshape(in_blocks), axis=2)
  unbroken = (begun == begun[..., -1:])[..., None]  # until the block's end
  u = jnp.where(unbroken, u.reshape(*in_blocks, channels), 0)
  written = einsum("dsp,bnsd->nbdp", write[:, ::-1], u)
  advance = system.advance(block)

  def over(h: jax.Array, inputs: Any) -> tuple[jax.Array, jax.Array]:
    written, whole = inputs
    return jnp.where(whole[:, None, None], advance(h), 0) + written, h

  h, before = jax.lax.scan(over, h, (written, (begun[..., -1] == 0).T))
  earlier = einsum("dtp,nbdp->bntd", read, before)
  earlier = jnp.where((begun == 0)[..., None], earlier, 0)
  return y + earlier.reshape(y.shape), h


def _by_lags(kernel: jax.Array, u: jax.Array, reach: jax.Array) -> jax.Array:
  """y_t = sum over lags k <= reach_t of kernel[k] u_(t - k).

  A lag at a time, for all rows and steps at once: matrices of kernels that are
  cut at other places in every row would be far more to compute and to keep.

  Args:
    kernel: [D C].
    u: [B T D].
    reach: [B T] int, less than C.
  """
  length, lags = u.shape[1], kernel.shape[1]
  padded = jnp.pad(u, ((0, 0), (lags - 1, 0), (0, 0)))

  @jax.checkpoint
  def add(y: jax.Array, inputs: Any) -> tuple[jax.Array, None]:
    lag, row = inputs
    start = lags - 1 - lag
    shifted = jax.lax.dynamic_slice_in_dim(padded, start, length, axis=1)
    return y + jnp.where((lag <= reach)[..., None], shifted, 0) * row, None

  inputs = (jnp.arange(lags), kernel.T)
  return jax.lax.scan(add, jnp.zeros_like(u), inputs, unroll=4)[0]


def _over_blocks(
  body: Body, u: jax.Array, h: jax.Array, resets: jax.Array, block: int
) -> tuple[jax.Array, jax.Array]:
  """Blocks one after the other; each is computed again for gradients."""

  def split(x: jax.Array) -> jax.Array:
    return jnp.moveaxis(x.reshape(len(x), -1, block, *x.shape[2:]), 1, 0)

  @jax.checkpoint
  def one(h: jax.Array, inputs: Any) -> tuple[jax.Array, jax.Array]:
    y, h = body(inputs[0], h, inputs[1])
    return h, y

  h, y = jax.lax.scan(one, h, (split(u), split(resets)))
  return jnp.moveaxis(y, 0, 1).reshape(u.shape), h


def _associative(
  system: System, u: jax.Array, h: jax.Array, resets: jax.Array, block: int
) -> tuple[jax.Array, jax.Array]:
  def body(
    u: jax.Array, h: jax.Array, resets: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    states = system.states(u, h, resets)
    return einsum("btdp,dp->btd", states, system.output), states[:, -1]

  return _over_blocks(body, u, h, resets, block)


def _recurrent(
  system: System, u: jax.Array, h: jax.Array, resets: jax.Array, block: int
) -> tuple[jax.Array, jax.Array]:
  def step(h: jax.Array, inputs: Any) -> tuple[jax.Array, jax.Array]:
    u, reset = inputs
    h = system.step(jnp.where(reset[:, None, None], 0, h), u)
    return h, einsum("bdp,dp->bd", h, system.output)

  def body(
    u: jax.Array, h: jax.Array, resets: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    h, y = jax.lax.scan(step, h, (jnp.moveaxis(u, 1, 0), resets.T))
    return jnp.moveaxis(y, 0, 1), h

  return _over_blocks(body, u, h, resets, block)


_RUNS = {
  "blocks": _blocks,
  "associative": _associative,
  "recurrent": _recurrent,
}
MODES = ("convolution", *_RUNS)
