"""Backward pass of attention on a TPU, in one kernel.

A block of keys stays in VMEM while the blocks of queries that see it go by, of
one query head after the other, and sums dK and dV; dQ of all queries of a row
and of a key head's group stays there for all blocks of keys.  So each product
is computed once (five, where separate kernels for dQ and for dK and dV need
seven), and nothing but gradients is written.  Rows whose dQ is too long for
VMEM go in chunks of queries, which each give a part of dK and dV.

The weights come from the log-sum-exp (Dao et al. 2022,
https://arxiv.org/abs/2205.14135, section B.2); with weights w and dw = dy v'
the logits have the gradient w (dw - <dy, y> + dlse).
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.attention.schedule import Schedule
from pallas_kernels.attention.tpu import backward_tile
from pallas_kernels.attention.tpu import tile as tiles
from pallas_kernels.attention.tpu.backward_tile import product
from pallas_kernels.attention.tpu.bias_backward import bias_gradient
from pallas_kernels.attention.tpu.blocks import extras
from pallas_kernels.attention.tpu.inputs import (
  ROWS,
  Given,
  Inputs,
  Lists,
  Settings,
  Walk,
)
from pallas_kernels.attention.tpu.tile import Refs, Tile

# Keys whose logits are held at once.
_PART = 256


class _Share(NamedTuple):
  """The queries whose dQ stays in VMEM at once.

  Attributes:
    heads: of a key head's group; divides it.
    blocks: of queries of each head.
  """

  heads: int
  blocks: int

  @classmethod
  def of(cls, settings: Settings, inputs: Inputs) -> "_Share":
    """As many as half of VMEM has room for."""
    _, heads, width, length = inputs.q.shape
    # A sum in float32, and a block to be written while the next is computed.
    size = 4 + 2 * inputs.q.dtype.itemsize
    room = settings.vmem // 2 // (width * settings.q_block * size)
    group = heads // inputs.k.shape[1]
    most = max(min(group, room), 1)
    heads = next(x for x in range(most, 0, -1) if group % x == 0)
    blocks = min(max(room // heads, 1), length // settings.q_block)
    return cls(heads, blocks)


class _Plan(NamedTuple):
  """What the kernel knows besides Settings.

  Attributes:
    walk: through the lists of blocks of queries.
    heads: N.
    share: what stays in VMEM.
    first: block of queries that it begins with.
    masked: whether any block may be partial.
    names: of the Refs that are there.
  """

  walk: Walk
  heads: int
  share: _Share
  first: int
  masked: bool
  names: tuple[str, ...]


class _Blocks(NamedTuple):
  """What a kernel works on.

  Attributes:
    q: [1, 1, H, q_block].
    k: [1, 1, H, k_block].
    v: [1, 1, V, k_block].
    dy: [1, 1, V, q_block].
    rows: [1, 1, 2, q_block], log-sum-exp to base 2, and dlse - <dy, y>.
    more: the others that are read.
    dq: [1, G, H, chunk].
    dk: [1, 1, H, k_block].
    dv: [1, 1, V, k_block].
    dpanels: [1, G, (2 w + 3) R, R] or None.
    dq_sum: [G, H, chunk] float32, as all sums.
    dk_sum: [H, k_block].
    dv_sum: [V, k_block].
    k_rows: [k_block, H], k transposed.
    v_rows: [k_block, V], likewise.
  """

  q: Any
  k: Any
  v: Any
  dy: Any
  rows: Any
  more: Refs
  dq: Any
  dk: Any
  dv: Any
  dpanels: Any
  dq_sum: Any
  dk_sum: Any
  dv_sum: Any
  k_rows: Any
  v_rows: Any


def backward(
  settings: Settings,
  inputs: Inputs,
  given: Given,
  y: jax.Array,
  lse: jax.Array,
  dy: jax.Array,
  dlse: jax.Array,
) -> Inputs:
  """Gradients of shape and dtype of the inputs.

  Args:
    settings: static ones.
    inputs: of whole blocks, as all arrays.
    given: what has no gradient.
    y: output [B N V T].
    lse: [B N T] float32, -inf of queries that see nothing; their dy and dlse
      do not matter.
    dy: gradient of y.
    dlse: gradient of lse.
  """
  rows = backward_tile.rows(y, lse, dy, dlse)
  share = _Share.of(settings, inputs)
  count = inputs.q.shape[3] // settings.q_block
  parts = [
    _call(settings, inputs, given, rows, dy, share, first)
    for first in range(0, count, share.blocks)
  ]
  dq, dk, dv, *dpanels = (list(x) for x in zip(*parts, strict=True))
  total = functools.partial(functools.reduce, jnp.add)
  dbias = None
  if inputs.bias is not None:
    dlse = jnp.where(lse == -jnp.inf, 0.0, dlse)
    dbias = bias_gradient(settings, inputs, given, rows, dy, dlse)
  gradients = Inputs(
    jnp.concatenate(dq, axis=3),
    total(dk),
    total(dv),
    dbias,
    total(dpanels[0]) if dpanels else None,
  )
  return jax.tree.map(lambda x, like: x.astype(like.dtype), gradients, inputs)


def _of_chunk(schedule: Schedule, first: int, count: int) -> Schedule:
  """The lists without the blocks outside of [first, first + count)."""
  other, partial, lengths = schedule
  there = jnp.arange(other.shape[2]) < lengths[..., None]
  there &= (other >= first) & (other < first + count)
  # Ascending still, those outside at the end.
  order = jnp.argsort(~there, axis=2, stable=True)
  lengths = jnp.sum(there, axis=2, dtype=jnp.int32)
  last = jnp.maximum(lengths - 1, 0)[..., None]
  order = jnp.take_along_axis(
    order, jnp.minimum(jnp.arange(min(other.shape[2], count)), last), axis=2
  )
  other, partial = (jnp.take_along_axis(x, order, 2) for x in (other, partial))
  return Schedule(jnp.clip(other, first, first + count - 1), partial, lengths)


def _call(
  settings: Settings,
  inputs: Inputs,
  given: Given,
  rows: jax.Array,
  dy: jax.Array,
  share: _Share,
  first: int,
) -> tuple[jax.Array, ...]:
  """Gradients of q, k, v and panels by the queries from block `first` on."""
  q, k, v, _, panels = inputs
  size, heads, q_width, q_length = q.shape
  kv_heads, v_width, k_length = v.shape[1:]
  t, s = settings.q_block, settings.k_block
  blocks = min(share.blocks, q_length // t - first)
  schedule = given.by_keys
  if blocks * t < q_length:
    schedule = _of_chunk(schedule, first, blocks)
  walk = Walk.of(schedule)
  # Of a key head, which each give a part of its gradients.
  shares = heads // kv_heads // share.heads

  def place(h: Any, b: Any, j: Any, g: Any, step: Any, *lists: Any) -> Any:
    i = walk.other(Lists(*lists), b, j, step)
    return b, h * share.heads + g, i, j

  def queries(*grid: Any) -> tuple[Any, ...]:
    b, n, i, _ = place(*grid)
    return b, n, 0, i

  def keys(h: Any, b: Any, j: Any, *_: Any) -> tuple[Any, ...]:
    return b, h // shares, 0, j

  def out_keys(h: Any, b: Any, j: Any, *_: Any) -> tuple[Any, ...]:
    return b, h, 0, j

  def out_queries(h: Any, b: Any, *_: Any) -> tuple[Any, ...]:
    return b, h, 0, 0

  def head(h: Any, *_: Any) -> tuple[Any, ...]:
    return h, 0, 0

  more = extras(settings, inputs, given, place)
  plan = _Plan(walk, heads, share, first, given.masked(settings), tuple(more))
  grid = (kv_heads * shares, size, k_length // s, share.heads, walk.longest)
  # Parts of a sum are not rounded.
  whole = shares == 1 and blocks * t == q_length
  dtype = k.dtype if whole else jnp.float32
  shapes = [
    jax.ShapeDtypeStruct((size, heads, q_width, blocks * t), q.dtype),
    jax.ShapeDtypeStruct((size, grid[0], q_width, k_length), dtype),
    jax.ShapeDtypeStruct((size, grid[0], v_width, k_length), dtype),
  ]
  specs = [
    pl.BlockSpec((1, share.heads, q_width, blocks * t), out_queries),
    pl.BlockSpec((1, 1, q_width, s), out_keys),
    pl.BlockSpec((1, 1, v_width, s), out_keys),
  ]
  semantics: list[Any] = ["parallel"] * 2 + ["arbitrary"] * 3
  if panels is not None:
    shapes.append(jax.ShapeDtypeStruct(panels.shape, jnp.float32))
    specs.append(pl.BlockSpec((share.heads, *panels.shape[1:]), head))
    # They are summed over the rows of a batch.
    semantics[1] = "arbitrary"
  dq, dk, dv, *dpanels = pl.pallas_call(
    functools.partial(_kernel, settings, plan),
    name="attention_backward",
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=2,
      grid=grid,
      in_specs=[
        pl.BlockSpec((1, 1, q_width, t), queries),
        pl.BlockSpec((1, 1, q_width, s), keys),
        pl.BlockSpec((1, 1, v_width, s), keys),
        pl.BlockSpec((1, 1, v_width, t), queries),
        pl.BlockSpec((1, 1, 2, t), queries),
        *(spec for _, spec in more.values()),
      ],
      out_specs=specs,
      scratch_shapes=[
        pltpu.VMEM((share.heads, q_width, blocks * t), jnp.float32),
        pltpu.VMEM((q_width, s), jnp.float32),
        pltpu.VMEM((v_width, s), jnp.float32),
        pltpu.VMEM((s, q_width), k.dtype),
        pltpu.VMEM((s, v_width), v.dtype),
      ],
    ),
    out_shape=shapes,
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=tuple(semantics), vmem_limit_bytes=settings.vmem
    ),
    cost_estimate=_cost(settings, inputs, math.prod(grid)),
    interpret=settings.interpret,
  )(
    *Lists.of(schedule),
    *(q, k, v, dy, rows),
    *(array for array, _ in more.values()),
  )
  if shares > 1:
    dk, dv = (
      jnp.sum(x.reshape(size, kv_heads, shares, *x.shape[2:]), axis=2)
      for x in (dk, dv)
    )
  return dq, dk, dv, *dpanels


def _cost(settings: Settings, inputs: Inputs, steps: int) -> pl.CostEstimate:
  """Of lists as long as what positions hide leaves them."""
  q, k, v = inputs[:3]
  pairs = steps * settings.q_block * settings.k_block
  width, v_width = k.shape[2], v.shape[2]
  # A step reads q and dy; what belongs to keys is read and written once.
  queries = steps * settings.q_block * (width + v_width)
  return pl.CostEstimate(
    flops=2 * pairs * (3 * width + 2 * v_width),
    transcendentals=pairs,
    bytes_accessed=(queries + q.size + 2 * (k.size + v.size))
    * q.dtype.itemsize,
  )


def _kernel(
  settings: Settings, plan: _Plan, blocks: Any, lengths: Any, *refs: Any
) -> None:
  count = len(plan.names)
  *arrays, dq, dk, dv = refs[: 5 + count + 3]
  dpanels, *sums = (None, *refs[8 + count :])[-6:]
  more = Refs(**dict(zip(plan.names, arrays[5:], strict=True)))
  at = _Blocks._make([*arrays[:5], more, dq, dk, dv, dpanels, *sums])
  lists = Lists(blocks, lengths)
  h, b, j, g, step = (pl.program_id(axis) for axis in range(5))
  last = [pl.num_programs(axis) - 1 for axis in range(5)]
  begin: Any = (g == 0) & (step == 0)
  end: Any = (g == last[3]) & (step == last[4])

  if dpanels is not None:

    @pl.when(begin & (j == 0) & (b == 0))
    def clear_panels() -> None:
      dpanels[...] = jnp.zeros_like(dpanels)

  @pl.when(begin & (j == 0))
  def clear_queries() -> None:
    def clear(head: Any, columns: Any) -> None:
      at.dq_sum[head, :, columns] = jnp.zeros(
        (at.dq_sum.shape[1], settings.q_block), jnp.float32
      )

    _over_chunk(settings, at, clear)

  @pl.when(begin)
  def begin_keys() -> None:
    at.dk_sum[...] = jnp.zeros_like(at.dk_sum)
    at.dv_sum[...] = jnp.zeros_like(at.dv_sum)
    at.k_rows[...] = at.k[0, 0].T
    at.v_rows[...] = at.v[0, 0].T

  @pl.when(step < plan.walk.length(lists, b, j))
  def add() -> None:
    i = plan.walk.other(lists, b, j, step)
    partial = plan.walk.partial(lists, b, j, step) if plan.masked else None
    head = b * plan.heads + h * plan.share.heads + g
    block = Tile(head, i, j, 0, 0, settings.q_block, settings.k_block)
    act = functools.partial(_add, settings, plan, at, g)
    backward_tile.over_tiles(settings, at.more, block, partial, act)

  # The logits' derivative by the products is part of their gradient already
  # where it is no constant.
  scale = settings.scale if settings.soft_cap is None else 1.0

  @pl.when(end)
  def write_keys() -> None:
    dk[0, 0] = (at.dk_sum[...] * scale).astype(dk.dtype)
    dv[0, 0] = (at.dv_sum[...] / (1 - settings.rate)).astype(dv.dtype)

  @pl.when(end & (j == last[2]))
  def write_queries() -> None:
    def write(head: Any, columns: Any) -> None:
      total = at.dq_sum[head, :, columns] * scale
      dq[0, head, :, columns] = total.astype(dq.dtype)

    _over_chunk(settings, at, write)


def _over_chunk(
  settings: Settings, at: _Blocks, act: Callable[[Any, Any], None]
) -> None:
  """Calls act(head of the group, columns) for blocks of all dQ at hand."""
  group, _, length = at.dq_sum.shape

  def over_queries(i: Any, g: Any) -> Any:
    first = pl.multiple_of(i * settings.q_block, ROWS)
    act(g, pl.ds(first, settings.q_block))
    return g

  def over_heads(g: Any, nothing: Any) -> Any:
    jax.lax.fori_loop(0, length // settings.q_block, over_queries, g)
    return nothing

  jax.lax.fori_loop(0, group, over_heads, 0)


def _add(
  settings: Settings,
  plan: _Plan,
  at: _Blocks,
  g: jax.Array,
  tile: Tile,
  *,
  masked: bool,
  near: bool,
) -> None:
  """Adds what a tile gives to all sums."""
  columns = pl.ds(tile.t, tile.queries)
  q, dy = at.q[0, 0, :, columns], at.dy[0, 0, :, columns]
  row = at.rows[0, 0, :, columns]
  dq = None
  size = backward_tile.divisor(tile.keys, _PART)
  for first in range(0, tile.keys, size):
    part = tile._replace(s=tile.s + first, keys=size)
    here = pl.ds(part.s, size)
    weights, dlogits, slope = backward_tile.gradient(
      settings,
      at.more,
      part,
      product(at.k_rows[here, :], q, (1, 0)),
      product(at.v_rows[here, :], dy, (1, 0)),
      row,
      masked=masked,
      near=near,
    )
    if at.dpanels is not None:
      _add_to_panels(settings, at.dpanels, g, part, dlogits, near)
    if settings.soft_cap is not None:
      dlogits = dlogits * slope
    weights, dlogits = weights.astype(dy.dtype), dlogits.astype(q.dtype)
    at.dv_sum[:, here] += product(dy, weights, (1, 1))
    at.dk_sum[:, here] += product(q, dlogits, (1, 1))
    more = product(at.k[0, 0, :, here], dlogits, (1, 0))
    dq = more if dq is None else dq + more
  queries = (tile.i - plan.first) * settings.q_block + tile.t
  queries = pl.ds(pl.multiple_of(queries, ROWS), tile.queries)
  at.dq_sum[g, :, queries] += dq


def _add_to_panels(
  settings: Settings,
  dpanels: Any,
  g: jax.Array,
  tile: Tile,
  dlogits: jax.Array,
  near: bool,
) -> None:
  if not near:
    # One number, of which any cell is a part.
    rows = tiles.panel_rows(settings, dpanels, tile, 0, 0)
    sums = jnp.sum(dlogits.reshape(-1, 8, tile.queries), axis=0)
    total = sum(sums[:, t : t + ROWS] for t in range(0, tile.queries, ROWS))
    dpanels[g, pl.ds(rows.start, 8), :] += total
    return
  diagonals: dict[int, jax.Array] = {}
  for s in range(tile.keys // ROWS):
    for t in range(tile.queries // ROWS):
      piece = dlogits[s * ROWS : (s + 1) * ROWS, t * ROWS : (t + 1) * ROWS]
      if s - t in diagonals:
        piece = diagonals[s - t] + piece
      diagonals[s - t] = piece
  for difference, piece in diagonals.items():
    s, t = max(difference, 0), max(-difference, 0)
    dpanels[g, tiles.panel_rows(settings, dpanels, tile, s, t), :] += piece
