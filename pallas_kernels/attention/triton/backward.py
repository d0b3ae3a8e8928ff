"""Attention's gradients by q, k and v, without atomics.

The weights of a tile are computed again from the log-sum-exp (Dao et al. 2022).
With weights w and dw = dy v', logits have the gradient w (dw - <dy, y> + dlse).
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from pallas_kernels.attention.schedule import Schedule
from pallas_kernels.attention.triton.forward import count, met
from pallas_kernels.attention.triton.tile import (
  Inputs,
  Settings,
  Tile,
  divided,
  product,
)


class Outputs(NamedTuple):
  """What is known of the output.

  Attributes:
    dy: [B T N V].
    level: [B N T] float32, the log-sum-exp times log2(e), inf for a query that
      sees nothing, so that it has no weights.
    offset: [B N T] float32, dlse - <dy, y>.
  """

  dy: jax.Array
  level: jax.Array
  offset: jax.Array


def dlogits(
  tile: Tile,
  outputs: Outputs,
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  dy: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Weights after dropout, gradient by the logits, by the products / scale."""
  logits, slope = tile.logits(q, k)
  weights = jnp.exp2(logits - tile.q_numbers(outputs.level))
  dweights = product(v, dy, 1, 1) if tile.keys_first else product(dy, v, 1, 1)
  change = tile.drop(dweights) + tile.q_numbers(outputs.offset)
  gradient = weights * change
  return tile.drop(weights), gradient, gradient * slope


def by_queries(
  settings: Settings, inputs: Inputs, outputs: Outputs, schedule: Schedule
) -> tuple[jax.Array, jax.Array | None]:
  """Gradient by q, and by the relative bias where it is far.

  Args:
    settings: what is static.
    inputs: as of `forward`.
    outputs: what is known of the output.
    schedule: blocks of keys of each block of queries.

  Returns:
    [B T N H] in the dtype of q, and [B N 2 T] float32, each query's part of
    the gradient of the bias far to its left and to its right.
  """
  size, length, heads, _ = inputs.q.shape
  blocks = settings.blocks
  sides = None
  if inputs.sides is not None:
    sides = jax.ShapeDtypeStruct((size, heads, 2, length), jnp.float32)
  dq, dsides = pl.pallas_call(
    functools.partial(_by_queries, settings),
    grid=(size, heads, length // blocks.queries),
    out_shape=(jax.ShapeDtypeStruct(inputs.q.shape, inputs.q.dtype), sides),
    compiler_params=plgpu.CompilerParams(
      num_warps=blocks.warps, num_stages=blocks.stages
    ),
    interpret=settings.interpret,
    name="attention_by_queries",
  )(inputs, outputs, schedule)
  return dq, dsides


def _by_queries(
  settings: Settings,
  inputs: Inputs,
  outputs: Outputs,
  schedule: Schedule,
  dq_ref: Any,
  dsides_ref: Any,
) -> None:
  row, head, i = (pl.program_id(axis) for axis in range(3))
  rows = settings.blocks.queries
  here = row, pl.ds(i * rows, rows), head, slice(None)
  q, dy = inputs.q[here], outputs.dy[here]
  no_sides = jnp.zeros((rows,), jnp.float32)

  def step(place: jax.Array, state: tuple) -> tuple:
    dq, left, right = state
    j = met(schedule, row, i, place)
    tile = Tile(settings, inputs, row, head, i, j)
    k, v = tile.k_rows(inputs.k), tile.k_rows(inputs.v)
    _, gradient, dproducts = dlogits(tile, outputs, q, k, v, dy)
    if dsides_ref is not None:
      total = jnp.sum(gradient, axis=1)
      left = left + jnp.where(tile.is_left(), total, no_sides)
      right = right + jnp.where(tile.is_right(), total, no_sides)
    return dq + product(dproducts.astype(k.dtype), k, 1, 0), left, right

  dq = jnp.zeros((rows, inputs.q.shape[-1]), jnp.float32)
  dq, left, right = jax.lax.fori_loop(
    0, count(schedule, row, i), step, (dq, no_sides, no_sides)
  )
  dq_ref[here] = (dq * settings.scale).astype(dq_ref.dtype)
  if dsides_ref is not None:
    dsides_ref[row, head, 0, pl.ds(i * rows, rows)] = left
    dsides_ref[row, head, 1, pl.ds(i * rows, rows)] = right


def by_keys(
  settings: Settings, inputs: Inputs, outputs: Outputs, schedule: Schedule
) -> tuple[jax.Array, jax.Array]:
  """Gradients by k and v, of all query heads that share them.

  Args:
    settings: what is static.
    inputs: as of `forward`.
    outputs: what is known of the output.
    schedule: blocks of queries of each block of keys.

  Returns:
    [B S K H] and [B S K V] in the dtypes of k and v.
  """
  size, length, heads, _ = inputs.k.shape
  blocks = settings.blocks
  return pl.pallas_call(
    functools.partial(_by_keys, settings),
    grid=(size, heads, length // blocks.keys),
    out_shape=(
      jax.ShapeDtypeStruct(inputs.k.shape, inputs.k.dtype),
      jax.ShapeDtypeStruct(inputs.v.shape, inputs.v.dtype),
    ),
    compiler_params=plgpu.CompilerParams(
      num_warps=blocks.more_warps, num_stages=blocks.stages
    ),
    interpret=settings.interpret,
    name="attention_by_keys",
  )(inputs, outputs, schedule)


def _by_keys(
  settings: Settings,
  inputs: Inputs,
  outputs: Outputs,
  schedule: Schedule,
  dk_ref: Any,
  dv_ref: Any,
) -> None:
  row, kv_head, j = (pl.program_id(axis) for axis in range(3))
  rows = settings.blocks.keys
  here = row, pl.ds(j * rows, rows), kv_head, slice(None)
  k, v = inputs.k[here], inputs.v[here]
  blocks = count(schedule, row, j)

  def step(place: jax.Array, state: tuple) -> tuple:
    dk, dv = state
    head = kv_head
    if settings.groups > 1:
      member, place = divided(place, blocks)
      head = kv_head * settings.groups + member
    i = met(schedule, row, j, place)
    tile = Tile(settings, inputs, row, head, i, j, keys_first=True)
    q, dy = tile.q_rows(inputs.q), tile.q_rows(outputs.dy)
    weights, _, dproducts = dlogits(tile, outputs, q, k, v, dy)
    dv = dv + product(weights.astype(dy.dtype), dy, 1, 0)
    return dk + product(dproducts.astype(q.dtype), q, 1, 0), dv

  start = (
    jnp.zeros((rows, inputs.k.shape[-1]), jnp.float32),
    jnp.zeros((rows, inputs.v.shape[-1]), jnp.float32),
  )
  dk, dv = jax.lax.fori_loop(0, blocks * settings.groups, step, start)
  dk_ref[here] = (dk * settings.scale).astype(dk_ref.dtype)
  dv_ref[here] = dv.astype(dv_ref.dtype)
