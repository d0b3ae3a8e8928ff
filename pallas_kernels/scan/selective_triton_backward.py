"""Gradients of the selective scan, by Pallas Triton; see `selective_triton`.

The states of a chunk are computed again from the one before it and go to a
buffer of one chunk, then time runs back.  With g the gradient by h_t, which
has a part from y_t and one from h_{t+1},

  g_t = c_t s_t + decay_{t+1} g_{t+1}, s_t = dy_t silu(z_t),
  db_t = sum of g_t dt_t x_t over channels, dc_t = that of h_t s_t,
  d(dt_t a) = g_t decay_t h_{t-1}.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from pallas_kernels.scan.selective_triton import (
  LANES,
  Arrays,
  Reader,
  Settings,
  States,
  Step,
  decays,
  plus,
  scaled,
  times,
  total,
)


def backward(
  settings: Settings,
  arrays: Arrays,
  before: jax.Array,
  dy: jax.Array,
  dfinal: jax.Array,
) -> Arrays:
  """Gradients by all of `arrays` but resets, in their dtypes.

  Args:
    settings: what is static.
    arrays: as of the forward pass.
    before: [B T/chunk P E], states before chunks.
    dy: [B T E].
    dfinal: [B P E].
  """
  size, length, width = arrays.x.shape
  states = arrays.a.shape[0]
  blocks = -(-width // LANES)

  def of_channels(*shape: Any) -> Any:
    return jax.ShapeDtypeStruct((*shape, width), jnp.float32)

  def like(x: Any) -> Any:
    return None if x is None else jax.ShapeDtypeStruct(x.shape, x.dtype)

  # Each row and block of channels has sums of its own, added by XLA.
  by_block: Any = jax.ShapeDtypeStruct(
    (blocks, size, length, states), jnp.float32
  )
  out_shape = Arrays(
    x=like(arrays.x),
    dt=like(arrays.dt),
    a=of_channels(size, states),
    b=by_block,
    c=by_block,
    d=None if arrays.d is None else of_channels(size),
    z=like(arrays.z),
    dt_bias=None if arrays.dt_bias is None else of_channels(size),
    initial=of_channels(size, states),
    resets=None,
  )
  found, _ = pl.pallas_call(
    functools.partial(_kernel, settings),
    grid=(size, blocks),
    out_shape=(out_shape, of_channels(size, settings.chunk, states)),
    # With one warp sums over channels need no shared memory.
    compiler_params=plgpu.CompilerParams(num_warps=1),
    interpret=settings.interpret,
    name="selective_scan_backward",
  )(arrays, before, dy, dfinal)
  summed = ("a", "b", "c", "d", "dt_bias")
  return found._replace(
    **{
      name: jnp.sum(x, axis=0).astype(getattr(arrays, name).dtype)
      for name, x in found._asdict().items()
      if name in summed and x is not None
    }
  )


def _kernel(
  settings: Settings,
  arrays: Arrays,
  before: Any,
  dy_ref: Any,
  dfinal: Any,
  found: Any,
  states_ref: Any,
) -> None:
  reader = Reader(arrays, 1)
  row, block = reader.row, pl.program_id(1)
  a = reader.of_states(arrays.a)
  bias = None if arrays.dt_bias is None else reader.vector(arrays.dt_bias)
  d = None if arrays.d is None else reader.vector(arrays.d)
  chunks = -(-reader.length // settings.chunk)

  def wait() -> None:
    # Threads may read what others wrote.
    if not settings.interpret:
      plgpu.debug_barrier()

  def one_chunk(place: jax.Array, state: tuple) -> tuple:
    chunk = chunks - 1 - place
    first = chunk * settings.chunk

    def again(ahead: jax.Array, h: States) -> States:
      """Stores the states before each step, as the step sees them."""
      step = Step(settings, reader, first + ahead, bias)
      h = step.before(h)
      reader.store_states(states_ref, h, row, ahead)
      size = step.size
      added = scaled(reader.numbers(arrays.b, step.t), size * step.x)
      return plus(times(decays(a, size), h), added)

    def back(place: jax.Array, state: tuple) -> tuple:
      return one_step(settings.chunk - 1 - place, state)

    def one_step(ahead: jax.Array, state: tuple) -> tuple:
      dh, da, dd, dbias = state
      step = Step(settings, reader, first + ahead, bias)
      t, valid, size = step.t, step.valid, step.size
      b, c = (reader.numbers(ref, t) for ref in (arrays.b, arrays.c))
      decay = decays(a, size)
      decayed = times(decay, reader.of_states(states_ref, row, ahead))
      h = plus(decayed, scaled(b, size * step.x))
      dy = reader.vector(dy_ref, row, t, mask=valid)
      if step.z is not None:
        gate = jax.nn.sigmoid(step.z)
        y = total(times(c, h))
        if d is not None:
          y = y + d * step.x
        slope = gate * (1.0 + step.z * (1.0 - gate))
        reader.store(found.z, dy * y * slope, row, t, mask=valid)
        dy = dy * step.z * gate
      g = plus(dh, scaled(c, dy))
      store_sums(found.b, scaled(g, size * step.x), step)
      store_sums(found.c, scaled(h, dy), step)
      dadded = total(times(b, g))
      dexponents = times(g, decayed)
      dsize = total(times(dexponents, a)) + dadded * step.x
      dx = dadded * size
      if d is not None:
        dx = dx + d * dy
        dd = dd + dy * step.x
      if settings.softplus:
        dsize = dsize * jax.nn.sigmoid(step.raw)
      reader.store(found.x, dx, row, t, mask=valid)
      reader.store(found.dt, dsize, row, t, mask=valid)
      dbias = dbias + jnp.where(valid, dsize, 0.0)
      da = plus(da, scaled(dexponents, size))
      return step.before(times(decay, g)), da, dd, dbias

    wait()
    h = reader.of_states(before, row, chunk)
    jax.lax.fori_loop(0, settings.chunk, again, h)
    wait()
    return jax.lax.fori_loop(0, settings.chunk, back, state)

  def store_sums(ref: Any, states: States, step: Step) -> None:
    for p, x in enumerate(states):
      place = ref.at[block, row, step.t, jnp.int32(p)]
      plgpu.store(place, jnp.sum(x), mask=step.valid)

  dh = reader.of_states(dfinal, row)
  no_channels = jnp.zeros_like(dh[0])
  start = dh, (no_channels,) * len(dh), no_channels, no_channels
  dh, da, dd, dbias = jax.lax.fori_loop(0, chunks, one_chunk, start)
  reader.store_states(found.initial, dh, row)
  reader.store_states(found.a, da, row)
  if found.d is not None:
    reader.store(found.d, dd, row)
  if found.dt_bias is not None:
    reader.store(found.dt_bias, dbias, row)
