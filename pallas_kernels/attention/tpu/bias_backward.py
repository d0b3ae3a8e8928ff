"""Gradient of attention's additive bias on a TPU, in memory of its own size.

A block of the bias stays in VMEM while the rows, heads and queries that share
it go by; the logits' gradient is computed again for it.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.attention.schedule import Schedule
from pallas_kernels.attention.tpu import backward_tile
from pallas_kernels.attention.tpu.backward_tile import product
from pallas_kernels.attention.tpu.blocks import extras
from pallas_kernels.attention.tpu.inputs import ROWS, Given, Inputs, Settings
from pallas_kernels.attention.tpu.tile import Refs, Tile

# Keys whose logits are held at once.
_PART = 256
_SEMANTICS: Any = ("parallel",) * 4 + ("arbitrary",) * 4


class _Plan(NamedTuple):
  """What the kernel knows besides Settings.

  Attributes:
    shared: which of rows, heads, blocks of keys and of queries share a bias.
    heads: N.
    rows: 1 or B, of the kinds of pairs.
    pairs: J and I.
    masked: whether any block may be partial.
    names: of the Refs that are there.
  """

  shared: tuple[bool, ...]
  heads: int
  rows: int
  pairs: tuple[int, int]
  masked: bool
  names: tuple[str, ...]


def bias_gradient(
  settings: Settings,
  inputs: Inputs,
  given: Given,
  rows: jax.Array,
  dy: jax.Array,
  dlse: jax.Array,
) -> jax.Array:
  """[1|B 1|N 1|S 1|T] float32.

  Args:
    settings: static ones.
    inputs: of whole blocks, with a bias.
    given: what has no gradient.
    rows: of `backward_tile.rows`.
    dy: gradient of the output [B N V T].
    dlse: of the log-sum-exp [B N T], 0 for queries that see nothing.
  """
  assert inputs.bias is not None
  sides = inputs.bias.shape
  if sides[2] > 1:
    return _by_kernel(settings, inputs, given, rows, dy)
  # What is the same for all keys changes no weight: the log-sum-exp is moved.
  axes = tuple(x for x in (0, 1, 3) if sides[x] == 1)
  return jnp.sum(dlse[:, :, None], axis=axes, keepdims=True)


def _kinds(schedule: Schedule, blocks: int) -> jax.Array:
  """What is seen of pairs [1|B J I]: 0 nothing, 1 something, 2 everything."""
  other, partial, lengths = schedule
  there = jnp.arange(other.shape[2]) < lengths[..., None]
  kind = jnp.where(there, 2 - partial, 0)
  is_it = other[..., None] == jnp.arange(blocks)
  return jnp.max(jnp.where(is_it, kind[..., None], 0), axis=2)


def _by_kernel(
  settings: Settings,
  inputs: Inputs,
  given: Given,
  rows: jax.Array,
  dy: jax.Array,
) -> jax.Array:
  q, k, v, bias, _ = inputs
  assert bias is not None
  size, heads, q_width, q_length = q.shape
  kv_heads, v_width, k_length = v.shape[1:]
  group, t, s = heads // kv_heads, settings.q_block, settings.k_block
  pairs = k_length // s, q_length // t
  kinds = _kinds(given.by_keys, pairs[1])
  whole = size, heads, *pairs
  shared = tuple(side == 1 for side in bias.shape)
  # First the axes of the bias, then those that share one.
  outer = [1 if x else y for x, y in zip(shared, whole, strict=True)]
  inner = [y if x else 1 for x, y in zip(shared, whole, strict=True)]
  grid = (*outer, *inner)

  def place(*grid: Any) -> tuple[Any, Any, Any, Any]:
    b, n, j, i = _indices(shared, grid[:8])
    return b, n, i, j

  def queries(*grid: Any) -> tuple[Any, ...]:
    b, n, i, _ = place(*grid)
    return b, n, 0, i

  def keys(*grid: Any) -> tuple[Any, ...]:
    b, n, _, j = place(*grid)
    return b, n // group, 0, j

  more = extras(settings, inputs, given, place)
  plan = _Plan(
    shared, heads, len(kinds), pairs, given.masked(settings), tuple(more)
  )
  # What all queries share is written as a row.
  row = shared[3]
  shape = (*bias.shape[:2], 1, k_length) if row else bias.shape
  block = (1, 1, 1, s) if row else (1, 1, s, t)

  def out(b: Any, n: Any, j: Any, i: Any, *_: Any) -> tuple[Any, ...]:
    return (b, n, 0, j) if row else (b, n, j, i)

  found = pl.pallas_call(
    functools.partial(_kernel, settings, plan),
    name="attention_bias_backward",
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=1,
      grid=grid,
      in_specs=[
        pl.BlockSpec((1, 1, q_width, t), queries),
        pl.BlockSpec((1, 1, q_width, s), keys),
        pl.BlockSpec((1, 1, v_width, s), keys),
        pl.BlockSpec((1, 1, v_width, t), queries),
        pl.BlockSpec((1, 1, 2, t), queries),
        *(spec for _, spec in more.values()),
      ],
      out_specs=pl.BlockSpec(block, out),
      scratch_shapes=[pltpu.VMEM((s, ROWS if row else t), jnp.float32)],
    ),
    out_shape=jax.ShapeDtypeStruct(shape, jnp.float32),
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=_SEMANTICS,
      vmem_limit_bytes=settings.vmem,
    ),
    cost_estimate=_cost(settings, inputs, math.prod(grid)),
    interpret=settings.interpret,
  )(
    kinds.reshape(-1),
    *(q, k, v, dy, rows),
    *(array for array, _ in more.values()),
  )
  return jnp.swapaxes(found, 2, 3) if row else found


def _cost(settings: Settings, inputs: Inputs, steps: int) -> pl.CostEstimate:
  """Of all pairs of blocks."""
  pairs = steps * settings.q_block * settings.k_block
  width = inputs.k.shape[2] + inputs.v.shape[2]
  lengths = settings.q_block + settings.k_block
  assert inputs.bias is not None
  return pl.CostEstimate(
    flops=2 * pairs * width,
    transcendentals=pairs,
    bytes_accessed=steps * lengths * width * inputs.q.dtype.itemsize
    + 4 * inputs.bias.size,
  )


def _indices(
  shared: tuple[bool, ...], grid: tuple[Any, ...]
) -> tuple[Any, ...]:
  """Row, head, block of keys and block of queries of a step."""
  return tuple(
    grid[4 + axis] if is_shared else grid[axis]
    for axis, is_shared in enumerate(shared)
  )


def _kernel(settings: Settings, plan: _Plan, kinds: Any, *refs: Any) -> None:
  q, k, v, dy, row, *more, out, total = refs
  grid = tuple(pl.program_id(axis) for axis in range(8))
  b, n, j, i = _indices(plan.shared, grid)
  begin: Any = True
  end: Any = True
  for axis in range(4, 8):
    begin &= grid[axis] == 0
    end &= grid[axis] == pl.num_programs(axis) - 1

  @pl.when(begin)
  def _() -> None:
    total[...] = jnp.zeros_like(total)

  given = Refs(**dict(zip(plan.names, more, strict=True)))
  first = b * plan.pairs[0] if plan.rows > 1 else 0
  kind = kinds[(first + j) * plan.pairs[1] + i]

  def add(tile: Tile, masked: bool, near: bool) -> None:
    columns = pl.ds(tile.t, tile.queries)
    queries, dqueries = q[0, 0, :, columns], dy[0, 0, :, columns]
    size = backward_tile.divisor(tile.keys, _PART)
    for first in range(0, tile.keys, size):
      part = tile._replace(s=tile.s + first, keys=size)
      here = pl.ds(part.s, size)
      dlogits = backward_tile.gradient(
        settings,
        given,
        part,
        product(k[0, 0, :, here], queries, (0, 0)),
        product(v[0, 0, :, here], dqueries, (0, 0)),
        row[0, 0, :, columns],
        masked=masked,
        near=near,
      ).dlogits
      if plan.shared[3]:
        pieces = range(0, tile.queries, ROWS)
        total[here, :] += sum(dlogits[:, x : x + ROWS] for x in pieces)
      else:
        total[here, columns] += dlogits

  @pl.when(kind > 0)
  def _() -> None:
    block = Tile(
      b * plan.heads + n, i, j, 0, 0, settings.q_block, settings.k_block
    )
    partial = kind == 1 if plan.masked else None
    backward_tile.over_tiles(settings, given, block, partial, add)

  @pl.when(end)
  def _() -> None:
    found = total[...]
    if plan.shared[3]:
      found = jnp.sum(found.T, axis=0, keepdims=True)
    out[0, 0] = found
