"""The selective scan in chunks, with a backward pass of its own.

Differentiating the loop over steps would keep several arrays of the states'
size; written by hand, the backward pass keeps the states of one chunk alone,
computed again from the state before it, and takes a third of the time on a
CPU.  So do states [B P E]: the width, long, is what vectors are made of.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pallas_kernels.scan import chunks


class Steps(NamedTuple):
  """Inputs of one step, or with more axes of several.

  Attributes:
    x: [B E].
    dt: [B E].
    b: [B P].
    c: [B P].
    resets: [B] bool; None for no reset.
  """

  x: jax.Array
  dt: jax.Array
  b: jax.Array
  c: jax.Array
  resets: jax.Array | None

  def astype(self, dtype: jnp.dtype) -> "Steps":
    """The same, computed with in `dtype`."""
    x, dt, b, c = (array.astype(dtype) for array in self[:4])
    return Steps(x, dt, b, c, self.resets)

  def kept(self, h: jax.Array) -> jax.Array:
    """h [B * *] with zeros in the rows that one step resets."""
    if self.resets is None:
      return h
    return jnp.where(self.resets[:, None, None], jnp.zeros_like(h), h)


def scan(
  a: jax.Array, steps: Steps, initial: jax.Array, chunk: int
) -> tuple[jax.Array, jax.Array]:
  """y [B T E] and the last state [B E P], as `selective_scan` without d."""
  length = steps.x.shape[1]
  chunk = min(chunk, length)
  steps = jax.tree.map(lambda x: chunks.cut(x, chunk), steps)
  y, final = _scan(a.T, steps, jnp.swapaxes(initial, 1, 2))
  return chunks.join(y, length), jnp.swapaxes(final, 1, 2)


@jax.custom_vjp
def _scan(
  a: jax.Array, steps: Steps, initial: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """a [P E], steps [chunks, steps, ...], initial [B P E]."""
  y, final, _ = _states_between(a, steps, initial)
  return y, final


def _next(a: jax.Array, h: jax.Array, step: Steps) -> jax.Array:
  added = (step.dt * step.x)[:, None] * step.b[:, :, None]
  return jnp.exp(step.dt[:, None] * a) * step.kept(h) + added


def _states_between(
  a: jax.Array, steps: Steps, initial: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """y, the last state, and those before each chunk [chunks, B, P, E]."""

  def one(h: jax.Array, step: Steps) -> tuple[jax.Array, jax.Array]:
    step = step.astype(a.dtype)
    h = _next(a, h, step)
    return h, jnp.einsum("bpe,bp->be", h, step.c)

  def run(h: jax.Array, steps: Steps) -> tuple[jax.Array, tuple]:
    after, y = jax.lax.scan(one, h, steps)
    return after, (y, h)

  final, (y, before) = jax.lax.scan(run, initial, steps)
  return y, final, before


def _forward(
  a: jax.Array, steps: Steps, initial: jax.Array
) -> tuple[tuple[jax.Array, jax.Array], tuple]:
  y, final, before = _states_between(a, steps, initial)
  return (y, final), (a, steps, before)


def _backward(
  kept: tuple, gradients: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, Steps, jax.Array]:
  a, steps, before = kept
  dy, dfinal = gradients

  def again(h: jax.Array, step: Steps) -> tuple[jax.Array, jax.Array]:
    h = _next(a, h, step.astype(a.dtype))
    return h, h

  def run(carry: tuple, inputs: tuple) -> tuple[tuple, Steps]:
    steps, dy, h = inputs
    _, states = jax.lax.scan(again, h, steps)
    one = functools.partial(_one_backward, a)
    carry, d = jax.lax.scan(one, carry, (steps, dy, states), reverse=True)
    pairs = zip(d[:4], steps[:4], strict=True)
    dx, ddt, db, dc = (g.astype(x.dtype) for g, x in pairs)
    # The resets are no numbers: None is their gradient.
    return carry, Steps(dx, ddt, db, dc, None)

  # Sums over rows wait for the end: adding whole states is fastest.
  da = jnp.zeros_like(dfinal)
  (dinitial, da), d = jax.lax.scan(
    run, (dfinal, da), (steps, dy, before), reverse=True
  )
  return jnp.sum(da, axis=0), d, dinitial


def _one_backward(
  a: jax.Array,
  carry: tuple[jax.Array, jax.Array],
  inputs: tuple[Steps, jax.Array, jax.Array],
) -> tuple[tuple[jax.Array, jax.Array], Steps]:
  """Gradients of one step, from those of the state after it and of its y."""
  dh, da = carry
  step, dy, h = inputs
  step = step.astype(a.dtype)
  u = step.dt * step.x
  dh = dh + step.c[:, :, None] * dy[:, None]
  db = jnp.einsum("bpe,be->bp", dh, u)
  dc = jnp.einsum("bpe,be->bp", h, dy)
  du = jnp.einsum("bpe,bp->be", dh, step.b)
  through = step.kept(dh)
  # exp(dt a) times the state before, without reading that one.
  decayed = h - u[:, None] * step.b[:, :, None]
  dlog = through * decayed
  ddt = jnp.sum(dlog * a, axis=1) + du * step.x
  da = da + dlog * step.dt[:, None]
  dh = through * jnp.exp(step.dt[:, None] * a)
  return (dh, da), Steps(du * step.dt, ddt, db, dc, None)


_scan.defvjp(_forward, _backward)
