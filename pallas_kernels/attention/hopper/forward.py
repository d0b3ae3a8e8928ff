"""Attention's forward pass on Hopper.

The shape is FlashAttention-3's (Shah et al. 2024, arXiv 2407.08608): each
warpgroup has 64 queries and goes over the blocks of keys, and they take turns
at the tensor cores, so that one's softmax runs beside the other's products.
There is no warpgroup that only copies: registers are divided evenly among the
warpgroups of a block, so that one would take as many as those that compute.
The first warpgroup asks for the next block in its turn.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels.attention.hopper.inputs import (
  LANES,
  ROWS,
  Given,
  Inputs,
  Settings,
)
from pallas_kernels.attention.hopper.tile import (
  Extras,
  Spot,
  Tile,
  along,
  spread,
)

# Finite, because -inf less -inf would be no number; as a logit in base 2.
_LEAST = -1e30
_LN2 = 0.6931471805599453
# Columns of the output that one product makes: with all of a wide one at a time
# there would be too many registers beside those that add them up.
_AT_ONCE = 128
_OF_WIDE = 64


class _Buffers(NamedTuple):
  """Shared memory.

  Attributes:
    q: [warpgroups, 64, H].
    k: [stages, columns, H].
    v: [stages, columns, V].
    y: [warpgroups, 64, V], the place of q where that is as wide.
    lse: [warpgroups, 64] float32.
    p: [warpgroups, 64, columns], for the interpreter; else None.
  """

  q: Any
  k: Any
  v: Any
  y: Any
  lse: Any
  p: Any


class _Barriers(NamedTuple):
  """What warpgroups wait for.

  Attributes:
    q: [warpgroups], its queries are there.
    k: [stages], a block of keys is there.
    v: [stages], a block of values is.
    k_free: [stages], all warpgroups have read the block of keys.
    v_free: [stages], that of values.
    turn: [warpgroups], its turn at the tensor cores.
  """

  q: Any
  k: Any
  v: Any
  k_free: Any
  v_free: Any
  turn: Any


def swizzled(shape: tuple[int, ...], dtype: Any) -> Any:
  """Shared memory in the order that wgmma and the copies of tiles share."""
  transforms = (plgpu.TilingTransform((8, LANES)), plgpu.SwizzleTransform(128))
  return plgpu.SMEM(shape, dtype, transforms=transforms)


def forward(
  settings: Settings, inputs: Inputs, given: Given, *, remainder: bool = False
) -> list[jax.Array]:
  """Output [B T N V] in the dtype of q, log-sum-exp [B N T] float32.

  T is that of the inputs, filled up; -inf (and zeros) for rows that see
  nothing.  With `remainder` also what the output lost when it was rounded, in
  the dtype of q: all logits of a number of a bias's table share the error of
  <dy, y>.
  """
  walk = settings.blocks.forward
  size, q_length, heads, width = inputs.q.shape
  v_width, dtype = inputs.v.shape[-1], inputs.q.dtype
  extras = Extras.of(settings, inputs, given, walk.columns)
  reach = 0 if inputs.panels is None else inputs.panels.reach
  operands, tree = jax.tree.flatten(extras)

  def body(*refs: Any) -> None:
    q, k, v, other, partial, lengths, *rest = refs
    outputs = rest[len(operands) :]
    tile = Tile(
      settings,
      jax.tree.unflatten(tree, rest[: len(operands)]),
      walk.columns,
      reach=reach,
    )

    def scoped(buffers: tuple, barriers: tuple) -> None:
      if buffers[3] is None:
        buffers = (*buffers[:3], buffers[0], *buffers[4:])
      _attend(
        tile,
        (q, k, v),
        (other, partial, lengths),
        outputs,
        _Buffers(*buffers),
        _Barriers(*barriers),
      )

    count, stages = walk.warpgroups, walk.stages
    p = swizzled((count, ROWS, walk.columns), dtype)
    pl.run_scoped(
      scoped,
      (
        swizzled((count, ROWS, width), dtype),
        swizzled((stages, walk.columns, width), dtype),
        swizzled((stages, walk.columns, v_width), dtype),
        None if v_width == width else swizzled((count, ROWS, v_width), dtype),
        plgpu.SMEM((count, ROWS), jnp.float32),
        p if settings.interpret else None,
      ),
      (
        plgpu.Barrier(num_barriers=count),
        plgpu.Barrier(num_barriers=stages),
        plgpu.Barrier(num_barriers=stages),
        plgpu.Barrier(num_arrivals=count, num_barriers=stages),
        plgpu.Barrier(num_arrivals=count, num_barriers=stages),
        plgpu.Barrier(num_barriers=count),
      ),
      collective_axes="wg",
    )

  q_blocks = given.forward.other.shape[1]
  body.__name__ = "attention_forward"
  y = jax.ShapeDtypeStruct((size, q_length, heads, v_width), dtype)
  lse = jax.ShapeDtypeStruct((size, heads, q_length), jnp.float32)
  results: list[jax.Array] = plgpu.kernel(
    body,
    out_type=[y, lse, y] if remainder else [y, lse],
    grid=(heads, q_blocks, size),
    grid_names=("head", "block", "row"),
    num_threads=walk.warpgroups,
    thread_name="wg",
    compiler_params=plgpu.CompilerParams(approx_math=True),
  )(inputs.q, inputs.k, inputs.v, *given.forward, *operands)
  return results


def _attend(
  tile: Tile,
  inputs: tuple,
  pairs: tuple,
  outputs: list,
  buffers: _Buffers,
  barriers: _Barriers,
) -> None:
  """What a block of threads does: one block of queries of one head."""
  settings = tile.settings
  walk = settings.blocks.forward
  q_ref, k_ref, v_ref = inputs
  b, n, wg = (lax.axis_index(name) for name in ("row", "head", "wg"))
  block = lax.axis_index("block")
  if settings.causal:
    # The longest first, so that none is begun when the others are done.
    block = pairs[0].shape[1] - 1 - block
  k_head = lax.div(n, q_ref.shape[2] // k_ref.shape[2])
  first = block * walk.rows + wg * ROWS
  # Beyond the end the last rows are done again, for nobody.
  q_first = jnp.minimum(first, q_ref.shape[1] - ROWS)
  walked = _Keys(b, block, *pairs)
  length = walked.length

  def fetch(
    source: Any,
    target: Any,
    full: Any,
    step: jax.Array | int,
    number: jax.Array,
  ) -> None:
    slot = lax.rem(step, walk.stages)
    # The product stands here for the copy to know what it is a multiple of.
    rows = pl.ds(number * walk.columns, walk.columns)
    piece = source.at[b, rows, k_head]
    plgpu.copy_gmem_to_smem(piece, target.at[slot], full.at[slot])

  plgpu.copy_gmem_to_smem(
    q_ref.at[b, pl.ds(q_first, ROWS), n], buffers.q.at[wg], barriers.q.at[wg]
  )

  @pl.when((wg == 0) & (length > 0))
  def _first_block() -> None:
    number, _ = walked.block(0)
    fetch(k_ref, buffers.k, barriers.k, 0, number)
    fetch(v_ref, buffers.v, barriers.v, 0, number)

  @pl.when(wg == walk.warpgroups - 1)
  def _begin() -> None:
    plgpu.barrier_arrive(barriers.turn.at[0])

  plgpu.barrier_wait(barriers.q.at[wg])
  plgpu.barrier_wait(barriers.turn.at[wg])
  following = lax.rem(wg + 1, walk.warpgroups)

  def next_block(
    step: jax.Array,
    number: jax.Array,
    source: Any,
    target: Any,
    full: Any,
    free: Any,
  ) -> None:
    """Asks for the block after this step's, when all have left its place."""

    @pl.when((wg == 0) & (step + 1 < length))
    def _() -> None:
      @pl.when(step + 1 >= walk.stages)
      def _() -> None:
        plgpu.barrier_wait(free.at[lax.rem(step + 1, walk.stages)])

      fetch(source, target, full, step + 1, number)

  def step(i: jax.Array, carry: tuple) -> tuple:
    y, top, total, (number, partial), later = carry
    slot = lax.rem(i, walk.stages)
    plgpu.barrier_wait(barriers.k.at[slot])

    def multiply(acc: Any) -> jax.Array:
      plgpu.wgmma(acc, buffers.q.at[wg], buffers.k.at[slot].transpose((1, 0)))
      plgpu.barrier_arrive(barriers.turn.at[following])
      next_block(i, later[0], k_ref, buffers.k, barriers.k, barriers.k_free)
      return acc[...]

    products = pl.run_scoped(multiply, plgpu.ACC(tile.shape, jnp.float32))
    plgpu.barrier_arrive(barriers.k_free.at[slot])
    # Long before it is needed: it comes from global memory.
    after_next = walked.block(i + 2)
    spot = Spot(b, n, q_first, number * walk.columns)
    logits = tile.logits(spot, partial > 0, products)
    best = logits.x.max(axis=1) * settings.factor + logits.shift
    new = jnp.maximum(top, best)
    weights = jnp.exp2(
      logits.x * settings.factor - spread(new - logits.shift, tile.shape)
    )
    fade = jnp.exp2(top - new)
    total = total * fade + weights.sum(axis=1)
    if settings.rate:
      weights = jnp.where(tile.keep(spot), weights, 0.0)
    p = weights.astype(q_ref.dtype)
    next_block(i, later[0], v_ref, buffers.v, barriers.v, barriers.v_free)
    plgpu.barrier_wait(barriers.v.at[slot])
    plgpu.barrier_wait(barriers.turn.at[wg])
    y = _add(settings, y, fade, p, buffers, wg, slot)
    plgpu.barrier_arrive(barriers.v_free.at[slot])
    return y, new, total, later, after_next

  v_width = v_ref.shape[-1]
  width = v_width if v_width <= _AT_ONCE else _OF_WIDE
  parts = [
    _constant(0.0, (ROWS, width), plgpu.Layout.WGMMA)
    for _ in range(v_width // width)
  ]
  y, top, total, *_ = lax.fori_loop(
    0,
    length,
    step,
    (
      parts,
      _constant(_LEAST, (ROWS,), along(0)),
      _constant(0.0, (ROWS,), along(0)),
      walked.block(0),
      walked.block(1),
    ),
  )
  plgpu.barrier_arrive(barriers.turn.at[following])

  # The greatest adds 1, if there is one.
  sees = total > 0
  inverse = 1.0 / jnp.where(sees, total, 1.0)
  lse = jnp.where(sees, (top + jnp.log2(total)) * _LN2, -jnp.inf)
  if settings.rate:
    inverse = inverse * (1.0 / (1.0 - settings.rate))
  exact = [part * spread(inverse, (ROWS, width)) for part in y]
  rounded = [part.astype(q_ref.dtype) for part in exact]
  y_ref, lse_ref, *lost_ref = outputs
  buffers.lse[wg] = lse

  def store(parts: list[jax.Array], target: Any) -> None:
    for i, part in enumerate(parts):
      buffers.y[wg, :, pl.ds(i * width, width)] = part
    plgpu.commit_smem()

    @pl.when(first == q_first)
    def _copy() -> None:
      rows = pl.ds(q_first, ROWS)
      plgpu.copy_smem_to_gmem(buffers.y.at[wg], target.at[b, rows, n])
      if target is y_ref:
        plgpu.copy_smem_to_gmem(buffers.lse.at[wg], lse_ref.at[b, n, rows])
      plgpu.wait_smem_to_gmem(0)

  store(rounded, y_ref)
  if lost_ref:
    lost = [x - r.astype(x.dtype) for x, r in zip(exact, rounded, strict=True)]
    store([x.astype(q_ref.dtype) for x in lost], lost_ref[0])


class _Keys(NamedTuple):
  """The blocks of keys that a block of queries meets."""

  b: jax.Array
  block_index: jax.Array
  others: Any
  partials: Any
  lengths: Any

  @property
  def _row(self) -> jax.Array | int:
    return self.b if self.lengths.shape[0] > 1 else 0

  @property
  def last(self) -> jax.Array | int:
    return self.others.shape[2] - 1

  @property
  def length(self) -> jax.Array:
    return self.lengths[self._row, self.block_index]

  def block(self, step: jax.Array | int) -> tuple[jax.Array, jax.Array]:
    """Its number, and whether it is partial; the last one beyond."""
    place = self._row, self.block_index, jnp.minimum(step, self.last)
    return self.others[place], self.partials[place]


def _add(
  settings: Settings,
  y: list[jax.Array],
  fade: jax.Array,
  p: Any,
  buffers: _Buffers,
  wg: jax.Array,
  slot: jax.Array,
) -> list[jax.Array]:
  """The sum of weighted values, in parts, with those of a block."""
  if settings.interpret:
    # The interpreter's wgmma has its left side in shared memory only.
    buffers.p[wg] = p
    plgpu.commit_smem()
    p = buffers.p.at[wg]
  added = []
  for i, part in enumerate(y):
    width = part.shape[1]
    columns = pl.ds(i * width, width)

    def multiply(acc: Any, columns: Any = columns) -> jax.Array:
      plgpu.wgmma(acc, p, buffers.v.at[slot, :, columns])
      return acc[...]

    more = pl.run_scoped(multiply, plgpu.ACC((ROWS, width), jnp.float32))
    added.append(part * spread(fade, (ROWS, width)) + more)
  return added


def _constant(value: float, shape: tuple[int, ...], layout: Any) -> jax.Array:
  return plgpu.layout_cast(jnp.full(shape, value, jnp.float32), layout)
