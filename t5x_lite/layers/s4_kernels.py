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

A row that is divided among devices is run in as many parts: `s4_shards`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from t5x_lite.layers import s4_shards
from t5x_lite.layers.s4_convolution import convolve
from t5x_lite.layers.s4_systems import System, einsum

# (u [B C D], h [B D P], resets [B C]) -> (y [B C D], h [B D P])
Body = Callable[..., tuple[jax.Array, jax.Array]]


def scan(
  system: System,
  u: jax.Array,
  *,
  mode: str,
  block: int,
  resets: jax.Array | None,
  initial: jax.Array | None = None,
  shards: int = 1,
  reverse: bool = False,
) -> tuple[jax.Array, jax.Array]:
  """Runs a system over rows, going on from a state.

  Args:
    system: with D channels and a state of P.
    u: [B T D].
    mode: one of `MODES`.
    block: steps in a block, C.
    resets: [B T] bool; where True the state before the step counts as 0.  None
      for nowhere, which a convolution needs.
    initial: [B D P]; None for zeros.
    shards: parts of a row that are run at the same time, S, which divides T:
      as many as the length is divided in.
    reverse: from the last step to the first.

  Returns:
    y [B T D] and the last state [B D P].
  """
  size, length, channels = u.shape
  if initial is None:
    state_dim = system.output.shape[-1]
    initial = jnp.zeros((size, channels, state_dim), u.dtype)
  if resets is None:
    resets = jnp.zeros((size, length), bool)

  # Turned around within its parts, a row stays on its devices.
  def split(x: jax.Array) -> jax.Array:
    x = x.reshape(size, shards, length // shards, *x.shape[2:])
    return jnp.flip(x, axis=2) if reverse else x

  u, resets = split(u), split(resets)
  if shards == 1 and mode != "convolution":
    y, h = _run(system, u[:, 0], initial, resets[:, 0], mode, block)
    y = y[:, None]
  else:
    y, ends = _from_zeros(system, u, resets, mode, block)
    before, h = s4_shards.chain(system, ends, initial, resets, reverse)
    y = y + s4_shards.carried(system, before, resets, block)
  y = jnp.flip(y, axis=2) if reverse else y
  return y.reshape(size, length, channels), h


def _run(
  system: System,
  u: jax.Array,
  h: jax.Array,
  resets: jax.Array,
  mode: str,
  block: int,
) -> tuple[jax.Array, jax.Array]:
  """y [B T D] and the last state, in blocks, of u [B T D]."""
  run, block = _RUNS[mode], min(block, u.shape[1])
  # What is left over by whole blocks comes first: the state after it is that
  # after so many steps, which the state after a padded block would not be.
  rest = u.shape[1] % block
  if not rest:
    return run(system, u, h, resets, block)
  first, h = run(system, u[:, :rest], h, resets[:, :rest], rest)
  y, h = run(system, u[:, rest:], h, resets[:, rest:], block)
  return jnp.concatenate([first, y], axis=1), h


def _from_zeros(
  system: System, u: jax.Array, resets: jax.Array, mode: str, block: int
) -> tuple[jax.Array, jax.Array]:
  """y [B S n D] and states [B S D P] after parts u [B S n D] of rows."""
  if mode == "convolution":
    y = convolve(u, system.kernel(u.shape[2]))
    return y, s4_shards.written(system, u, block)

  def one(u: jax.Array, resets: jax.Array) -> tuple[jax.Array, jax.Array]:
    zeros = jnp.zeros((len(u), *system.output.shape), u.dtype)
    return _run(system, u, zeros, resets, mode, block)

  return s4_shards.over_parts(one, u, resets)


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
