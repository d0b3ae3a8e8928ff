"""Scans of a length that is divided among devices, in two levels.

Each shard is scanned from a state of zeros, all at the same time; a shard is
then one step of a short scan, with the state it came to and the factor by
which it lets the state before it through; that gives the states with which
the shards truly begin, and each is scanned again.  Devices exchange these
states [B S ...] and nothing of the length.

All is written for arrays [B S T/S ...].  Where the length of the inputs is
sharded in S parts, the compiler finds that S is, and that no step of the local
scans needs another device.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def check(what: str, length: int, shards: int) -> None:
  """Raises ValueError unless the shards divide the length."""
  if shards < 1 or length % shards:
    raise ValueError(
      f"{what} has {length} steps, which {shards} shards do not divide: make"
      " the length a multiple, or leave the length on one device (shards=1)"
    )


def split(x: jax.Array, shards: int) -> jax.Array:
  """[B T ...] as [B S T/S ...]."""
  return x.reshape(x.shape[0], shards, -1, *x.shape[2:])


def join(x: jax.Array) -> jax.Array:
  """The inverse of `split`."""
  return x.reshape(x.shape[0], -1, *x.shape[3:])


def chain(
  factors: jax.Array,
  states: jax.Array,
  initial: jax.Array,
  reverse: bool = False,
) -> tuple[jax.Array, jax.Array]:
  """States before each shard [B S ...] and after the last [B ...].

  Args:
    factors: [B S ...], of the state before each shard; 0 where one is reset.
    states: [B S ...] after each shard, had it begun with zeros.
    initial: [B ...] before the first.
    reverse: from the last shard to the first.
  """

  def step(state: jax.Array, one: Any) -> tuple[jax.Array, jax.Array]:
    factor, added = one
    return factor * state + added, state

  swapped = jnp.swapaxes(factors, 0, 1), jnp.swapaxes(states, 0, 1)
  final, before = jax.lax.scan(step, initial, swapped, reverse=reverse)
  return jnp.swapaxes(before, 0, 1), final


def two_level(
  scan: Callable[..., tuple[jax.Array, jax.Array]],
  inputs: tuple[jax.Array | None, ...],
  factors: jax.Array,
  initial: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """The outputs [B T ...] of a scan and the final state, shard by shard.

  Args:
    scan: (*inputs, state) -> (outputs, state), of arrays without S.
    inputs: arrays [B S T/S ...] or None.
    factors: as of `chain`.
    initial: [B ...] before the first step.
  """
  local = jax.vmap(scan, in_axes=1, out_axes=1)
  zeros = jnp.zeros_like(initial[:, None], shape=_with_shards(initial, factors))
  _, states = local(*inputs, zeros)
  before, final = chain(factors, states, initial)
  y, _ = local(*inputs, before)
  return join(y), final


def any_reset(resets: jax.Array | None, factors: jax.Array) -> jax.Array:
  """The factors [B S ...], 0 where one of resets [B S T/S] is True."""
  if resets is None:
    return factors
  cut = jnp.any(resets, axis=2)
  cut = cut.reshape(cut.shape + (1,) * (factors.ndim - 2))
  return jnp.where(cut, jnp.zeros_like(factors), factors)


def _with_shards(initial: jax.Array, factors: jax.Array) -> tuple[int, ...]:
  return (initial.shape[0], factors.shape[1], *initial.shape[1:])
