"""Gradients of attention's biases on Hopper, without atomic additions.

A bias's gradient is a sum of the logits' gradient over many tiles.  A block of
threads stands on one place of the bias, keeps the sum of a tile in registers
and goes over all tiles that read that place, computing their logits and their
gradient again: two products a tile; one store at the end.

For an additive bias the places are its own blocks.  For a relative bias they
are the distances between blocks that the panels cover: a `Band`; what is
farther is summed by the kernel of the queries' gradient.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels import compat
from pallas_kernels.attention.hopper.forward import swizzled
from pallas_kernels.attention.hopper.inputs import (
  ROWS,
  Given,
  Inputs,
  Settings,
)
from pallas_kernels.attention.hopper.tile import Extras, Spot, Tile, along
from pallas_kernels.attention.masks import Mask
from pallas_kernels.attention.panels import Panels
from pallas_kernels.attention.relative import diagonals
from pallas_kernels.attention.schedule import schedule

_WARPGROUPS = 2
_ROWS = _WARPGROUPS * ROWS
# Keys of a tile: with 128, its sum would leave too few registers.
_COLUMNS = 64
# A head dimension up to which shared memory holds two stages.
_MIDDLE = 128
# Blocks of threads that keep a device busy.
_ENOUGH = 264


class Queries(NamedTuple):
  """What belongs to queries in a backward pass.

  Attributes:
    q: [B T N H].
    dy: [B T N V].
    rows: [B N 2 T] float32: the log-sum-exp in base 2, and <dy, y> - dlse.
  """

  q: Any
  dy: Any
  rows: Any


class Band(NamedTuple):
  """The pairs of blocks between which a relative bias is no constant.

  Blocks have 128 queries (counted from index 0) and 64 keys.

  Attributes:
    distances: of the first key from the first query's position, ascending and
      64 apart.
  """

  distances: tuple[int, ...]

  @classmethod
  def of(cls, settings: Settings, inputs: Inputs) -> "Band":
    """That of the panels."""
    assert inputs.panels is not None
    limit = inputs.panels.reach * ROWS
    least = 1 - _COLUMNS - limit
    least += (-settings.q_start - least) % _COLUMNS
    return cls(tuple(range(least, limit + _ROWS, _COLUMNS)))

  def far(
    self, settings: Settings, q_first: Any, k_first: Any
  ) -> tuple[jax.Array, jax.Array]:
    """Whether a tile is before, and whether it is after, the band."""
    query = lax.div(q_first, _ROWS) * _ROWS + settings.q_start
    distance = lax.div(k_first, _COLUMNS) * _COLUMNS - query
    return distance < self.distances[0], distance > self.distances[-1]


def panels_gradient(
  settings: Settings,
  inputs: Inputs,
  given: Given,
  queries: Queries,
  far: jax.Array,
) -> Panels:
  """The gradient of the panels, as far as their table needs it.

  All of a distance's gradient stands in the panels' first row.

  Args:
    settings: static.
    inputs: with panels.
    given: what has no gradient.
    queries: what belongs to them.
    far: [B N 2 T], sums of the logits' gradients before and after the band.
  """
  panels = inputs.panels
  assert panels is not None
  band = Band.of(settings, inputs)
  kinds = _kinds(settings, inputs, given)
  size, q_blocks, k_blocks = kinds.shape
  i = np.arange(q_blocks)
  # [distances, query blocks], the block of keys.
  j = (
    i * _ROWS + settings.q_start + np.asarray(band.distances)[:, None]
  ) // _COLUMNS
  inside = (j >= 0) & (j < k_blocks)
  j = np.where(inside, j, 0)
  kind = jnp.where(inside, kinds[:, i, j], 0)
  kind = jnp.swapaxes(kind, 0, 1)
  b = np.arange(size)[:, None]
  tiles = _Tiles.of(kind, b, i, j[:, None], kinds.shape)
  sums = _sums(settings, inputs, given, queries, tiles, True)

  limit = panels.reach * ROWS
  first = band.distances[0] - _ROWS + 1
  length = band.distances[-1] + _COLUMNS - first
  spread = _ROWS + _COLUMNS - 1
  heads = len(sums)
  total = jnp.zeros((heads, length), jnp.float32)
  zeros = jnp.zeros((heads, spread), jnp.float32)
  for index, distance in enumerate(band.distances):
    _, pull = jax.vjp(lambda x: diagonals(x, _ROWS), zeros)
    (part,) = pull(sums[:, index])
    at = distance - _ROWS + 1 - first
    total = total.at[:, at : at + spread].add(part)
  # Of distances from -limit on, as many as a panel is wide.
  width = panels.near.shape[2]
  before = -limit - first
  if before < 0:
    total, before = jnp.pad(total, ((0, 0), (-before, 0))), 0
  total = jnp.pad(total, ((0, 0), (0, max(0, before + width - total.shape[1]))))
  near = jnp.zeros_like(panels.near)
  near = near.at[:, 0].set(total[:, before : before + width])
  left, right = jnp.moveaxis(far.sum((0, 3)), 1, 0)
  return Panels(
    near,
    left + total[:, :before].sum(1),
    right + total[:, before + width :].sum(1),
  )


def bias_gradient(
  settings: Settings, inputs: Inputs, given: Given, queries: Queries
) -> jax.Array:
  """The gradient of the additive bias, in its shape and dtype."""
  bias = inputs.bias
  assert bias is not None
  kinds = _kinds(settings, inputs, given)
  # Sides that the bias has come first, those that are summed over after them.
  own = [x > 1 for x in (bias.shape[0], bias.shape[2], bias.shape[3])]
  order = [axis for axis in range(3) if own[axis]]
  outer = [kinds.shape[axis] for axis in order]
  order += [axis for axis in range(3) if not own[axis]]
  places = np.indices(kinds.shape).transpose(0, *(1 + x for x in order))
  places = places.reshape(3, int(np.prod(outer)), -1)
  kind = kinds.transpose(order).reshape(places.shape[1:])
  b, i, j = places
  tiles = _Tiles.of(kind, b, i, j, kinds.shape)
  by_heads = bias.shape[1] > 1
  sums = _sums(settings, inputs, given, queries, tiles, by_heads)

  # [N or 1, B or 1, I or 1, J or 1, 128, 64]
  full = [x if there else 1 for x, there in zip(kinds.shape, own, strict=True)]
  sums = sums.reshape(len(sums), *full, _ROWS, _COLUMNS)
  sums = sums.transpose(1, 0, 2, 4, 3, 5)
  if not own[1]:
    sums = sums.sum(3, keepdims=True)
  if not own[2]:
    sums = sums.sum(5, keepdims=True)
  sums = sums.reshape(*sums.shape[:2], full[1] * sums.shape[3], -1)
  # The last blocks may be longer than what was filled up, or shorter.
  more = [max(0, x - y) for x, y in zip(bias.shape, sums.shape, strict=True)]
  sums = jnp.pad(sums, [(0, x) for x in more])
  return sums[:, :, : bias.shape[2], : bias.shape[3]].astype(bias.dtype)


def _kinds(settings: Settings, inputs: Inputs, given: Given) -> jax.Array:
  """[B, I, J] int32: 0 for what is not seen, 1 for all, 2 for a part."""
  prefix = given.k_prefix
  mask = Mask(
    causal=settings.causal,
    window=settings.window,
    pattern=settings.pattern,
    q_segments=given.q_segments,
    k_segments=given.k_segments,
    k_prefix=None if prefix is None else prefix > 0,
    q_start=settings.q_start,
  )
  lengths = settings.q_length, settings.k_length
  pairs = schedule(mask, *lengths, _ROWS, _COLUMNS)
  rows, q_blocks, longest = pairs.other.shape
  there = np.arange(longest) < pairs.lengths[..., None]
  kinds = jnp.zeros((rows, q_blocks, -(-lengths[1] // _COLUMNS)), jnp.int32)
  b, i = np.arange(rows)[:, None, None], np.arange(q_blocks)[:, None]
  found = jnp.where(there, 1 + pairs.partial, 0)
  kinds = kinds.at[b, i, pairs.other].max(found)
  return jnp.broadcast_to(kinds, (len(inputs.q), *kinds.shape[1:]))


class _Tiles(NamedTuple):
  """The tiles of each place.

  Attributes:
    codes: [places, L] int32, those that are seen first: see `read`.
    counts: [places] int32, how many are.
    bits: of the numbers of query and key blocks, static.
  """

  codes: Any
  counts: Any
  bits: tuple[int, int]

  @classmethod
  def of(
    cls, kind: jax.Array, b: Any, i: Any, j: Any, shape: tuple[int, ...]
  ) -> "_Tiles":
    """From the kinds of tiles [places, ...], and where each stands."""
    bits = int(shape[1]).bit_length(), int(shape[2]).bit_length()
    place = (((b << bits[0]) | i) << bits[1]) | j
    codes = (jnp.asarray(place, jnp.int32) << 1) | (kind == 2)
    codes = jnp.broadcast_to(codes, kind.shape).reshape(len(kind), -1)
    there = (kind > 0).reshape(len(kind), -1)
    order = jnp.argsort(~there, axis=1, stable=True)
    codes = jnp.take_along_axis(codes, order, axis=1)
    return cls(codes.astype(jnp.int32), there.sum(1, dtype=jnp.int32), bits)

  def read(self, place: Any, step: Any) -> tuple[Any, Any, Any, Any]:
    """Row of the batch, blocks of queries and keys, and whether in part."""
    code = self.codes[place, step]
    rest = lax.shift_right_logical(code, 1)
    j = rest & ((1 << self.bits[1]) - 1)
    rest = lax.shift_right_logical(rest, self.bits[1])
    i = rest & ((1 << self.bits[0]) - 1)
    return lax.shift_right_logical(rest, self.bits[0]), i, j, code & 1


class _Buffers(NamedTuple):
  """Shared memory.

  Attributes:
    q: [stages, warpgroups, 64, H].
    dy: [stages, warpgroups, 64, V].
    rows: [stages, warpgroups, 2, 64] float32.
    k: [stages, 64, H].
    v: [stages, 64, V].
  """

  q: Any
  dy: Any
  rows: Any
  k: Any
  v: Any


class _Barriers(NamedTuple):
  """What warpgroups wait for.

  Attributes:
    queries: [stages, warpgroups], its queries are there.
    keys: [stages], keys and values are.
    free: [stages], all warpgroups have read them.
  """

  queries: Any
  keys: Any
  free: Any


def _sums(
  settings: Settings,
  inputs: Inputs,
  given: Given,
  queries: Queries,
  tiles: _Tiles,
  by_heads: bool,
) -> jax.Array:
  """The sums [N or 1, places, 128, 64] of the logits' gradients."""
  extras = Extras.of(settings, inputs, given, _COLUMNS)
  reach = 0 if inputs.panels is None else inputs.panels.reach
  operands, tree = jax.tree.flatten(extras)
  places, longest = tiles.codes.shape
  heads = inputs.q.shape[2] if by_heads else 1
  most = longest * (inputs.q.shape[2] // heads)
  splits = max(1, min(most, _ENOUGH // (heads * places)))
  dtype, width, v_width = inputs.q.dtype, inputs.q.shape[-1], inputs.v.shape[-1]
  stages = 2 if max(width, v_width) <= _MIDDLE else 1

  def body(*refs: Any) -> None:
    q, dy, rows, k, v, codes, counts, *rest = refs
    extra = jax.tree.unflatten(tree, rest[: len(operands)])
    output = rest[len(operands)]

    def scoped(buffers: tuple, barriers: tuple) -> None:
      _Program(
        Tile(settings, extra, _COLUMNS, 0, reach),
        Queries(q, dy, rows),
        (k, v),
        _Tiles(codes, counts, tiles.bits),
        _Buffers(*buffers),
        _Barriers(*barriers),
        stages,
        splits,
        by_heads,
      ).run(output)

    of_queries = stages, _WARPGROUPS, ROWS
    pl.run_scoped(
      scoped,
      (
        swizzled((*of_queries, width), dtype),
        swizzled((*of_queries, v_width), dtype),
        plgpu.SMEM((stages, _WARPGROUPS, 2, ROWS), jnp.float32),
        swizzled((stages, _COLUMNS, width), dtype),
        swizzled((stages, _COLUMNS, v_width), dtype),
      ),
      (
        plgpu.Barrier(num_arrivals=3, num_barriers=stages * _WARPGROUPS),
        plgpu.Barrier(num_arrivals=2, num_barriers=stages),
        plgpu.Barrier(num_arrivals=_WARPGROUPS, num_barriers=stages),
      ),
      collective_axes="wg",
    )

  body.__name__ = "attention_dbias"
  shape = heads, places, splits, _ROWS, _COLUMNS
  sums = plgpu.kernel(
    body,
    out_type=jax.ShapeDtypeStruct(shape, jnp.float32),
    grid=(heads, places, splits),
    grid_names=("head", "place", "split"),
    num_threads=_WARPGROUPS,
    thread_name="wg",
    compiler_params=plgpu.CompilerParams(approx_math=True),
  )(*queries, inputs.k, inputs.v, tiles.codes, tiles.counts, *operands)
  return sums.sum(2)


@dataclasses.dataclass(frozen=True)
class _Program:
  """What a block of threads does: a share of the tiles of one place.

  Attributes:
    tile: what its tiles have in common.
    queries: refs.
    keys: refs of k and v.
    tiles: refs.
    buffers: shared memory.
    barriers: there, too.
    stages: tiles in shared memory at a time.
    splits: shares of a place.
    by_heads: whether a place is of one head.
  """

  tile: Tile
  queries: Queries
  keys: tuple
  tiles: _Tiles
  buffers: _Buffers
  barriers: _Barriers
  stages: int
  splits: int
  by_heads: bool

  def run(self, output: Any) -> None:
    """All of it; stores [64, 64] a warpgroup."""
    head, place, split, wg = (
      lax.axis_index(name) for name in ("head", "place", "split", "wg")
    )
    count = self.tiles.counts[place]
    all_steps = count
    if not self.by_heads:
      all_steps = count * self.queries.q.shape[2]
    steps = lax.div(all_steps - split + (self.splits - 1), self.splits)

    def spot(i: Any) -> tuple[Spot, Any]:
      step = split + i * self.splits
      n = head
      if not self.by_heads:
        n, step = lax.div(step, count), lax.rem(step, count)
      b, q_block, k_block, partial = self.tiles.read(place, step)
      own = q_block * _ROWS + wg * ROWS
      return Spot(b, n, own, k_block * _COLUMNS), partial

    def fetch(i: Any) -> None:
      self._fetch(i, spot(i)[0], wg)

    for i in range(self.stages):
      pl.when(i < steps)(functools.partial(fetch, jnp.int32(i)))

    def step(i: jax.Array, total: jax.Array) -> jax.Array:
      def refill() -> None:
        plgpu.barrier_arrive(self.barriers.free.at[lax.rem(i, self.stages)])
        pl.when(i + self.stages < steps)(lambda: fetch(i + self.stages))

      return total + self._gradient(i, *spot(i), wg, refill)

    layout = plgpu.Layout.WGMMA
    zeros = jnp.zeros(self.tile.shape, jnp.float32)
    total = lax.fori_loop(0, steps, step, plgpu.layout_cast(zeros, layout))
    rows = pl.ds(wg * ROWS, ROWS)
    compat.store_global(output.at[head, place, split, rows], total)

  def _last(self, own: Any) -> Any:
    """Beyond the end the last rows are read, for nobody."""
    return jnp.minimum(own, self.queries.q.shape[1] - ROWS)

  def _fetch(self, i: Any, spot: Spot, wg: Any) -> None:
    slot = lax.rem(i, self.stages)

    @pl.when(i >= self.stages)
    def _() -> None:
      plgpu.barrier_wait(self.barriers.free.at[slot])

    first = self._last(spot.q_first)
    full = self.barriers.queries.at[slot * _WARPGROUPS + wg]
    rows = pl.ds(first, ROWS)
    for source, buffer in (
      (self.queries.q.at[spot.b, rows, spot.n], self.buffers.q),
      (self.queries.dy.at[spot.b, rows, spot.n], self.buffers.dy),
      (self.queries.rows.at[spot.b, spot.n, :, rows], self.buffers.rows),
    ):
      plgpu.copy_gmem_to_smem(source, buffer.at[slot, wg], full)

    @pl.when(wg == 0)
    def _keys() -> None:
      group = self.queries.q.shape[2] // self.keys[0].shape[2]
      head, full = lax.div(spot.n, group), self.barriers.keys.at[slot]
      for ref, buffer in zip(self.keys, self.buffers[3:], strict=True):
        source = ref.at[spot.b, pl.ds(spot.k_first, _COLUMNS), head]
        plgpu.copy_gmem_to_smem(source, buffer.at[slot], full)

  def _gradient(
    self, i: Any, spot: Spot, partial: Any, wg: Any, refill: Any
  ) -> jax.Array:
    """The logits' gradient of a tile."""
    settings, buffers, shape = self.tile.settings, self.buffers, self.tile.shape
    slot = lax.rem(i, self.stages)
    plgpu.barrier_wait(self.barriers.queries.at[slot * _WARPGROUPS + wg])
    plgpu.barrier_wait(self.barriers.keys.at[slot])

    def spread(x: jax.Array) -> jax.Array:
      return lax.broadcast_in_dim(x, shape, [0])

    first = self._last(spot.q_first)
    # Rows that are not there have the weights exp2(-inf).
    nothing = jnp.where(first == spot.q_first, 0.0, jnp.inf)

    def scoped(s_acc: Any, dp_acc: Any) -> jax.Array:
      plgpu.wgmma(
        s_acc, buffers.q.at[slot, wg], buffers.k.at[slot].transpose((1, 0))
      )
      plgpu.wgmma(
        dp_acc, buffers.dy.at[slot, wg], buffers.v.at[slot].transpose((1, 0))
      )
      rows = buffers.rows.at[slot, wg]
      level = compat.gpu_load(rows.at[0], along(0))
      delta = compat.gpu_load(rows.at[1], along(0))
      products, dp = s_acc[...], dp_acc[...]
      refill()
      at = spot._replace(q_first=first)
      logits = self.tile.logits(at, partial > 0, products)
      level = level - logits.shift + nothing
      p = jnp.exp2(logits.x * settings.factor - spread(level))
      if settings.rate:
        scaled = dp * (1.0 / (1.0 - settings.rate))
        dp = jnp.where(self.tile.keep(at), scaled, 0.0)
      return p * (dp - spread(delta))

    return pl.run_scoped(scoped, plgpu.ACC(shape), plgpu.ACC(shape))
