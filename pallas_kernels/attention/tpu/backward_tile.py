"""What the kernels of the backward pass have in common."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from pallas_kernels.attention.tpu import tile as tiles
from pallas_kernels.attention.tpu.inputs import ROWS, Settings, precision
from pallas_kernels.attention.tpu.tile import LOG2E, Refs, Tile

# A tile of these is one turn of a kernel's loop: a greater one makes the kernel
# long, a smaller one leaves gaps between turns.
_QUERIES = 512
_KEYS = 512


class Gradient(NamedTuple):
  """Of a tile's logits [s t], float32.

  Attributes:
    weights: what is left of them by dropout, not yet divided by 1 - rate.
    dlogits: gradient of the logits, after soft cap and biases.
    slope: the logits' derivative by the products.
  """

  weights: jax.Array
  dlogits: jax.Array
  slope: Any


def rows(
  y: jax.Array, lse: jax.Array, dy: jax.Array, dlse: jax.Array
) -> jax.Array:
  """Per query the log-sum-exp to base 2 and dlse - <dy, y>: [B N 2 T] float32.

  Both are 0 for queries that see nothing, whose log-sum-exp is -inf.
  """
  blind = lse == -jnp.inf
  product = dy.astype(jnp.float32) * y.astype(jnp.float32)
  offset = dlse - jnp.sum(product, axis=2)
  stacked = jnp.stack([lse * LOG2E, offset], axis=2)
  return jnp.where(blind[:, :, None], 0.0, stacked)


def gradient(
  settings: Settings,
  refs: Refs,
  tile: Tile,
  products: jax.Array,
  dweights: jax.Array,
  row: jax.Array,
  *,
  masked: bool,
  near: bool,
) -> Gradient:
  """The gradient of a tile's logits.

  Args:
    settings: static ones.
    refs: the blocks at hand.
    tile: of `refs`.
    products: k q' [s t] float32.
    dweights: v dy' [s t] float32.
    row: [2 t] of `rows`.
    masked: as of `tile.exponents`.
    near: likewise.
  """
  level, offset = row[:1], row[1:]
  x, far, slope = tiles.exponents(
    settings, refs, tile, products, masked=masked, near=near
  )
  weights = jnp.exp2(x - (level if far is None else level - far))
  used = weights
  if settings.rate:
    kept = tiles.keep(settings, refs, tile)
    used = jnp.where(kept, weights, 0.0)
    dweights = jnp.where(kept, dweights / (1 - settings.rate), 0.0)
  return Gradient(used, weights * (dweights + offset), slope)


def over_tiles(
  settings: Settings,
  refs: Refs,
  block: Tile,
  partial: jax.Array | None,
  act: Callable[..., None],
) -> None:
  """Calls act(tile, masked=, near=) for tiles of a pair of blocks.

  Args:
    settings: static ones.
    refs: the blocks at hand.
    block: all of them.
    partial: whether some of it is hidden; None for never.
    act: adds what a tile gives to the gradients.
  """
  queries = divisor(block.queries, _QUERIES)
  keys = divisor(block.keys, _KEYS)
  across = block.queries // queries
  turns = across * (block.keys // keys)

  def turn(x: Any, nothing: Any) -> Any:
    tile = block._replace(
      t=pl.multiple_of(jax.lax.rem(x, across) * queries, ROWS),
      s=pl.multiple_of(jax.lax.div(x, across) * keys, ROWS),
      queries=queries,
      keys=keys,
    )
    for masked in (False,) if partial is None else (False, True):
      here = [] if partial is None else [partial == masked]
      if refs.panels is None:
        _when(here)(functools.partial(act, tile, masked=masked, near=False))
        continue
      is_near = tiles.is_near(settings, refs, tile)
      for near in (False, True):
        _when([*here, is_near == near])(
          functools.partial(act, tile, masked=masked, near=near)
        )
    return nothing

  if turns == 1:
    turn(0, 0)
  else:
    jax.lax.fori_loop(0, turns, turn, 0)


def divisor(size: int, most: int) -> int:
  """The greatest of a size in blocks of ROWS that is no greater than `most`."""
  return next(x for x in range(most, 0, -ROWS) if size % x == 0)


def product(x: jax.Array, y: jax.Array, axes: tuple[int, int]) -> jax.Array:
  """Contracts an axis of x with one of y, in float32."""
  return jax.lax.dot_general(
    x,
    y,
    (((axes[0],), (axes[1],)), ((), ())),
    precision=precision(x),
    preferred_element_type=jnp.float32,
  )


def _when(conditions: list[jax.Array]) -> Callable[..., Any]:
  if not conditions:
    return lambda run: run()
  return pl.when(functools.reduce(jnp.logical_and, conditions))
