"""One walk of the backward pass of Hopper's attention.

With a and b kept, c and d walked over, tiles are a c' and b d':

  gradient of   a    b   c   d    sums
  k and v       k    v   q   dy   dS c, P d
  q             q    dy  k   v    dS c

Tiles stand with their kept side in rows, so that P and dS are left operands in
registers as they are: nothing is transposed.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels import compat
from pallas_kernels.attention.hopper.bias_backward import Band, Queries
from pallas_kernels.attention.hopper.forward import swizzled
from pallas_kernels.attention.hopper.inputs import (
  ROWS,
  Given,
  Inputs,
  Settings,
  Walk,
)
from pallas_kernels.attention.hopper.tile import Extras, Spot, Tile, along
from pallas_kernels.attention.schedule import Schedule

# Columns of "dS" that are summed at a time.
PART = 128


class _Buffers(NamedTuple):
  """Shared memory.

  Attributes:
    a: [warpgroups, 64, H].
    b: [warpgroups, 64, V].
    c: [stages, columns, H].
    d: [stages, columns, V].
    rows: [warpgroups, 2, 64] or [stages, 2, columns] float32.
    p: [warpgroups, 2, 64, columns], for the interpreter; else None.
    part: [warpgroups, 64, width] where not all columns of "dS" are summed, as
      copies need what they copy in one piece; else None.
  """

  a: Any
  b: Any
  c: Any
  d: Any
  rows: Any
  p: Any
  part: Any


class _Barriers(NamedTuple):
  """What warpgroups wait for.

  Attributes:
    kept: [warpgroups], what it keeps is there.
    full: [stages], a block that is walked over is there.
    free: [stages], all warpgroups have read it.
  """

  kept: Any
  full: Any
  free: Any


def gradients(
  settings: Settings,
  inputs: Inputs,
  given: Given,
  queries: Queries,
  q_axis: int,
  sums: tuple[str, ...],
  part: int,
) -> tuple[jax.Array, ...]:
  """Gradients of what is kept: of q (`q_axis` 0), or of k and v (1).

  Args:
    settings: static.
    inputs: filled up.
    given: what has no gradient.
    queries: what belongs to them.
    q_axis: see above.
    sums: of "dS" (the gradient of a), "P" (that of b), and, with queries kept,
      "far": [B N 2 T] float32, sums of the logits' gradients over the keys
      before and after the panels' band.
    part: which 128 columns of "dS".
  """
  walk = (settings.blocks.dq, settings.blocks.dkv)[q_axis]
  pairs = (given.dq, given.dkv)[q_axis]
  extras = Extras.of(settings, inputs, given, walk.columns, q_axis)
  reach = 0 if inputs.panels is None else inputs.panels.reach
  operands, tree = jax.tree.flatten(extras)
  sides = (queries.q, queries.dy), (inputs.k, inputs.v)
  kept, walked = sides[q_axis], sides[1 - q_axis]
  size, _, heads, _ = kept[0].shape
  dtype = inputs.q.dtype
  widths = [x.shape[-1] for x in kept]

  def body(*refs: Any) -> None:
    a, b, c, d, rows, codes, lengths, *rest = refs
    extra = jax.tree.unflatten(tree, rest[: len(operands)])
    tile = Tile(settings, extra, walk.columns, q_axis, reach)
    outputs = rest[len(operands) :]

    def scoped(buffers: tuple, barriers: tuple) -> None:
      _Program(
        tile,
        walk,
        (a, b),
        (c, d),
        rows,
        _Pairs(codes, lengths),
        _Buffers(*buffers),
        _Barriers(*barriers),
        dict(zip(sums, outputs, strict=True)),
        columns,
        Band.of(settings, inputs) if "far" in sums else None,
      ).run()

    count, stages = walk.warpgroups, walk.stages
    rows_shape = ((count, 2, ROWS), (stages, 2, walk.columns))[q_axis]
    p = swizzled((count, 2, ROWS, walk.columns), dtype)
    part_buffer = swizzled((count, ROWS, columns[1]), dtype)
    pl.run_scoped(
      scoped,
      (
        swizzled((count, ROWS, widths[0]), dtype),
        swizzled((count, ROWS, widths[1]), dtype),
        swizzled((stages, walk.columns, widths[0]), dtype),
        swizzled((stages, walk.columns, widths[1]), dtype),
        plgpu.SMEM(rows_shape, jnp.float32),
        p if settings.interpret else None,
        None if columns[1] == widths[0] else part_buffer,
      ),
      (
        plgpu.Barrier(num_arrivals=3 - q_axis, num_barriers=count),
        plgpu.Barrier(num_arrivals=2 + q_axis, num_barriers=stages),
        plgpu.Barrier(num_arrivals=count, num_barriers=stages),
      ),
      collective_axes="wg",
    )

  if q_axis == 0:
    body.__name__ = "attention_dq"
  else:
    parts = {"dS": "k", "P": "v"}
    body.__name__ = "attention_d" + "".join(parts[name] for name in sums)
  first = part * PART
  columns = first, min(PART, widths[0] - first)
  shapes = {
    "dS": ((*kept[0].shape[:-1], columns[1]), dtype),
    "P": (kept[1].shape, dtype),
    "far": (queries.rows.shape, jnp.float32),
  }
  return plgpu.kernel(
    body,
    out_type=tuple(jax.ShapeDtypeStruct(*shapes[name]) for name in sums),
    grid=(heads, pairs.other.shape[1], size),
    grid_names=("head", "block", "row"),
    num_threads=walk.warpgroups,
    thread_name="wg",
    compiler_params=plgpu.CompilerParams(approx_math=True),
  )(*kept, *walked, queries.rows, *_Pairs.of(pairs), *operands)


class _Pairs(NamedTuple):
  """The blocks that a block meets.

  Attributes:
    codes: [1 or B, I, J] int32, 2 j, and 1 more if seen in part.
    lengths: [1 or B, I].
  """

  codes: Any
  lengths: Any

  @classmethod
  def of(cls, pairs: Schedule) -> "_Pairs":
    return cls(2 * pairs.other + pairs.partial, pairs.lengths)

  def length(self, b: jax.Array, block: jax.Array) -> jax.Array:
    return self.lengths[self._row(b), block]

  def code(self, b: jax.Array, block: jax.Array, step: Any) -> jax.Array:
    return self.codes[self._row(b), block, step]

  def _row(self, b: jax.Array) -> Any:
    return b if self.lengths.shape[0] > 1 else 0


@dataclasses.dataclass(frozen=True)
class _Program:
  """What a block of threads does: one block of the kept side.

  Attributes:
    tile: what its tiles have in common.
    walk: its blocks.
    kept: refs of a and b.
    walked: refs of c and d.
    rows: ref, of the queries.
    pairs: refs.
    buffers: shared memory.
    barriers: there, too.
    outputs: refs by the names of sums.
    columns: of the sum "dS": the first, and how many.
    band: where relative biases are no constants, if that is asked for.
  """

  tile: Tile
  walk: Walk
  kept: tuple
  walked: tuple
  rows: Any
  pairs: _Pairs
  buffers: _Buffers
  barriers: _Barriers
  outputs: dict[str, Any]
  columns: tuple[int, int]
  band: Band | None

  def run(self) -> None:
    """All of it."""
    walk, a, buffers = self.walk, self.kept[0], self.buffers
    b, head, wg = (lax.axis_index(name) for name in ("row", "head", "wg"))
    block = lax.axis_index("block")
    if self.tile.settings.causal and self.tile.q_axis == 0:
      # The longest first, so that none is begun when the others are done.
      block = self.pairs.codes.shape[1] - 1 - block
    own = block * walk.rows + wg * ROWS
    # Beyond the end the last rows are done again, for nobody.
    first = jnp.minimum(own, a.shape[1] - ROWS)
    length = self.pairs.length(b, block)
    # Heads of queries for each of the kept side.
    group = max(self.walked[0].shape[2] // a.shape[2], 1)
    steps = length * group
    self._fetch_kept(b, head, wg, first)

    def code(step: Any) -> jax.Array:
      step = jnp.minimum(step, steps - 1)
      if group > 1:
        step = lax.rem(step, length)
      return self.pairs.code(b, block, step)

    def fetch(step: Any, code: jax.Array) -> None:
      self._fetch(step, b, self._walked_head(head, step, length), code)

    codes = []
    for i in range(walk.stages):
      codes.append(lax.cond(length > 0, code, lambda i: 0, i))

      @pl.when((wg == 0) & (i < steps))
      def _first(i: int = i) -> None:
        fetch(i, codes[i])

    plgpu.barrier_wait(self.barriers.kept.at[wg])

    # In registers of their own: "far" is no product.
    names = [name for name in self.outputs if name != "far"]

    def scoped(*sums: Any) -> tuple[list[jax.Array], tuple]:
      total = dict(zip(names, sums, strict=True))

      def step(i: jax.Array, carry: tuple) -> tuple:
        codes, far = carry
        later = code(i + walk.stages)

        def refill() -> None:
          @pl.when((wg == 0) & (i > 0) & (i + walk.stages - 1 < steps))
          def _() -> None:
            slot = lax.rem(i - 1, walk.stages)
            plgpu.barrier_wait(self.barriers.free.at[slot])
            fetch(i + walk.stages - 1, codes[-1])

        q_head = head
        if self.tile.q_axis == 1:
          q_head = self._walked_head(head, i, length)
        at = lax.div(codes[0], 2) * walk.columns
        places = (first, at) if self.tile.q_axis == 0 else (at, first)
        spot = Spot(b, q_head, *places)
        partial = lax.rem(codes[0], 2)
        far = self._step(i, wg, spot, partial, total, far, refill)
        return (*codes[1:], later), far

      nothing = jnp.zeros((ROWS,), jnp.float32)
      far = (plgpu.layout_cast(nothing, along(0)),) * 2
      carry = tuple(codes), far if self.band else ()
      _, far = lax.fori_loop(0, steps, step, carry)
      return [total[name][...] for name in names], far

    widths = {"dS": self.columns[1], "P": self.kept[1].shape[-1]}
    sums, far = pl.run_scoped(
      scoped, *(plgpu.ACC((ROWS, widths[name])) for name in names)
    )
    target = {
      "dS": (buffers.a if buffers.part is None else buffers.part).at[wg],
      "P": buffers.b.at[wg],
      "far": buffers.rows.at[wg],
    }
    for name, total in zip(names, sums, strict=True):
      target[name][...] = self._scaled(name, total).astype(a.dtype)
    for side, total in enumerate(far):
      buffers.rows[wg, side] = total
    plgpu.commit_smem()

    @pl.when(first == own)
    def _store() -> None:
      rows = pl.ds(first, ROWS)
      for name, ref in self.outputs.items():
        piece = ref.at[b, rows, head]
        if name == "far":
          piece = ref.at[b, head, :, rows]
        plgpu.copy_smem_to_gmem(target[name], piece)
      plgpu.wait_smem_to_gmem(0)

  def _walked_head(self, head: Any, step: Any, length: Any) -> jax.Array:
    """The head of the walked side at a step."""
    heads, others = self.kept[0].shape[2], self.walked[0].shape[2]
    if heads == others:
      return head
    if heads > others:
      return lax.div(head, heads // others)
    return head * (others // heads) + lax.div(jnp.int32(step), length)

  def _fetch_kept(self, b: Any, head: Any, wg: Any, first: Any) -> None:
    full = self.barriers.kept.at[wg]
    for ref, buffer in zip(self.kept, self.buffers[:2], strict=True):
      piece = ref.at[b, pl.ds(first, ROWS), head]
      plgpu.copy_gmem_to_smem(piece, buffer.at[wg], full)
    if self.tile.q_axis == 0:
      piece = self.rows.at[b, head, :, pl.ds(first, ROWS)]
      plgpu.copy_gmem_to_smem(piece, self.buffers.rows.at[wg], full)

  def _fetch(self, step: Any, b: Any, head: Any, code: Any) -> None:
    slot = lax.rem(jnp.int32(step), self.walk.stages)
    full = self.barriers.full.at[slot]
    places = pl.ds(lax.div(code, 2) * self.walk.columns, self.walk.columns)
    for ref, buffer in zip(self.walked, self.buffers[2:4], strict=True):
      piece = ref.at[b, places, head]
      plgpu.copy_gmem_to_smem(piece, buffer.at[slot], full)
    if self.tile.q_axis == 1:
      piece = self.rows.at[b, head, :, places]
      plgpu.copy_gmem_to_smem(piece, self.buffers.rows.at[slot], full)

  def _step(
    self,
    i: Any,
    wg: Any,
    spot: Spot,
    partial: Any,
    total: dict[str, Any],
    far: tuple,
    refill: Any,
  ) -> tuple:
    """Adds a tile to the sums; returns those far away."""
    settings, buffers, shape = self.tile.settings, self.buffers, self.tile.shape
    slot = lax.rem(i, self.walk.stages)
    rows = buffers.rows.at[(wg, slot)[self.tile.q_axis]]

    def row(which: int) -> jax.Array:
      layout = along(self.tile.q_axis)
      return compat.gpu_load(rows.at[which], layout)

    def spread(x: jax.Array) -> jax.Array:
      return lax.broadcast_in_dim(x, shape, [self.tile.q_axis])

    plgpu.barrier_wait(self.barriers.full.at[slot])

    def scoped(s_acc: Any, dp_acc: Any = None) -> tuple[Any, tuple]:
      plgpu.wgmma(s_acc, buffers.a.at[wg], buffers.c.at[slot].transpose((1, 0)))
      if dp_acc is not None:
        plgpu.wgmma(
          dp_acc, buffers.b.at[wg], buffers.d.at[slot].transpose((1, 0))
        )
      refill()
      products = plgpu.wgmma_accumulator_load(
        s_acc, wait_n=int(dp_acc is not None)
      )
      logits = self.tile.logits(spot, partial > 0, products, slope=True)
      level = row(0) - logits.shift
      p = jnp.exp2(logits.x * settings.factor - spread(level))
      kept = None
      if settings.rate:
        kept = self.tile.keep(spot)
      if "P" in total:
        dropped = p if kept is None else jnp.where(kept, p, 0.0)
        left = self._left(dropped, wg, 0)
        plgpu.wgmma(total["P"], left, buffers.d.at[slot])
      if dp_acc is None:
        return None, far
      dp = plgpu.wgmma_accumulator_load(dp_acc, wait_n=int("P" in total))
      if kept is not None:
        dp = jnp.where(kept, dp * (1.0 / (1.0 - settings.rate)), 0.0)
      ds = p * (dp - spread(row(1)))
      sums = self._far(spot, ds, far) if self.band else far
      if logits.slope is not None:
        ds = ds * logits.slope
      return ds.astype(buffers.a.dtype), sums

    tiles = [plgpu.ACC(shape)] * (1 + int("dS" in total))
    ds, far = pl.run_scoped(scoped, *tiles)
    if ds is not None:
      c = buffers.c.at[slot, :, pl.ds(*self.columns)]
      plgpu.wgmma(total["dS"], self._left(ds, wg, 1), c)
    plgpu.wgmma_wait(0)
    plgpu.barrier_arrive(self.barriers.free.at[slot])
    return far

  def _far(self, spot: Spot, ds: jax.Array, far: tuple) -> tuple:
    """The sums of rows far before and far after, with a tile's."""
    assert self.band is not None
    sides = self.band.far(self.tile.settings, spot.q_first, spot.k_first)

    def add(far: tuple) -> tuple:
      more = ds.sum(axis=1)
      return tuple(
        x + more * jnp.where(side, 1.0, 0.0)
        for x, side in zip(far, sides, strict=True)
      )

    return lax.cond(sides[0] | sides[1], add, lambda x: x, far)

  def _left(self, x: jax.Array, wg: Any, place: int) -> Any:
    """As the left side of a product."""
    x = x.astype(self.buffers.a.dtype)
    if not self.tile.settings.interpret:
      return x
    # The interpreter's wgmma has its left side in shared memory only.
    self.buffers.p[wg, place] = x
    plgpu.commit_smem()
    return self.buffers.p.at[wg, place]

  def _scaled(self, name: str, total: jax.Array) -> jax.Array:
    settings = self.tile.settings
    if name == "dS":
      return total * settings.scale if settings.scale != 1.0 else total
    if settings.rate:
      return total * (1.0 / (1.0 - settings.rate))
    return total
