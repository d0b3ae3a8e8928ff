"""Rows that are divided among devices: states go from part to part.

Each part is run from a state of zeros, all at the same time; that gives the
states with which the parts truly begin, and what those add to the outputs is
added.  Devices exchange these states [B S D P] and nothing of the length.

All is written for arrays [B S n ...] of S parts.  Where the length of the
inputs is divided in S, the compiler finds that S is.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from t5x_lite.layers.s4_systems import System, einsum


def over_parts(function: Callable[..., Any], *parts: jax.Array) -> Any:
  """A function of arrays [B ...] for each of S, at the same time."""
  return jax.vmap(function, in_axes=1, out_axes=1)(*parts)


def written(system: System, u: jax.Array, block: int) -> jax.Array:
  """The states [B S D P] that parts u [B S n D] leave, from zeros."""
  length = u.shape[2]
  block = min(block, length)
  # Before its first input a state of zeros stays one.
  u = jnp.pad(u, ((0, 0), (0, 0), (-length % block, 0), (0, 0)))
  write, advance = system.write(block)[:, ::-1], system.advance(block)

  def over(h: jax.Array, u: jax.Array) -> tuple[jax.Array, None]:
    return advance(h) + einsum("dsp,bsd->bdp", write, u), None

  def one(u: jax.Array) -> jax.Array:
    zeros = jnp.zeros((len(u), *system.output.shape), u.dtype)
    blocks = u.reshape(len(u), -1, block, u.shape[-1])
    return jax.lax.scan(over, zeros, jnp.moveaxis(blocks, 1, 0))[0]

  return over_parts(one, u)


def chain(
  system: System,
  ends: jax.Array,
  initial: jax.Array,
  resets: jax.Array,
  reverse: bool,
) -> tuple[jax.Array, jax.Array]:
  """States before each part [B S D P] and after the last one [B D P].

  Args:
    system: of which they are.
    ends: [B S D P] after each part, had it begun with zeros.
    initial: [B D P] before the first.
    resets: [B S n].
    reverse: from the last part to the first.
  """
  advance = system.advance(resets.shape[2])
  whole = ~jnp.any(resets, axis=2)

  def over(h: jax.Array, inputs: Any) -> tuple[jax.Array, jax.Array]:
    end, whole = inputs
    return jnp.where(whole[:, None, None], advance(h), 0) + end, h

  inputs = jnp.swapaxes(ends, 0, 1), whole.T
  final, before = jax.lax.scan(over, initial, inputs, reverse=reverse)
  return jnp.swapaxes(before, 0, 1), final


def carried(
  system: System, before: jax.Array, resets: jax.Array, block: int
) -> jax.Array:
  """y [B S n D] of states before parts [B S D P], up to the first reset."""
  length = resets.shape[2]
  block = min(block, length)
  read, advance = system.read(block), system.advance(block)

  def over(h: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
    return advance(h), einsum("dtp,bdp->btd", read, h)

  def one(h: jax.Array) -> jax.Array:
    _, y = jax.lax.scan(over, h, length=-(-length // block))
    y = jnp.moveaxis(y, 0, 1)
    return y.reshape(len(h), -1, y.shape[-1])[:, :length]

  unbroken = jnp.cumsum(resets, axis=2) == 0
  return jnp.where(unbroken[..., None], over_parts(one, before), 0)
