"""The blocks that a step reads beside q, k and v."""

from collections.abc import Callable
from typing import Any

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.attention.tpu.inputs import Given, Inputs, Settings
from pallas_kernels.attention.tpu.tile import LOG2E

# From a grid's indices and the scalars before them: row b, query head n, block
# of queries i and block of keys j.
Place = Callable[..., tuple[Any, Any, Any, Any]]


def extras(
  settings: Settings, inputs: Inputs, given: Given, place: Place
) -> dict[str, tuple[jax.Array, pl.BlockSpec]]:
  """Arrays and their blocks by the names of `tile.Refs`, in its order."""
  s, t = settings.k_block, settings.q_block
  found: dict[str, tuple[jax.Array, pl.BlockSpec]] = {}
  if inputs.bias is not None:
    found["bias"] = inputs.bias, _bias(inputs.bias, s, t, place)
  if inputs.panels is not None:

    def panel(*grid: Any) -> tuple[Any, ...]:
      return place(*grid)[1], 0, 0

    block = (1, *inputs.panels.shape[1:])
    found["panels"] = inputs.panels * LOG2E, pl.BlockSpec(block, panel)

  def queries(*grid: Any) -> tuple[Any, ...]:
    b, _, i, _ = place(*grid)
    return b, 0, i

  def keys(*grid: Any) -> tuple[Any, ...]:
    b, _, _, j = place(*grid)
    return b, 0, j

  if given.q_segments is not None and given.k_segments is not None:
    found["q_segments"] = given.q_segments, pl.BlockSpec((1, 1, t), queries)
    found["k_segments"] = given.k_segments, pl.BlockSpec((1, 1, s), keys)
  if given.k_prefix is not None:
    found["k_prefix"] = given.k_prefix, pl.BlockSpec((1, 1, s), keys)
  if given.table is not None:

    def table(*grid: Any) -> tuple[Any, ...]:
      return 0, place(*grid)[2]

    found["table"] = (
      given.table,
      pl.BlockSpec((given.table.shape[0], t), table),
    )
  if given.seeds is not None:
    found["seeds"] = given.seeds, pl.BlockSpec(memory_space=pltpu.SMEM)
  return found


def _bias(bias: jax.Array, s: int, t: int, place: Place) -> pl.BlockSpec:
  """A side of size 1 is the same for all blocks."""
  sides = bias.shape

  def index(*grid: Any) -> tuple[Any, ...]:
    b, n, i, j = place(*grid)
    at = (b, n, j, i)
    return tuple(
      x if side > 1 else 0 for x, side in zip(at, sides, strict=True)
    )

  block = (1, 1, min(sides[2], s), min(sides[3], t))
  return pl.BlockSpec(block, index)
