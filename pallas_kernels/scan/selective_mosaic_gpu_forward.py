"""The selective scan's forward kernel for Hopper and Blackwell GPUs.

A thread holds all states of a channel in registers and walks over time; the
inputs of the next chunk of steps arrive meanwhile.  A warpgroup's 128 threads
are 128 channels.  The bound is the exponentials: one a state and step.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels import compat

CHANNELS = 128  # Of a warpgroup.
LOG2_E = 1.4426950408889634
# log(1 + e) / e on [0, 1] within 1e-8, highest power first.
_LOG1P = (
  *(-0.00317605705, 0.0195425274, -0.0563736132, 0.105436238, -0.152696671),
  *(0.196632743, -0.249516163, 0.333297105, -0.499998926, 0.999999995),
)
# Inputs of each step and channel.
OF_CHANNELS: tuple[str, ...] = ("x", "dt", "z")
# All states of a channel a thread.
_ROW = plgpu.Layout.TCGEN05_TMEM_NATIVE(4)
_CHANNEL = _ROW.reduce(1)
_STATE = _ROW.reduce(0)


@dataclasses.dataclass(frozen=True)
class Sizes:
  """What kernels are made for.

  Attributes:
    chunk: steps between states that are kept for the backward pass, which
      needs shared memory for them; divides the length.
    unroll: steps of the body of the forward pass's loop; divides the chunk.
    group: of the backward pass's, which needs 32 registers for each.
    softplus: whether dt is the softplus of dt + bias.
  """

  chunk: int = 16
  unroll: int = 4
  group: int = 4
  softplus: bool = True


def softplus(x: jax.Array) -> jax.Array:
  """log(1 + exp(x))."""
  e = jnp.exp2(jnp.abs(x) * -LOG2_E)
  value = e * _LOG1P[0] + _LOG1P[1]
  for coefficient in _LOG1P[2:]:
    value = value * e + coefficient
  return jnp.maximum(x, 0.0) + e * value


def sigmoid(x: jax.Array) -> jax.Array:
  """By the square of a reciprocal root: division takes a slow path."""
  root = lax.rsqrt(1.0 + jnp.exp2(x * -LOG2_E))
  return root * root


def forward(
  arrays: dict[str, jax.Array],
  sizes: Sizes,
  *,
  keep: bool,
  interpret: Any,
) -> list[jax.Array]:
  """y [B T E], the last state [B E P] and those before chunks [B T/chunk E P].

  Args:
    arrays: x, dt [B T E], b, c [B T P] float32, a [E P] times log2 e, d, bias
      [E], initial [B E P]; and perhaps z [B T E], resets [B T] float32, 0 or
      so far below it that its power of 2 is 0.
    sizes: of the kernel.
    keep: whether to return the states before chunks.
    interpret: None, or parameters of the interpreter.
  """
  batch, length, width = arrays["x"].shape
  states = arrays["a"].shape[1]
  dtype = arrays["x"].dtype
  out = {
    "y": jax.ShapeDtypeStruct((batch, length, width), dtype),
    "final": jax.ShapeDtypeStruct((batch, width, states), jnp.float32),
  }
  if keep:
    shape = (batch, length // sizes.chunk, width, states)
    out["before"] = jax.ShapeDtypeStruct(shape, jnp.float32)
  # Fetching costs less the more steps there are in a fetch.
  chunks = 2 if length % (2 * sizes.chunk) == 0 else 1
  fetched = chunks * sizes.chunk
  steps = [
    name for name in (*OF_CHANNELS, "b", "c", "resets") if name in arrays
  ]
  scratch: dict[str, Any] = {}
  for name in steps:
    kept = (CHANNELS,) if name in OF_CHANNELS else arrays[name].shape[2:]
    scratch[f"{name}_steps"] = plgpu.SMEM(
      (2, fetched, *kept), arrays[name].dtype
    )
  scratch["y_steps"] = plgpu.SMEM((2, fetched, CHANNELS), dtype)
  scratch["arrived"] = plgpu.Barrier(num_arrivals=len(steps), num_barriers=2)
  names = (*arrays, *out)

  def selective_scan_forward(*refs: Any, **scratch: Any) -> None:
    everything = dict(zip(names, refs, strict=True)) | scratch
    _Body(everything, steps, sizes, chunks).run(length // fetched)

  results: list[jax.Array] = plgpu.kernel(
    selective_scan_forward,
    out_type=list(out.values()),
    scratch_types=scratch,
    grid=(batch, width // CHANNELS),
    grid_names=("batch", "tile"),
    compiler_params=plgpu.CompilerParams(
      approx_math=True, unsafe_no_auto_barriers=True
    ),
    interpret=interpret,
  )(*arrays.values())
  return results


class _Body:
  """The kernel; a block is what is fetched at once: a chunk or two."""

  def __init__(
    self, refs: dict[str, Any], steps: list[str], sizes: Sizes, chunks: int
  ):
    self.refs, self.steps, self.sizes = refs, steps, sizes
    self.chunks, self.block = chunks, chunks * sizes.chunk
    self.row = lax.axis_index("batch")
    self.channels = pl.ds(lax.axis_index("tile") * CHANNELS, CHANNELS)
    self.a = _load(refs["a"].at[self.channels], _ROW)
    self.d = _load(refs["d"].at[self.channels], _CHANNEL)
    self.bias = _load(refs["bias"].at[self.channels], _CHANNEL)

  def run(self, blocks: int) -> None:
    refs = self.refs
    self.fetch(0, 0)
    h = _load(refs["initial"].at[self.row, self.channels], _ROW)

    def one(i: Any, h: jax.Array) -> jax.Array:
      slot = lax.rem(i, 2)

      @pl.when(i + 1 < blocks)
      def _() -> None:
        self.fetch(i + 1, 1 - slot)

      plgpu.barrier_wait(refs["arrived"].at[slot])
      # What was copied from this slot of y two blocks ago has left it.
      plgpu.wait_smem_to_gmem(1)
      h = lax.fori_loop(
        0, self.chunks, lambda j, h: self.chunk(i, slot, j, h), h
      )
      plgpu.commit_smem()
      times = pl.ds(i * self.block, self.block)
      plgpu.copy_smem_to_gmem(
        refs["y_steps"].at[slot], refs["y"].at[self.row, times, self.channels]
      )
      return h

    h = lax.fori_loop(0, blocks, one, h)
    compat.store_global(refs["final"].at[self.row, self.channels], h)
    plgpu.wait_smem_to_gmem(0)

  def fetch(self, block: Any, slot: Any) -> None:
    times = pl.ds(block * self.block, self.block)
    for name in self.steps:
      part: tuple[Any, ...] = (self.row, times)
      if name in OF_CHANNELS:
        part = (*part, self.channels)
      plgpu.copy_gmem_to_smem(
        self.refs[name].at[part],
        self.refs[f"{name}_steps"].at[slot],
        self.refs["arrived"].at[slot],
      )

  def chunk(self, i: Any, slot: Any, j: Any, h: jax.Array) -> jax.Array:
    refs, sizes = self.refs, self.sizes
    if "before" in refs:
      here = self.row, i * self.chunks + j, self.channels
      compat.store_global(refs["before"].at[here], h)

    def group(k: Any, h: jax.Array) -> jax.Array:
      first = j * sizes.chunk + k * sizes.unroll
      times = [first + offset for offset in range(sizes.unroll)]
      # None of these waits for a state.
      inputs = [self.inputs(slot, t) for t in times]
      for t, (x, dt) in zip(times, inputs, strict=True):
        h = self.step(slot, t, x, dt, h)
      return h

    return lax.fori_loop(0, sizes.chunk // sizes.unroll, group, h)

  def inputs(self, slot: Any, t: Any) -> tuple[jax.Array, jax.Array]:
    x = _load(self.refs["x_steps"].at[slot, t], _CHANNEL)
    dt = _load(self.refs["dt_steps"].at[slot, t], _CHANNEL)
    if self.sizes.softplus:
      dt = softplus(dt + self.bias)
    return x, dt

  def step(
    self, slot: Any, t: Any, x: jax.Array, dt: jax.Array, h: jax.Array
  ) -> jax.Array:
    refs, shape = self.refs, self.a.shape
    b = _load(refs["b_steps"].at[slot, t], _STATE)
    c = _load(refs["c_steps"].at[slot, t], _STATE)
    power = self.a * lax.broadcast_in_dim(dt, shape, (0,))
    if "resets" in refs:
      power = power + refs["resets_steps"][slot, t]
    u = lax.broadcast_in_dim(dt * x, shape, (0,))
    h = jnp.exp2(power) * h + u * lax.broadcast_in_dim(b, shape, (1,))
    y = jnp.sum(h * lax.broadcast_in_dim(c, shape, (1,)), axis=1)
    y = y + self.d * x
    if "z" in refs:
      z = _load(refs["z_steps"].at[slot, t], _CHANNEL)
      y = y * (z * sigmoid(z))
    refs["y_steps"][slot, t] = y.astype(refs["y"].dtype)
    return h


def _load(ref: Any, layout: Any) -> jax.Array:
  return compat.gpu_load(ref, layout).astype(jnp.float32)
