"""Logits and dropout of one tile, keys down and queries across.

Exponents are to base 2: a device's own exponential is that.  Both passes call
the same functions, so that they find the same weights.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from pallas_kernels.attention.dropout import mix
from pallas_kernels.attention.patterns import Pattern
from pallas_kernels.attention.tiles import Window
from pallas_kernels.attention.tpu.inputs import ROWS, Settings, reach

LOG2E = math.log2(math.e)
# Dropout compares the upper 24 bits.
_UNUSED_BITS = 8


class Refs(NamedTuple):
  """What a kernel reads beside q, k and v: the blocks at hand, or None.

  Attributes:
    bias: [1, 1, 1|k_block, 1|q_block].
    panels: [1, (2 w + 3) R, R], times LOG2E.
    q_segments: [1, 1, q_block].
    k_segments: [1, 1, k_block].
    k_prefix: [1, 1, k_block].
    table: [P, q_block].
    seeds: [2 B N] int32, in scalar memory.
  """

  bias: Any = None
  panels: Any = None
  q_segments: Any = None
  k_segments: Any = None
  k_prefix: Any = None
  table: Any = None
  seeds: Any = None


class Tile(NamedTuple):
  """A rectangle of keys and queries within a pair of blocks.

  Attributes:
    head: b N + n.
    i: block of queries.
    j: block of keys.
    t: its first query within block i.
    s: its first key within block j.
    queries: how many, a multiple of ROWS.
    keys: likewise.
  """

  head: jax.Array
  i: jax.Array
  j: jax.Array
  t: Any
  s: Any
  queries: int
  keys: int

  def first_query(self, settings: Settings) -> jax.Array:
    """Index among the queries."""
    return self.i * settings.q_block + self.t

  def first_key(self, settings: Settings) -> jax.Array:
    return self.j * settings.k_block + self.s


class Exponents(NamedTuple):
  """Logits to base 2 of a tile.

  Attributes:
    values: [s t] float32, -inf where hidden, `far` not yet added.
    far: [1 t] or None: what is to be added to all keys of a query.
    slope: the logits' derivative by the products, a number or [s t].
  """

  values: jax.Array
  far: jax.Array | None
  slope: Any


def exponents(
  settings: Settings,
  refs: Refs,
  tile: Tile,
  products: jax.Array,
  *,
  masked: bool,
  near: bool,
) -> Exponents:
  """Exponents of a tile from its products.

  Args:
    settings: static ones.
    refs: the blocks at hand.
    tile: of `refs`.
    products: k q' [s t] float32.
    masked: whether some of it may be hidden.
    near: what `is_near` says; without panels it does not matter.
  """
  slope: Any = settings.scale
  if settings.soft_cap is None:
    values = products * (settings.scale * LOG2E)
  else:
    capped = jnp.tanh(products * (settings.scale / settings.soft_cap))
    slope = settings.scale * (1 - capped * capped)
    values = capped * (settings.soft_cap * LOG2E)
  if refs.bias is not None:
    values = values + _bias(refs.bias, tile).astype(jnp.float32) * LOG2E
  far = None
  if refs.panels is not None:
    if near:
      values = values + _near(settings, refs.panels, tile)
    else:
      far = _far(settings, refs.panels, tile)
  if masked:
    values = jnp.where(visible(settings, refs, tile), values, -jnp.inf)
  return Exponents(values, far, slope)


def is_near(settings: Settings, refs: Refs, tile: Tile) -> jax.Array:
  """Whether panels hold more than one number for a tile."""
  least, greatest = _distances(settings, tile)
  far = reach(refs.panels) + 1
  return (least < far) & (greatest > -far)


def panel_rows(
  settings: Settings, panels: Any, tile: Tile, s: int, t: int
) -> Any:
  """The rows of panels (`pl.ds`) for a pair of blocks of ROWS positions.

  Args:
    settings: static ones.
    panels: [..., (2 w + 3) R, R], for w.
    tile: near or far.
    s: number of the block of keys within the tile.
    t: number of the block of queries.
  """
  far = reach(panels) + 1
  keys = tile.first_key(settings) // ROWS + s
  queries = (settings.q_start + tile.first_query(settings)) // ROWS + t
  place = jnp.clip(keys - queries + far, 0, 2 * far)
  return pl.ds(pl.multiple_of(place * ROWS, ROWS), ROWS)


def visible(settings: Settings, refs: Refs, tile: Tile) -> jax.Array:
  """Bool [s t], whether a key is seen."""
  keys = tile.first_key(settings) + _iota((tile.keys, 1), 0)
  queries = settings.q_start + tile.first_query(settings)
  queries = queries + _iota((1, tile.queries), 1)
  seen = []
  if settings.k_length % settings.k_block:
    seen.append(keys < settings.k_length)
  if settings.causal:
    before = keys <= queries
    if refs.k_prefix is not None:
      before |= _column(refs.k_prefix, tile) != 0
    seen.append(before)
  if settings.window is not None:
    seen.extend(_within(settings.window, queries, keys))
  if settings.pattern is not None:
    seen.append(_in_pattern(settings.pattern, refs, tile, queries, keys))
  if refs.q_segments is not None:
    segments = refs.q_segments[0, :, pl.ds(tile.t, tile.queries)]
    seen.append(_column(refs.k_segments, tile) == segments)
  result = seen[0]
  for part in seen[1:]:
    result = result & part
  return result


def may_see(settings: Settings, refs: Refs, tile: Tile) -> jax.Array:
  """Whether positions leave anything of a tile; patterns are not asked."""
  key = tile.first_key(settings)
  query = settings.q_start + tile.first_query(settings)
  least = key - (query + tile.queries - 1)
  greatest = key + tile.keys - 1 - query
  some = key < settings.k_length
  if settings.causal and refs.k_prefix is None:
    some &= least <= 0
  if settings.window is not None:
    left, right = settings.window.left, settings.window.right
    if right is not None:
      some &= least <= right
    if left is not None:
      some &= greatest >= -left
  return some


def keep(settings: Settings, refs: Refs, tile: Tile) -> jax.Array:
  """Bool [s t], which weights dropout keeps: those that `Dropout.keep` does."""
  queries = tile.first_query(settings) + _iota((1, tile.queries), 1)
  keys = tile.first_key(settings) + _iota((tile.keys, 1), 0)
  first, second = (refs.seeds[2 * tile.head + x] for x in range(2))
  rows = mix((first ^ queries).astype("uint32"))
  columns = mix((second ^ keys).astype("uint32"))
  bits = mix(rows ^ columns) >> _UNUSED_BITS
  return bits.astype("int32") >= settings.threshold


def _distances(settings: Settings, tile: Tile) -> tuple[jax.Array, jax.Array]:
  """Least and greatest of key block less query block."""
  keys = tile.first_key(settings) // ROWS
  queries = (settings.q_start + tile.first_query(settings)) // ROWS
  least = keys - queries - (tile.queries // ROWS - 1)
  return least, keys - queries + (tile.keys // ROWS - 1)


def _near(settings: Settings, panels: Any, tile: Tile) -> jax.Array:
  """[s t], aligned pieces side by side."""
  rows = [
    jnp.concatenate(
      [
        panels[0, panel_rows(settings, panels, tile, s, t), :]
        for t in range(tile.queries // ROWS)
      ],
      axis=1,
    )
    for s in range(tile.keys // ROWS)
  ]
  return jnp.concatenate(rows, axis=0)


def _far(settings: Settings, panels: Any, tile: Tile) -> jax.Array:
  """[1 t], one number throughout."""
  rows = panel_rows(settings, panels, tile, 0, 0)
  row = panels[0, pl.ds(rows.start, 1), :]
  return jnp.concatenate([row] * (tile.queries // ROWS), axis=1)


def _bias(bias: Any, tile: Tile) -> jax.Array:
  """[1|s, 1|t]."""
  s, t = bias.shape[2:]
  keys = pl.ds(tile.s, tile.keys) if s > 1 else pl.ds(0, 1)
  queries = pl.ds(tile.t, tile.queries) if t > 1 else pl.ds(0, 1)
  return bias[0, 0, keys, queries]


def _in_pattern(
  pattern: Pattern, refs: Refs, tile: Tile, queries: jax.Array, keys: jax.Array
) -> jax.Array:
  """Bool [s t] for positions [1 t] and [s 1]."""
  seen = []
  if pattern.global_tokens:
    seen.append(queries < pattern.global_tokens)
    seen.append(keys < pattern.global_tokens)
  if pattern.window is not None:
    left, right = pattern.window
    near = (keys >= queries - left) & (keys <= queries + right)
    seen.append(near)
  if refs.table is not None:
    seen.append(_in_blocks(pattern.size, refs.table, tile, keys))
  result = jnp.zeros((tile.keys, tile.queries), bool)
  for part in seen:
    result = result | part
  return result


def table_rows(size: int, keys: int) -> int:
  """Rows of the table that may be read for so many keys; a multiple of 8."""
  # The keys' own blocks, one cut at both ends, and up to 7 before them.
  return -(-(keys // size + 2 + 7) // 8) * 8


def _in_blocks(size: int, table: Any, tile: Tile, keys: jax.Array) -> jax.Array:
  """Bool [s t] of a pattern's table: a product chooses each key's row."""
  rows = table_rows(size, tile.keys)
  first = jax.lax.div(keys[0, 0], size * 8) * 8
  first = pl.multiple_of(first, 8)
  blocks = (first + _iota((tile.keys, rows), 1)) * size
  chosen = ((keys >= blocks) & (keys < blocks + size)).astype(jnp.float32)
  part = table[pl.ds(first, rows), pl.ds(tile.t, tile.queries)]
  # 0 and 1 are exact in the least precision.
  seen = jnp.dot(chosen, part, preferred_element_type=jnp.float32)
  return seen > 0.5


def _column(array: Any, tile: Tile) -> jax.Array:
  """[s 1] of a row [1 1 k_block]."""
  row = array[0, :, pl.ds(tile.s, tile.keys)]
  # Eight rows are the least that a transposition takes.
  return jnp.transpose(jnp.broadcast_to(row, (8, tile.keys)))[:, :1]


def _within(
  window: Window, queries: jax.Array, keys: jax.Array
) -> list[jax.Array]:
  seen = []
  if window.right is not None:
    seen.append(keys <= queries + window.right)
  if window.left is not None:
    seen.append(keys >= queries - window.left)
  return seen


def _iota(shape: tuple[int, int], axis: int) -> jax.Array:
  return jax.lax.broadcasted_iota(jnp.int32, shape, axis)
