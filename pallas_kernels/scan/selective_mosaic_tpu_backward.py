"""The selective scan on TPUs, backward.

A chunk is run again from the state before it, its states kept in VMEM, and
then walked back through.  Its decays are computed again, too: there are
arithmetic slots for that, but no more slots to store them.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.scan import selective_mosaic_tpu_steps as steps
from pallas_kernels.scan.selective_mosaic_tpu_forward import before_spec
from pallas_kernels.scan.selective_mosaic_tpu_steps import (
  LANES,
  LN_2,
  LOG2_E,
  STEPS,
  SUBLANES,
  Plan,
)

# Forward again (4), and 16 for the gradients of a state of a step.
_COST = (20, 2)


def backward(plan: Plan, arrays: dict[str, jax.Array]) -> dict[str, jax.Array]:
  """Gradients by all inputs of the forward kernel.

  Args:
    plan: of the scan.
    arrays: those of `forward` without initial; `before`, what it kept; dy
      [B T E] and dfinal [B E/128 P 128].

  Returns:
    dx, ddt and, if gated, dz [B T E], each in its array's dtype; dselectors
    [B T 2P], of b and c; dinitial [B E/128 P 128]; da likewise, to be summed
    over B; dd and dbias [B E/128 8 128], to be summed over B and the third
    axis; all these float32.
  """
  over_time = plan.steps(back=True)
  specs = {
    "x": over_time,
    "dt": over_time,
    "z": over_time,
    "selectors": plan.selected(plan.selectors, back=True),
    "a": plan.weights(plan.states),
    "d": plan.weights(1),
    "bias": plan.weights(1),
    "before": before_spec(plan, back=True),
    "dy": over_time,
    "dfinal": plan.of_row(plan.states),
  }
  shape, float32 = jax.ShapeDtypeStruct, jnp.float32
  outputs = {
    "d" + name: (shape(arrays[name].shape, arrays[name].dtype), over_time)
    for name in ("x", "dt", "z")
    if name in arrays
  }
  columns = 2 * plan.states
  outputs["dselectors"] = (
    shape((plan.batch, plan.length, columns), float32),
    plan.selected(columns, back=True),
  )
  for name, rows in (
    ("dinitial", plan.states),
    ("da", plan.states),
    ("dd", SUBLANES),
    ("dbias", SUBLANES),
  ):
    one = (plan.batch, plan.width // LANES, rows, LANES)
    outputs[name] = (shape(one, float32), plan.of_row(rows))
  scratch = plan.scratch()
  sizes = {
    "after": (plan.chunk + 1, plan.tiles, plan.states, LANES),
    "dy_rows": (plan.tiles, plan.chunk, LANES),
    "more_products": (plan.tiles * STEPS * SUBLANES, LANES),
    "db": (plan.chunk * plan.states, LANES),
    "dc": (plan.chunk * plan.states, LANES),
  }
  scratch |= {name: pltpu.VMEM(x, float32) for name, x in sizes.items()}
  return steps.call(
    _kernel,
    "selective_scan_backward",
    plan,
    {name: (x, specs[name]) for name, x in arrays.items()},
    outputs,
    scratch,
    _COST,
  )


def _kernel(plan: Plan, refs: Any) -> None:
  @pl.when((refs.at_chunk == 0) & (refs.at_block == 0))
  def _start() -> None:
    refs.dinitial[...] = refs.dfinal[...]
    for ref in (refs.da, refs.dd, refs.dbias):
      ref[...] = jnp.zeros_like(ref)

  @pl.when(refs.at_block == 0)
  def _spread() -> None:
    steps.spread(plan, refs)
    refs.db[...] = jnp.zeros_like(refs.db)
    refs.dc[...] = jnp.zeros_like(refs.dc)

  def group(g: jax.Array, _: None) -> None:
    _again(plan, refs, g)
    _back(plan, refs, g)

  jax.lax.fori_loop(0, plan.groups, group, None)

  @pl.when(refs.at_block == plan.grid[2] - 1)
  def _collect() -> None:
    _sum_lanes(plan, refs)


def _sum_lanes(plan: Plan, refs: Any) -> None:
  """Fills refs.dselectors with sums of refs.db and dc."""
  shape = (SUBLANES, 2 * plan.states)
  column = jax.lax.broadcasted_iota(jnp.int32, shape, 1)

  def eight(n: jax.Array, _: None) -> None:
    first = pl.multiple_of(SUBLANES * n, SUBLANES)

    def one(p: Any, both: jax.Array) -> jax.Array:
      start = first * plan.states + p
      rows = pl.ds(start, SUBLANES, stride=plan.states)
      for ref, at in ((refs.db, p), (refs.dc, p + plan.states)):
        total = jnp.sum(ref[rows], axis=1, keepdims=True)
        both = jnp.where(column == at, total, both)
      return both

    both = steps.unrolled(plan, plan.states, one, jnp.zeros(shape, jnp.float32))
    refs.dselectors[0, pl.ds(first, SUBLANES), :] = both

  jax.lax.fori_loop(0, plan.chunk // SUBLANES, eight, None)


def _again(plan: Plan, refs: Any, g: jax.Array) -> None:
  """Fills refs.after with the states before and after each step.

  Also the rows: of step sizes, of inputs and of gradients without gate.
  """
  h = [refs.before[0, 0, g * plan.tiles + i] for i in range(plan.tiles)]
  for i in range(plan.tiles):
    refs.after[0, i] = h[i]
  tiles = steps.tiles_of(plan, refs, g)

  def sixteen(n: jax.Array, h: Any) -> Any:
    first = pl.multiple_of(STEPS * n, STEPS)
    h = steps.advance(plan, refs, g, first, h, outputs=plan.gated, keep=True)
    rows = pl.ds(first, STEPS)
    for i, lane in enumerate(steps.lanes_of(plan, g)):
      dy = refs.dy[0, rows, lane].astype(jnp.float32)
      if plan.gated:
        x = refs.x[0, rows, lane].astype(jnp.float32)
        z = refs.z[0, rows, lane].astype(jnp.float32)
        y = steps.sums(refs.products, i) + refs.d[tiles[i]] * x
        gate = steps.sigmoid(plan, z)
        dz = dy * y * gate * (1.0 + z * (1.0 - gate))
        refs.dz[0, rows, lane] = dz.astype(refs.dz.dtype)
        dy = dy * (z * gate)
      refs.dy_rows[i, rows] = dy
    return h

  jax.lax.fori_loop(0, plan.chunk // STEPS, sixteen, h)


def _back(plan: Plan, refs: Any, g: jax.Array) -> None:
  tiles = steps.tiles_of(plan, refs, g)
  dh = [refs.dinitial[0, tile] for tile in tiles]
  da = [jnp.zeros_like(x) for x in dh]

  def sixteen(n: jax.Array, carry: Any) -> Any:
    last = plan.chunk // STEPS - 1
    first = pl.multiple_of(STEPS * (last - n), STEPS)
    carry = _steps_back(plan, refs, tiles, first, *carry)
    rows = pl.ds(first, STEPS)
    for i, lane in enumerate(steps.lanes_of(plan, g)):
      tile = tiles[i]
      x = refs.x[0, rows, lane].astype(jnp.float32)
      dt, dy = refs.dt_rows[i, rows], refs.dy_rows[i, rows]
      du = steps.sums(refs.products, i)
      dx = du * dt + refs.d[tile] * dy
      ddt = steps.sums(refs.more_products, i) * LN_2 + du * x
      if plan.softplus:  # Whose derivative is exp(x - softplus(x)).
        raw = steps.raw_steps(refs, rows, lane, tile)
        ddt = ddt * jnp.exp2((raw - dt) * LOG2_E)
      refs.dx[0, rows, lane] = dx.astype(refs.dx.dtype)
      refs.ddt[0, rows, lane] = ddt.astype(refs.ddt.dtype)
      dd = dy * x
      refs.dd[0, tile] += dd[:SUBLANES] + dd[SUBLANES:]
      refs.dbias[0, tile] += ddt[:SUBLANES] + ddt[SUBLANES:]
    return carry

  dh, da = jax.lax.fori_loop(0, plan.chunk // STEPS, sixteen, (dh, da))
  for i, tile in enumerate(tiles):
    refs.dinitial[0, tile] = dh[i]
    refs.da[0, tile] += da[i]


def _steps_back(
  plan: Plan,
  refs: Any,
  tiles: list[jax.Array],
  first: jax.Array,
  dh: list[jax.Array],
  da: list[jax.Array],
) -> Any:
  """16 steps, the last one first, with the gradients of the state after.

  Adds to refs.db and dc, which are summed over lanes at the end; leaves the
  terms of u's gradient in refs.products, those of dt's in more_products.
  """

  def one(s: Any, carry: Any) -> Any:
    s = STEPS - 1 - s
    t, (dh, da) = first + s, carry
    dh, da = list(dh), list(da)
    b, c = refs.b[t], refs.c[t]
    states = pl.ds(t * plan.states, plan.states)
    db, dc = refs.db[states], refs.dc[states]
    for i, tile in enumerate(tiles):
      dy = steps.row(plan, refs.dy_rows, i, t)
      dh[i] = dh[i] + c * dy
      dc = dc + refs.after[t + 1, i] * dy
      db = db + dh[i] * steps.row(plan, refs.u_rows, i, t)
      steps.put(refs.products, i, s, dh[i] * b)
      dh[i] = dh[i] * steps.decay(plan, refs, i, tile, t)
      dlog = dh[i] * refs.after[t, i]
      steps.put(refs.more_products, i, s, dlog * refs.a[tile])
      da[i] = da[i] + dlog * steps.row(plan, refs.dt_rows, i, t)
    refs.db[states], refs.dc[states] = db, dc
    return dh, da

  return steps.unrolled(plan, STEPS, one, (dh, da))
