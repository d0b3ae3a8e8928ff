"""The selective scan on TPUs, forward."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from pallas_kernels.scan import selective_mosaic_tpu_steps as steps
from pallas_kernels.scan.selective_mosaic_tpu_steps import LANES, STEPS, Plan

# For one state of one step: dt a, h exp(.), u b, their sum, c h and its sum.
_COST = (6, 1)


def forward(
  plan: Plan,
  arrays: dict[str, jax.Array],
  *,
  keep: bool,
) -> dict[str, jax.Array]:
  """y, the last state and, with `keep`, the states before each chunk.

  Args:
    plan: of the scan.
    arrays: x, dt and, if gated, z [B T E]; selectors [B T *], float32: b, c
      and what is kept; a [E/128 P 128], times log2(e); d and bias
      [E/128 1 128]; initial [B E/128 P 128].
    keep: for the backward pass.

  Returns:
    y [B T E] in the dtype of x, final [B E/128 P 128] and perhaps before
    [B chunks E/128 P 128].
  """
  specs = {
    "x": plan.steps(),
    "dt": plan.steps(),
    "z": plan.steps(),
    "selectors": plan.selected(plan.selectors),
    "a": plan.weights(plan.states),
    "d": plan.weights(1),
    "bias": plan.weights(1),
    "initial": plan.of_row(plan.states),
  }
  x, initial = arrays["x"], arrays["initial"]
  shape = jax.ShapeDtypeStruct
  outputs = {
    "y": (shape(x.shape, x.dtype), plan.steps()),
    "final": (
      shape(initial.shape, jnp.float32),
      plan.of_row(plan.states),
    ),
  }
  if keep:
    outputs["before"] = (
      shape((plan.batch, plan.grid[1], *initial.shape[1:]), jnp.float32),
      before_spec(plan),
    )
  return steps.call(
    _kernel,
    "selective_scan_forward",
    plan,
    {name: (x, specs[name]) for name, x in arrays.items()},
    outputs,
    plan.scratch(),
    _COST,
  )


def before_spec(plan: Plan, *, back: bool = False) -> pl.BlockSpec:
  """Of states [B chunks E/128 P 128], of one chunk and block."""
  shape = (1, 1, plan.block // LANES, plan.states, LANES)
  last = plan.grid[1] - 1
  if back:
    return pl.BlockSpec(shape, lambda b, t, e: (b, last - t, e, 0, 0))
  return pl.BlockSpec(shape, lambda b, t, e: (b, t, e, 0, 0))


def _kernel(plan: Plan, refs: Any) -> None:
  @pl.when((refs.at_chunk == 0) & (refs.at_block == 0))
  def _start() -> None:
    # The states live in what is returned of them.
    refs.final[...] = refs.initial[...]

  @pl.when(refs.at_block == 0)
  def _spread() -> None:
    steps.spread(plan, refs)

  def group(g: jax.Array, _: None) -> None:
    tiles = steps.tiles_of(plan, refs, g)
    h = [refs.final[0, tile] for tile in tiles]
    if hasattr(refs, "before"):
      for i in range(plan.tiles):
        refs.before[0, 0, g * plan.tiles + i] = h[i]

    def sixteen(n: jax.Array, h: Any) -> Any:
      first = pl.multiple_of(STEPS * n, STEPS)
      h = steps.advance(plan, refs, g, first, h, outputs=True, keep=False)
      rows = pl.ds(first, STEPS)
      for i, lane in enumerate(steps.lanes_of(plan, g)):
        x = refs.x[0, rows, lane].astype(jnp.float32)
        y = steps.sums(refs.products, i) + refs.d[tiles[i]] * x
        if plan.gated:
          z = refs.z[0, rows, lane].astype(jnp.float32)
          y = y * (z * steps.sigmoid(plan, z))
        refs.y[0, rows, lane] = y.astype(refs.y.dtype)
      return h

    h = jax.lax.fori_loop(0, plan.chunk // STEPS, sixteen, h)
    for tile, state in zip(tiles, h, strict=True):
      refs.final[0, tile] = state

  jax.lax.fori_loop(0, plan.groups, group, None)
