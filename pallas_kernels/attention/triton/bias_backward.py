"""Gradients by biases, each number by one program that stays with it.

A program computes the logits' gradient of all tiles that its numbers are added
to, and sums them in registers: no atomics, the same result each time, and
memory of the bias's own size.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from pallas_kernels.attention.triton.backward import Outputs, dlogits
from pallas_kernels.attention.triton.tile import Inputs, Settings, Tile, divided

# Rows of a batch that are summed side by side, by the panel's gradient.
_SPLITS = 8


def by_bias(settings: Settings, inputs: Inputs, outputs: Outputs) -> jax.Array:
  """Gradient by the bias: its shape, in float32.

  It goes over all tiles, those that the mask hides too.
  """
  assert inputs.bias is not None
  sizes = inputs.bias.shape
  blocks = settings.blocks
  tiles = _tiles(settings, inputs)
  own = tuple(
    n if size > 1 else 1 for n, size in zip(tiles, sizes, strict=True)
  )
  grid = own[0] * own[1], own[2], own[3]
  return pl.pallas_call(
    functools.partial(_by_bias, settings),
    grid=grid,
    out_shape=jax.ShapeDtypeStruct(sizes, jnp.float32),
    compiler_params=plgpu.CompilerParams(
      num_warps=blocks.more_warps, num_stages=blocks.stages
    ),
    interpret=settings.interpret,
    name="attention_by_bias",
  )(inputs, outputs)


def _tiles(settings: Settings, inputs: Inputs) -> tuple[int, ...]:
  """B, N, blocks of queries, blocks of keys."""
  size, q_length, heads, _ = inputs.q.shape
  blocks = settings.blocks
  return (
    size,
    heads,
    q_length // blocks.queries,
    inputs.k.shape[1] // blocks.keys,
  )


def _by_bias(
  settings: Settings, inputs: Inputs, outputs: Outputs, dbias_ref: Any
) -> None:
  assert inputs.bias is not None
  sizes = inputs.bias.shape
  tiles = _tiles(settings, inputs)
  own = [size > 1 for size in sizes]
  # What the bias does not tell apart is summed over.
  others = [1 if mine else n for mine, n in zip(own, tiles, strict=True)]
  mine = *divided(pl.program_id(0), sizes[1]), *map(pl.program_id, (1, 2))

  def step(place: jax.Array, total: jax.Array) -> jax.Array:
    at: list[Any] = list(mine)
    for axis in reversed(range(4)):
      if not own[axis]:
        place, at[axis] = divided(place, others[axis])
    return total + _gradient(Tile(settings, inputs, *at), outputs)

  shape = settings.blocks.queries, settings.blocks.keys
  total = jax.lax.fori_loop(
    0, math.prod(others), step, jnp.zeros(shape, jnp.float32)
  )
  slices = (
    pl.ds(mine[2] * shape[0], shape[0]) if own[2] else 0,
    pl.ds(mine[3] * shape[1], shape[1]) if own[3] else 0,
  )
  if not own[3]:
    total = jnp.sum(total, axis=1)
  if not own[2]:
    total = jnp.sum(total, axis=0)
  dbias_ref[mine[0], mine[1], slices[0], slices[1]] = total


def _gradient(tile: Tile, outputs: Outputs) -> jax.Array:
  inputs = tile.inputs
  return dlogits(
    tile,
    outputs,
    tile.q_rows(inputs.q),
    tile.k_rows(inputs.k),
    tile.k_rows(inputs.v),
    tile.q_rows(outputs.dy),
  )[1]


def by_panel(settings: Settings, inputs: Inputs, outputs: Outputs) -> jax.Array:
  """Gradient [N R C] by a relative bias near the diagonal, in float32.

  A program has a piece as wide as a block of keys, and goes along the tiles of
  its distance.
  """
  assert inputs.near is not None
  heads, rows, columns = inputs.near.shape
  blocks = settings.blocks
  splits = math.gcd(inputs.q.shape[0], _SPLITS)
  total = pl.pallas_call(
    functools.partial(_by_panel, settings),
    grid=(splits, heads, columns // blocks.keys),
    out_shape=jax.ShapeDtypeStruct((splits, heads, rows, columns), jnp.float32),
    compiler_params=plgpu.CompilerParams(
      num_warps=blocks.more_warps, num_stages=blocks.stages
    ),
    interpret=settings.interpret,
    name="attention_by_panel",
  )(inputs, outputs)
  return jnp.sum(total, axis=0)


def _by_panel(
  settings: Settings, inputs: Inputs, outputs: Outputs, dnear_ref: Any
) -> None:
  split, head, piece = (pl.program_id(axis) for axis in range(3))
  splits, _, rows, columns = dnear_ref.shape
  keys = settings.blocks.keys
  size, _, q_blocks, k_blocks = _tiles(settings, inputs)
  each = rows // keys
  # The block of keys that the first block of queries meets, from block 0 on.
  first = piece + (settings.q_start - (columns - rows) // 2) // keys
  # Blocks of queries for which there is a block of keys at that distance.
  begin = divided(jnp.maximum(each - 1 - first, 0), each)[0]
  end = divided(jnp.maximum(k_blocks + each - 1 - first, 0), each)[0]
  end = jnp.clip(end, begin, q_blocks)
  if settings.causal and inputs.k_prefix is None:
    distance = piece * keys - (columns - rows) // 2
    end = jnp.where(distance < rows, end, begin)

  def one_row(place: jax.Array, total: jax.Array) -> jax.Array:
    def step(i: jax.Array, total: jax.Array) -> jax.Array:
      row = place * splits + split
      tile = Tile(settings, inputs, row, head, i, i * each + first)
      return total + _gradient(tile, outputs)

    return jax.lax.fori_loop(begin, end, step, total)

  total = jax.lax.fori_loop(
    0, size // splits, one_row, jnp.zeros((rows, keys), jnp.float32)
  )
  dnear_ref[split, head, :, pl.ds(piece * keys, keys)] = total
