"""The selective scan's backward kernel for Hopper and Blackwell GPUs.

Chunks of steps are taken from the last to the first.  Within one the states
are computed again from the one kept before it, and those before each group of
a few steps stay in shared memory; then the groups are taken backwards, each
with its decays and states in registers.

Here a thread holds 2 channels and half of their states.  Sums over states are
then one exchange between two threads, and those over channels, for the
gradients of b and c, are of 2 in registers and of 64 through shared memory:
fewer words than with a channel a thread, whose sums over channels would move
all.
"""

import functools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels import compat
from pallas_kernels.scan import selective_mosaic_gpu_forward as forward

LN_2 = 0.6931471805599453
# Channels of a warpgroup as [2, 64]: a thread has one of each 64.
_ROWS, _COLUMNS = 2, forward.CHANNELS // 2
# States as slices [2, 4]: two threads share a channel.
_SLICE = (2, 4)
_PIECE = (_COLUMNS, *_SLICE)
# Steps that are prepared and finished together.
_TOGETHER = 8
# Of these steps' [2, 64] channels, one a thread.
_STEPS = plgpu.Layout.TILED(
  plgpu.Tiling(((_TOGETHER, _ROWS, _COLUMNS), (32,), (1,))),
  warp_dims=(-4, -3),
  lane_dims=(-2,),
  vector_dim=-1,
)
_CHANNEL = _STEPS.reduce(0)
# Of a piece of the states: 64 channels and a slice.
_LAYOUT = plgpu.Layout.TILED(
  plgpu.Tiling((_PIECE, (_COLUMNS // 4, *_SLICE))),
  warp_dims=(-6,),
  lane_dims=(-3, -2),
  vector_dim=-1,
)
# Of 4 parts [64, 2, 4], whose sum over 64 a warp finds by itself.
_PARTS = plgpu.Layout.TILED(
  plgpu.Tiling(((4, *_PIECE), (4, *_SLICE), (1,))),
  warp_dims=(-8,),
  lane_dims=(-4, -3, -2),
  vector_dim=-1,
)
_OF_CHANNEL = _LAYOUT.reduce((1, 2))
_OF_STATE = _LAYOUT.reduce(0)
# By row of channels and slice of states.
_States = dict[tuple[int, int], jax.Array]


def backward(
  arrays: dict[str, jax.Array],
  sizes: forward.Sizes,
  *,
  interpret: Any,
) -> dict[str, jax.Array]:
  """Gradients by name, those of a, b, c, d and bias in parts to be summed.

  Args:
    arrays: those of the forward kernel without initial, and dy [B T E], dfinal
      [B E P] and before [B T/chunk E P].
    sizes: as of the forward kernel.
    interpret: None, or parameters of the interpreter.

  Returns:
    dx, ddt, and dz if there is z, in their dtypes; a [B E P] (times ln 2), bc
    [E/128 B T/group 2 group P] (of b, then of c), d and bias [B E], initial
    [B E P].
  """
  batch, length, width = arrays["x"].shape
  states = arrays["a"].shape[1]
  slices = states // 8
  tiles = width // forward.CHANNELS
  chunks = length // sizes.chunk
  f32 = jnp.float32
  split = (tiles, _ROWS, _COLUMNS)
  whole = (_ROWS, _COLUMNS, slices * _SLICE[0], _SLICE[1])
  of_channels = (*forward.OF_CHANNELS, "dy")
  shapes: dict[str, tuple[int, ...]] = {
    **{name: (batch, length, *split) for name in of_channels},
    **{name: (batch, length, slices, *_SLICE) for name in ("b", "c")},
    **{"d": split, "bias": split, "a": (tiles, *whole)},
    "dfinal": (batch, tiles, *whole),
    "before": (batch * chunks * tiles, *whole),
  }
  inputs = {
    name: array.reshape(shapes.get(name, array.shape))
    for name, array in arrays.items()
  }
  per_state = jax.ShapeDtypeStruct((batch, tiles, *whole), f32)
  per_channel = jax.ShapeDtypeStruct((batch, *split), f32)
  groups = length // sizes.group
  sums = (2 * sizes.group * slices, *_SLICE)
  gated = [name for name in forward.OF_CHANNELS if name in arrays]
  result: dict[str, Any] = {
    **{name: inputs[name] for name in gated},
    **dict.fromkeys(("a", "initial"), per_state),
    **dict.fromkeys(("d", "bias"), per_channel),
    "bc": jax.ShapeDtypeStruct((tiles, batch, groups, *sums), f32),
  }
  out = {
    f"d{name}": jax.ShapeDtypeStruct(x.shape, x.dtype)
    for name, x in result.items()
  }
  steps = [
    name for name in (*of_channels, "b", "c", "resets") if name in arrays
  ]
  scratch: dict[str, Any] = {}
  for name in steps:
    array = inputs[name]
    kept = array.shape[3:] if name in (*gated, "dy") else array.shape[2:]
    scratch[f"{name}_steps"] = plgpu.SMEM((2, sizes.chunk, *kept), array.dtype)
  values = ["dt", "dy"] + ["y"] * ("z" in arrays)
  for name in values:
    shape = (sizes.chunk, _ROWS, _COLUMNS)
    scratch[f"{name}_values"] = plgpu.SMEM(shape, f32)
  scratch |= {
    "start": plgpu.SMEM((slices, _ROWS, *_PIECE), f32),
    "states": plgpu.SMEM(
      (sizes.chunk // sizes.group, slices, _ROWS, *_PIECE), f32
    ),
    "parts": plgpu.SMEM((sums[0], *_PIECE), f32),
    "arrived": plgpu.Barrier(num_arrivals=len(steps) + slices, num_barriers=2),
  }
  names = (*inputs, *out)

  def selective_scan_backward(*refs: Any, **scratch: Any) -> None:
    everything = dict(zip(names, refs, strict=True)) | scratch
    _Body(everything, steps, gated, sizes, chunks, slices).run()

  results = plgpu.kernel(
    selective_scan_backward,
    out_type=list(out.values()),
    scratch_types=scratch,
    grid=(batch, tiles),
    grid_names=("batch", "tile"),
    compiler_params=plgpu.CompilerParams(
      approx_math=True, unsafe_no_auto_barriers=True
    ),
    interpret=interpret,
  )(*inputs.values())
  found: dict[str, jax.Array] = dict(zip(out, results, strict=True))
  for name in gated:
    found[f"d{name}"] = found[f"d{name}"].reshape(batch, length, width)
  for name in ("da", "dinitial"):
    found[name] = found[name].reshape(batch, width, states)
  for name in ("dd", "dbias"):
    found[name] = found[name].reshape(batch, width)
  found["dbc"] = found["dbc"].reshape(
    tiles, batch, groups, 2, sizes.group, states
  )
  return found


def _load(ref: Any, layout: Any) -> jax.Array:
  return compat.gpu_load(ref, layout).astype(jnp.float32)


def _over_time(x: jax.Array) -> jax.Array:
  return lax.broadcast_in_dim(x, (_TOGETHER, *x.shape), (1, 2))


def _over_states(x: jax.Array) -> jax.Array:
  return lax.broadcast_in_dim(x, _PIECE, (0,))


def _piece(r: int, s: int) -> tuple[Any, ...]:
  """Of arrays [2, 64, P/4, 4]."""
  return r, slice(None), pl.ds(s * _SLICE[0], _SLICE[0])


def sum_of_tiles(parts: jax.Array) -> tuple[jax.Array, jax.Array]:
  """The gradients of b and c [B T P] of `backward`'s parts."""
  total = jnp.sum(parts, axis=0)
  batch, groups, both, group, states = total.shape
  total = jnp.moveaxis(total, 2, 0)
  db, dc = total.reshape(both, batch, groups * group, states)
  return db, dc


class _Body:
  """The kernel; its methods are the phases of a chunk, in order."""

  def __init__(
    self,
    refs: dict[str, Any],
    steps: list[str],
    gated: list[str],
    sizes: forward.Sizes,
    chunks: int,
    slices: int,
  ):
    self.refs, self.steps, self.gated = refs, steps, gated
    self.sizes, self.chunks = sizes, chunks
    self.row, self.tile = lax.axis_index("batch"), lax.axis_index("tile")
    self.slices = range(slices)
    self.pieces = [(r, s) for r in range(_ROWS) for s in self.slices]
    self.a = self.load_states(refs["a"].at[self.tile])
    self.d = _load(refs["d"].at[self.tile], _CHANNEL)
    self.bias = _load(refs["bias"].at[self.tile], _CHANNEL)

  def load_states(self, ref: Any) -> _States:
    return {p: _load(ref.at[_piece(*p)], _LAYOUT) for p in self.pieces}

  def load_channels(self, ref: Any) -> list[jax.Array]:
    return [_load(ref.at[r], _OF_CHANNEL) for r in range(_ROWS)]

  def load_row(self, ref: Any) -> list[jax.Array]:
    """Slices of b or c of a step, over channels."""
    rows = [_load(ref.at[s], _OF_STATE) for s in self.slices]
    return [lax.broadcast_in_dim(x, _PIECE, (1, 2)) for x in rows]

  def each(self, function: Callable[[int, int], jax.Array]) -> _States:
    return {(r, s): function(r, s) for r, s in self.pieces}

  def dot(self, x: _States, y: list[jax.Array]) -> list[jax.Array]:
    """Sums over states, by row, of products with a y that all rows have."""
    return self.sum_states(self.each(lambda r, s: x[r, s] * y[s]))

  def sum_states(self, x: _States) -> list[jax.Array]:
    found = []
    for r in range(_ROWS):
      total = functools.reduce(operator.add, [x[r, s] for s in self.slices])
      found.append(jnp.sum(jnp.sum(total, axis=2), axis=1))
    return found

  def run(self) -> None:
    refs = self.refs
    self.fetch(self.chunks - 1, 0)
    dh = self.load_states(refs["dfinal"].at[self.row, self.tile])
    zeros = plgpu.layout_cast(jnp.zeros(_PIECE, jnp.float32), _LAYOUT)
    da = self.each(lambda r, s: zeros)
    zeros = jnp.zeros((_ROWS, _COLUMNS), jnp.float32)
    zeros = plgpu.layout_cast(zeros, _CHANNEL)
    dh, da, dd, dbias = lax.fori_loop(
      0, self.chunks, self.chunk, (dh, da, zeros, zeros)
    )
    here = self.row, self.tile
    for piece in self.pieces:
      part = (*here, *_piece(*piece))
      compat.store_global(refs["dinitial"].at[part], dh[piece])
      compat.store_global(refs["da"].at[part], da[piece])
    compat.store_global(refs["dd"].at[here], dd)
    compat.store_global(refs["dbias"].at[here], dbias)
    plgpu.wait_smem_to_gmem(0)

  def fetch(self, chunk: Any, slot: Any) -> None:
    times = pl.ds(chunk * self.sizes.chunk, self.sizes.chunk)
    refs = self.refs
    arrived = refs["arrived"].at[slot]
    for name in self.steps:
      part: tuple[Any, ...] = (self.row, times)
      if name in (*self.gated, "dy"):
        part = (*part, self.tile)
      plgpu.copy_gmem_to_smem(
        refs[name].at[part], refs[f"{name}_steps"].at[slot], arrived
      )
    tiles = refs["a"].shape[0]
    index = (self.row * self.chunks + chunk) * tiles + self.tile
    for s in self.slices:
      plgpu.copy_gmem_to_smem(
        refs["before"].at[index, :, *_piece(0, s)[1:]],
        refs["start"].at[s],
        arrived,
      )

  def chunk(self, i: Any, carry: tuple) -> tuple:
    refs, sizes = self.refs, self.sizes
    dh, da, dd, dbias = carry
    i, slot = self.chunks - 1 - i, lax.rem(i, 2)
    plgpu.barrier_wait(refs["arrived"].at[slot])
    turns = sizes.chunk // _TOGETHER
    dd = lax.fori_loop(
      0, turns, lambda t, dd: self.prepare(slot, t * _TOGETHER, dd), dd
    )
    plgpu.commit_smem()  # A barrier: other threads read the values.
    self.recompute(slot)
    # The last chunk's gradients lie in the slot that is fetched into.
    plgpu.wait_smem_to_gmem(0)
    plgpu.commit_smem()

    @pl.when(i > 0)
    def _() -> None:
      self.fetch(i - 1, 1 - slot)

    groups = sizes.chunk // sizes.group

    def group(j: Any, carry: tuple) -> tuple:
      return self.group(i, slot, groups - 1 - j, *carry)

    # A group ends with a barrier.
    dh, da = lax.fori_loop(0, groups, group, (dh, da))
    dbias = lax.fori_loop(
      0, turns, lambda t, dbias: self.finish(slot, t * _TOGETHER, dbias), dbias
    )
    plgpu.commit_smem()
    times = pl.ds(i * sizes.chunk, sizes.chunk)
    for name in self.gated:
      plgpu.copy_smem_to_gmem(
        refs[f"{name}_steps"].at[slot],
        refs[f"d{name}"].at[self.row, times, self.tile],
      )
    return dh, da, dd, dbias

  def prepare(self, slot: Any, t: Any, dd: jax.Array) -> jax.Array:
    """Step sizes, and the gradient of y before the gate."""
    refs, times = self.refs, pl.ds(t, _TOGETHER)
    dt = _load(refs["dt_steps"].at[slot, times], _STEPS)
    if self.sizes.softplus:
      dt = forward.softplus(dt + _over_time(self.bias))
    refs["dt_values"][times] = dt
    dy = _load(refs["dy_steps"].at[slot, times], _STEPS)
    if "z" in refs:
      z = _load(refs["z_steps"].at[slot, times], _STEPS)
      dy = dy * (z * forward.sigmoid(z))
    refs["dy_values"][times] = dy
    x = _load(refs["x_steps"].at[slot, times], _STEPS)
    return dd + jnp.sum(dy * x, axis=0)

  def step(
    self, slot: Any, t: Any, h: _States
  ) -> tuple[list[jax.Array], list[jax.Array], _States, _States, _States]:
    """x, dt, the decays, the decayed states before and the states after."""
    refs = self.refs
    x = self.load_channels(refs["x_steps"].at[slot, t])
    dt = self.load_channels(refs["dt_values"].at[t])
    b = self.load_row(refs["b_steps"].at[slot, t])
    reset = refs["resets_steps"][slot, t] if "resets" in refs else None
    rows = range(_ROWS)
    each_dt = [_over_states(dt[r]) for r in rows]
    u = [_over_states(dt[r] * x[r]) for r in rows]

    def power(r: int, s: int) -> jax.Array:
      value = self.a[r, s] * each_dt[r]
      return value if reset is None else value + reset

    decay = self.each(lambda r, s: jnp.exp2(power(r, s)))
    decayed = self.each(lambda r, s: decay[r, s] * h[r, s])
    h = self.each(lambda r, s: decayed[r, s] + u[r] * b[s])
    return x, dt, decay, decayed, h

  def recompute(self, slot: Any) -> None:
    """Keeps the states before groups of steps in shared memory."""
    refs, size = self.refs, self.sizes.group

    def keep(j: Any, h: _States) -> None:
      for r, s in self.pieces:
        refs["states"][j, s, r] = h[r, s]

    def group(j: Any, h: _States) -> _States:
      for k in range(size):
        h = self.step(slot, j * size + k, h)[-1]
      keep(j + 1, h)
      return h

    h = self.each(lambda r, s: _load(refs["start"].at[s, r], _LAYOUT))
    keep(0, h)
    lax.fori_loop(0, self.sizes.chunk // size - 1, group, h)

  def group(
    self, i: Any, slot: Any, j: Any, dh: _States, da: _States
  ) -> tuple[_States, _States]:
    """Gradients of a few steps, the last first."""
    refs, size = self.refs, self.sizes.group
    h = self.each(lambda r, s: _load(refs["states"].at[j, s, r], _LAYOUT))
    kept = []
    for k in range(size):
      t = j * size + k
      x, dt, decay, decayed, h = self.step(slot, t, h)
      dy = self.load_channels(refs["dy_values"].at[t])
      self.put_parts(size + k, h, dy)
      if "z" in refs:
        c = self.load_row(refs["c_steps"].at[slot, t])
        self.put_channels("y", t, self.dot(h, c))
      kept.append((t, x, dt, dy, decay, decayed))
    for k in reversed(range(size)):
      dh, da = self.step_back(slot, k, kept[k], dh, da)
    self.sum_parts(i * (self.sizes.chunk // size) + j)
    return dh, da

  def step_back(
    self, slot: Any, k: int, kept: tuple, dh: _States, da: _States
  ) -> tuple[_States, _States]:
    t, x, dt, dy, decay, decayed = kept
    refs, rows = self.refs, range(_ROWS)
    c = self.load_row(refs["c_steps"].at[slot, t])
    b = self.load_row(refs["b_steps"].at[slot, t])
    each_dy = [_over_states(dy[r]) for r in rows]
    dh = self.each(lambda r, s: dh[r, s] + each_dy[r] * c[s])
    self.put_parts(k, dh, [dt[r] * x[r] for r in rows])
    du = self.dot(dh, b)
    dpower = self.each(lambda r, s: dh[r, s] * decayed[r, s])
    each_dt = [_over_states(dt[r]) for r in rows]
    da = self.each(lambda r, s: da[r, s] + dpower[r, s] * each_dt[r])
    ddt = self.sum_states(self.each(lambda r, s: dpower[r, s] * self.a[r, s]))
    ddt = [ddt[r] * LN_2 + du[r] * x[r] for r in rows]
    self.put_channels("dt", t, ddt)
    self.put_channels("dy", t, [du[r] * dt[r] for r in rows])
    return self.each(lambda r, s: dh[r, s] * decay[r, s]), da

  def put_channels(self, name: str, t: Any, values: list[jax.Array]) -> None:
    for r, value in enumerate(values):
      self.refs[f"{name}_values"][t, r] = value

  def put_parts(self, index: int, x: _States, y: list[jax.Array]) -> None:
    """Sums over rows, of the gradient of b or c at a step."""
    each = [_over_states(value) for value in y]
    for s in self.slices:
      part = [x[r, s] * each[r] for r in range(_ROWS)]
      part_index = index * len(self.slices) + s
      self.refs["parts"][part_index] = functools.reduce(operator.add, part)

  def sum_parts(self, group: Any) -> None:
    """Sums the gradients of b and c over the warpgroup's channels."""
    plgpu.commit_smem()
    parts = _load(self.refs["parts"], _PARTS)
    compat.store_global(
      self.refs["dbc"].at[self.tile, self.row, group], jnp.sum(parts, axis=1)
    )
    plgpu.commit_smem()  # A barrier: the next group writes the parts.

  def finish(self, slot: Any, t: Any, dbias: jax.Array) -> jax.Array:
    """Puts the gradients of the inputs where these were."""
    refs, times = self.refs, pl.ds(t, _TOGETHER)

    def put(name: str, value: jax.Array) -> None:
      ref = refs[f"{name}_steps"]
      ref[slot, times] = value.astype(ref.dtype)

    x = _load(refs["x_steps"].at[slot, times], _STEPS)
    dy = _load(refs["dy_steps"].at[slot, times], _STEPS)
    d = _over_time(self.d)
    through = dy
    if "z" in refs:
      z = _load(refs["z_steps"].at[slot, times], _STEPS)
      gate = forward.sigmoid(z)
      y = _load(refs["y_values"].at[times], _STEPS) + d * x
      put("z", dy * y * gate * (1.0 + z * (1.0 - gate)))
      through = dy * (z * gate)
    put("x", _load(refs["dy_values"].at[times], _STEPS) + d * through)
    ddt = _load(refs["dt_values"].at[times], _STEPS)
    if self.sizes.softplus:
      dt = _load(refs["dt_steps"].at[slot, times], _STEPS)
      ddt = ddt * forward.sigmoid(dt + _over_time(self.bias))
    put("dt", ddt)
    return dbias + jnp.sum(ddt, axis=0)
