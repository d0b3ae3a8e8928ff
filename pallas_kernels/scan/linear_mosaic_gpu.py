"""The linear scan by a kernel for Hopper and Blackwell GPUs.

A thread holds the state of a channel and walks over time, in either direction;
the inputs of the next chunks of steps arrive meanwhile.  Nothing but bytes
bounds it: each input is read and each state written once.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels import compat

_CHANNELS = 128  # Of a warpgroup.
# A channel a thread.
_LAYOUT = plgpu.Layout.TILED(
  plgpu.Tiling(((_CHANNELS,), (32,), (1,))),
  warp_dims=(-3,),
  lane_dims=(-2,),
  vector_dim=-1,
)


@dataclasses.dataclass(frozen=True)
class Sizes:
  """What a kernel is made for.

  Attributes:
    chunk: steps that are fetched at once; divides the length.
    stages: chunks in shared memory, being fetched but one.
    unroll: steps of the body of the loop; divides the chunk.
    reverse: from right to left.
  """

  chunk: int = 16
  stages: int = 4
  unroll: int = 8
  reverse: bool = False


def refusal(a: Any, b: Any) -> str | None:
  """Why the kernel can't scan a and b [B T ...]; None if it can."""
  del a
  if compat.VERSION < (0, 11):
    return "jax is older than 0.11"
  if 0 in b.shape:
    return "an array is empty"
  return None


def scan(
  a: jax.Array,
  b: jax.Array,
  initial: jax.Array,
  *,
  reverse: bool,
  interpret: bool,
) -> jax.Array:
  """The states [B T ...] of h_t = a_t h_{t-1} + b_t, or a_t h_{t+1} + b_t.

  Args:
    a: [B T ...], float32 or complex64, whose axes may have size 1.
    b: [B T ...], of the same dtype.
    initial: [B ...], of the same dtype.
    reverse: from right to left.
    interpret: on whatever device there is.
  """
  sizes = Sizes(reverse=reverse)
  batch, length = b.shape[:2]
  width = math.prod(b.shape[2:])
  a = jnp.broadcast_to(a, b.shape).reshape(batch, length, width)
  steps = [
    # Steps beyond the length keep the state.
    _pad(_pad(a, 1, sizes.chunk, 1.0), 2, _CHANNELS),
    _pad(_pad(b.reshape(a.shape), 1, sizes.chunk), 2, _CHANNELS),
  ]
  initial = _pad(initial.reshape(batch, width), 1, _CHANNELS)
  is_complex = jnp.issubdtype(b.dtype, jnp.complexfloating)
  parts = (jnp.real, jnp.imag) if is_complex else (jnp.asarray,)
  parameters = compat.gpu_interpreter() if interpret else None
  planes = _states(
    *([part(x) for part in parts] for x in (*steps, initial)),
    sizes=sizes,
    interpret=parameters,
  )
  h = lax.complex(*planes) if is_complex else planes[0]
  return h[:, :length, :width].reshape(b.shape)


def _pad(
  x: jax.Array, axis: int, multiple: int, value: float = 0.0
) -> jax.Array:
  missing = -x.shape[axis] % multiple
  if not missing:
    return x
  widths = [(0, missing if i == axis else 0) for i in range(x.ndim)]
  return jnp.pad(x, widths, constant_values=value)


def _states(
  a: list[jax.Array],
  b: list[jax.Array],
  initial: list[jax.Array],
  *,
  sizes: Sizes,
  interpret: Any,
) -> list[jax.Array]:
  """Planes of the states [B T E]: one of real numbers, two of complex ones."""
  batch, length, width = b[0].shape
  planes = len(b)
  tile = sizes.chunk, _CHANNELS
  stages = sizes.stages

  def linear_scan(*refs: Any, **scratch: Any) -> None:
    each = [list(refs[i : i + planes]) for i in range(0, 4 * planes, planes)]
    _Body(*each, **scratch, sizes=sizes).run(length // sizes.chunk)

  states: list[jax.Array] = plgpu.kernel(
    linear_scan,
    out_type=[jax.ShapeDtypeStruct(b[0].shape, jnp.float32)] * planes,
    scratch_types={
      "inputs": plgpu.SMEM((stages, 2, planes, *tile), jnp.float32),
      "outputs": plgpu.SMEM((2, planes, *tile), jnp.float32),
      "arrived": plgpu.Barrier(num_arrivals=2 * planes, num_barriers=stages),
    },
    grid=(batch, width // _CHANNELS),
    grid_names=("batch", "tile"),
    compiler_params=plgpu.CompilerParams(unsafe_no_auto_barriers=True),
    interpret=interpret,
  )(*a, *b, *initial)
  return states


class _Body:
  """The kernel."""

  def __init__(
    self,
    a: list[Any],
    b: list[Any],
    initial: list[Any],
    h: list[Any],
    *,
    inputs: Any,
    outputs: Any,
    arrived: Any,
    sizes: Sizes,
  ):
    self.steps, self.initial, self.h = (a, b), initial, h
    self.inputs, self.outputs, self.arrived = inputs, outputs, arrived
    self.sizes = sizes
    self.row = lax.axis_index("batch")
    self.channels = pl.ds(lax.axis_index("tile") * _CHANNELS, _CHANNELS)

  def run(self, chunks: int) -> None:
    ahead = self.sizes.stages - 1
    for i in range(min(ahead, chunks)):
      self.fetch(i, i, chunks)
    h = [
      compat.gpu_load(x.at[self.row, self.channels], _LAYOUT)
      for x in self.initial
    ]

    def chunk(i: Any, h: list[jax.Array]) -> list[jax.Array]:
      slot = lax.rem(i, self.sizes.stages)

      @pl.when(i + ahead < chunks)
      def _() -> None:
        # All have read this slot: a barrier ended the last chunk.
        free = lax.rem(i + ahead, self.sizes.stages)
        self.fetch(i + ahead, free, chunks)

      plgpu.barrier_wait(self.arrived.at[slot])
      # What was copied from this half of the outputs has left it.
      plgpu.wait_smem_to_gmem(1)
      h = self.chunk(slot, lax.rem(i, 2), h)
      plgpu.commit_smem()
      for p, ref in enumerate(self.h):
        plgpu.copy_smem_to_gmem(
          self.outputs.at[lax.rem(i, 2), p],
          ref.at[self.row, self.times(i, chunks), self.channels],
          commit_group=False,
        )
      plgpu.commit_smem_to_gmem_group()
      return h

    lax.fori_loop(0, chunks, chunk, h)
    plgpu.wait_smem_to_gmem(0)

  def times(self, i: Any, chunks: int) -> Any:
    i = chunks - 1 - i if self.sizes.reverse else i
    return pl.ds(i * self.sizes.chunk, self.sizes.chunk)

  def fetch(self, i: Any, slot: Any, chunks: int) -> None:
    for k, planes in enumerate(self.steps):
      for p, ref in enumerate(planes):
        plgpu.copy_gmem_to_smem(
          ref.at[self.row, self.times(i, chunks), self.channels],
          self.inputs.at[slot, k, p],
          self.arrived.at[slot],
        )

  def chunk(self, slot: Any, half: Any, h: list[jax.Array]) -> list[jax.Array]:
    sizes = self.sizes
    planes = range(len(h))

    def load(k: int, t: Any) -> list[jax.Array]:
      refs = (self.inputs.at[slot, k, p, t] for p in planes)
      return [compat.gpu_load(x, _LAYOUT) for x in refs]

    def group(j: Any, h: list[jax.Array]) -> list[jax.Array]:
      times = [j * sizes.unroll + k for k in range(sizes.unroll)]
      if sizes.reverse:
        times = [sizes.chunk - 1 - t for t in times]
      inputs = [(load(0, t), load(1, t)) for t in times]
      for t, (a, b) in zip(times, inputs, strict=True):
        h = [x + y for x, y in zip(_product(a, h), b, strict=True)]
        for p in planes:
          self.outputs[half, p, t] = h[p]
      return h

    return lax.fori_loop(0, sizes.chunk // sizes.unroll, group, h)


def _product(x: list[jax.Array], y: list[jax.Array]) -> list[jax.Array]:
  """Of real numbers or, if there are two planes, of complex ones."""
  if len(x) == 1:
    return [x[0] * y[0]]
  return [x[0] * y[0] - x[1] * y[1], x[0] * y[1] + x[1] * y[0]]
