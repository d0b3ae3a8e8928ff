"""The linear recurrence on NVIDIA GPUs by Pallas Triton.

A program walks along time with a state of one channel a thread.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

# Channels of a program, one a thread.
_CHANNELS = 128
_WARPS = _CHANNELS // 32
# Steps whose numbers are loaded before the first of them is used.
_AHEAD = 8

# Real, or real and imaginary.
_Planes = tuple[jax.Array, ...]


def refusal(a: Any, b: Any) -> str | None:
  """Why the kernel can't scan a and b [B T ...]; None if it can."""
  del a
  return "an array is empty" if 0 in b.shape else None


def scan(
  a: jax.Array,
  b: jax.Array,
  initial: jax.Array,
  *,
  reverse: bool,
  interpret: bool,
) -> jax.Array:
  """All states of h_t = a_t h_{t-1} + b_t.

  Args:
    a: [B T ...], float32 or complex64, 0 where a state is reset; axes after
      the first two may be of size 1.
    b: [B T ...], of that dtype.
    initial: [B ...], likewise.
    reverse: from the last step to the first.
    interpret: run on any device.

  Returns:
    [B T ...].
  """
  size, length, *shape = b.shape
  a, repeats = _by_channel(a, tuple(shape))
  b, initial = b.reshape(size, length, -1), initial.reshape(size, -1)
  channels = b.shape[2]
  planes = [_planes(x) for x in (a, b, initial)]
  state = jax.ShapeDtypeStruct(b.shape, jnp.float32)
  h = pl.pallas_call(
    functools.partial(_kernel, repeats, reverse),
    grid=(size, -(-channels // _CHANNELS)),
    out_shape=(state,) * len(planes[0]),
    compiler_params=plgpu.CompilerParams(num_warps=_WARPS),
    interpret=interpret,
    name="linear_scan",
  )(*planes)
  whole = h[0] if len(h) == 1 else jax.lax.complex(*h)
  return whole.reshape(size, length, *shape)


def _by_channel(a: jax.Array, shape: tuple[int, ...]) -> tuple[jax.Array, int]:
  """As [B T C], and how many channels in sequence share each number of it."""
  inner = len(shape)
  while inner and a.shape[1 + inner] == 1:
    inner -= 1
  a = jnp.broadcast_to(a, (*a.shape[:2], *shape[:inner], *a.shape[2 + inner :]))
  return a.reshape(*a.shape[:2], -1), math.prod(shape[inner:])


def _planes(x: jax.Array) -> _Planes:
  return (x.real, x.imag) if jnp.iscomplexobj(x) else (x,)


def _product(x: _Planes, y: _Planes) -> _Planes:
  if len(x) == 1:
    return (x[0] * y[0],)
  return x[0] * y[0] - x[1] * y[1], x[0] * y[1] + x[1] * y[0]


def _kernel(
  repeats: int,
  reverse: bool,
  a_refs: Any,
  b_refs: Any,
  initial_refs: Any,
  *h_refs: Any,
) -> None:
  row = pl.program_id(0)
  length, width = h_refs[0].shape[1:]
  channels = pl.program_id(1) * _CHANNELS + jax.lax.iota(jnp.int32, _CHANNELS)
  inside = channels < width

  def load(refs: Any, *place: jax.Array) -> _Planes:
    return tuple(
      plgpu.load(ref.at[row, *place], mask=inside, other=0.0) for ref in refs
    )

  shared = jax.lax.div(channels, jnp.int32(repeats))

  def steps(group: jax.Array, h: _Planes) -> _Planes:
    places = []
    for ahead in range(_AHEAD):
      t = jnp.minimum(group * _AHEAD + ahead, length - 1)
      places.append(length - 1 - t if reverse else t)
    a = [load(a_refs, t, shared) for t in places]
    b = [load(b_refs, t, channels) for t in places]
    for ahead, t in enumerate(places):
      changed = _product(a[ahead], h)
      h = tuple(x + y for x, y in zip(changed, b[ahead], strict=True))
      # After the last step it would be stored once more, and wrong.
      mask = inside & (group * _AHEAD + ahead < length)
      for ref, plane in zip(h_refs, h, strict=True):
        plgpu.store(ref.at[row, t, channels], plane, mask=mask)
    return h

  groups = -(-length // _AHEAD)
  jax.lax.fori_loop(0, groups, steps, load(initial_refs, channels))
