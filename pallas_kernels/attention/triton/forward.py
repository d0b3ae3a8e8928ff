"""Attention's output: a program for each block of queries of a head.

The softmax runs on with each block of keys (Milakov and Gimelshein 2018; Dao
et al. 2022, https://arxiv.org/abs/2205.14135), in base 2.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from pallas_kernels.attention.schedule import Schedule
from pallas_kernels.attention.triton.tile import (
  LOG2_E,
  Inputs,
  Settings,
  Tile,
  product,
)


def forward(
  settings: Settings, inputs: Inputs, schedule: Schedule
) -> tuple[jax.Array, jax.Array]:
  """Output [B T N V] in the dtype of q, and log-sum-exp [B N T] in float32.

  Args:
    settings: what is static.
    inputs: filled up to whole blocks.
    schedule: blocks of keys of each block of queries.
  """
  size, length, heads, _ = inputs.q.shape
  blocks = settings.blocks
  return pl.pallas_call(
    functools.partial(_kernel, settings),
    grid=(size, heads, length // blocks.queries),
    out_shape=(
      jax.ShapeDtypeStruct(
        (size, length, heads, inputs.v.shape[-1]), inputs.q.dtype
      ),
      jax.ShapeDtypeStruct((size, heads, length), jnp.float32),
    ),
    compiler_params=plgpu.CompilerParams(
      num_warps=blocks.warps, num_stages=blocks.stages
    ),
    interpret=settings.interpret,
    name="attention_forward",
  )(inputs, schedule)


def _kernel(
  settings: Settings,
  inputs: Inputs,
  schedule: Schedule,
  y_ref: Any,
  lse_ref: Any,
) -> None:
  row, head, i = (pl.program_id(axis) for axis in range(3))
  rows = settings.blocks.queries
  here = row, pl.ds(i * rows, rows), head, slice(None)
  q = inputs.q[here]

  def step(place: jax.Array, state: tuple) -> tuple:
    before, total, y = state
    j = met(schedule, row, i, place)
    tile = Tile(settings, inputs, row, head, i, j)
    logits, _ = tile.logits(q, tile.k_rows(inputs.k))
    top = jnp.maximum(before, jnp.max(logits, axis=1))
    weights = jnp.exp2(logits - top[:, None])
    fade = jnp.exp2(before - top)
    total = fade * total + jnp.sum(weights, axis=1)
    v = tile.k_rows(inputs.v)
    weights = tile.drop(weights).astype(v.dtype)
    return top, total, fade[:, None] * y + product(weights, v, 1, 0)

  start = (
    # Finite, because -inf less -inf would be no number.
    jnp.full((rows,), jnp.finfo(jnp.float32).min, jnp.float32),
    jnp.zeros((rows,), jnp.float32),
    jnp.zeros((rows, inputs.v.shape[-1]), jnp.float32),
  )
  top, total, y = jax.lax.fori_loop(0, count(schedule, row, i), step, start)
  # The greatest adds 1, if there is one.
  y = y / jnp.maximum(total, 1.0)[:, None]
  y_ref[here] = y.astype(y_ref.dtype)
  lse_ref[row, head, pl.ds(i * rows, rows)] = top / LOG2_E + jnp.log(total)


def count(schedule: Schedule, row: jax.Array, block: jax.Array) -> jax.Array:
  """How many blocks a block meets."""
  return schedule.lengths[_of_row(schedule, row), block]


def met(
  schedule: Schedule, row: jax.Array, block: jax.Array, place: jax.Array
) -> jax.Array:
  """The one at a place of the list."""
  return schedule.other[_of_row(schedule, row), block, place]


def _of_row(schedule: Schedule, row: jax.Array) -> jax.Array | int:
  return row if schedule.other.shape[0] > 1 else 0
