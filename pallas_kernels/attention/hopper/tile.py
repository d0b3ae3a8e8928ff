"""The logits of one tile, in the registers of a warpgroup.

A tile is an accumulator of 64 rows; its rows are queries (`q_axis` 0) or, for
gradients of keys, its columns are (`q_axis` 1).  Numbers x of a tile stand for
the logits x * factor + shift in base 2 (`Settings.factor`), so that neither
scale nor a constant bias costs an instruction an element beside the one that
subtracts the maximum.
"""

import dataclasses
import functools
import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels.attention.dropout import mix
from pallas_kernels.attention.hopper.inputs import (
  LOG2E,
  ROWS,
  Given,
  Inputs,
  Settings,
)
from pallas_kernels.attention.panels import Panels
from pallas_kernels.attention.patterns import Pattern
from pallas_kernels.attention.tiles import Window


def _load(ref: Any, layout: Any) -> jax.Array:
  """From global memory, each thread what is its own."""
  # Of another signature before jax 0.11, which `refusal` asks for.
  load: Any = plgpu.load
  loaded: jax.Array = load(ref, layout=layout, optimized=False)
  return loaded


class Extras(NamedTuple):
  """What a tile's logits depend on beside products: arrays, then their refs.

  Attributes:
    q_segments: [B T] int32 or None.
    k_segments: [B S] int32 or None.
    k_prefix: [B S] int32 or None.
    seeds: [2, B, N] uint32 or None.
    bias: [1|B, 1|N, 1|T, 1|S] or None; transposed where the tiles are.
    strip: [N, 64, L] float32, see `strip`; or None.
    far: [N, 2] float32, the numbers of keys far before and after a query, in
      base 2; or None.
    table: [Q, S / 64] int32 of a pattern's blocks, or None: whether the block
      of 64 positions sees the block of 64 keys.
  """

  q_segments: Any
  k_segments: Any
  k_prefix: Any
  seeds: Any
  bias: Any
  strip: Any
  far: Any
  table: Any

  @classmethod
  def of(
    cls,
    settings: Settings,
    inputs: Inputs,
    given: Given,
    columns: int,
    q_axis: int = 0,
  ) -> "Extras":
    """For tiles of 64 rows and so many columns; outside of the kernel."""
    bias, near, far, table = inputs.bias, None, None, None
    if bias is not None and q_axis == 1:
      bias = jnp.swapaxes(bias, 2, 3)
    if inputs.panels is not None:
      near = strip(inputs.panels, columns // ROWS, q_axis)
      near = near * (LOG2E / settings.factor)
      far = jnp.stack([inputs.panels.left, inputs.panels.right], 1) * LOG2E
    if settings.pattern is not None and settings.pattern.blocks:
      table = _table(settings.pattern, inputs.k.shape[1] // ROWS)
    return cls(
      given.q_segments,
      given.k_segments,
      given.k_prefix,
      given.seeds,
      bias,
      near,
      far,
      table,
    )


def strip(panels: Panels, count: int, q_axis: int = 0) -> jax.Array:
  """The near pieces of a head side by side, [N, 64, L].

  The piece of a tile of 64 x 64 count positions is one aligned part of it,
  that begins at column `64 (d + w + count - 1)`, where d is the distance of
  the tile's first block of columns from its row block (in blocks of 64) and w
  the panels' reach: far blocks at both ends complete tiles that are near in
  part.  For `q_axis` 1 rows are keys and d counts queries less keys.
  """
  heads = len(panels.near)
  near = panels.near.reshape(heads, ROWS, -1, ROWS)
  shape = heads, ROWS, count - 1, ROWS
  left, right = (
    jnp.broadcast_to(x[:, None, None, None], shape)
    for x in (panels.left, panels.right)
  )
  pieces = jnp.concatenate([left, near, right], axis=2)
  if q_axis == 1:
    pieces = jnp.flip(pieces, 2).transpose(0, 3, 2, 1)
  return pieces.reshape(heads, ROWS, -1)


def _table(pattern: Pattern, k_blocks: int) -> jax.Array:
  """The table of a pattern's blocks in blocks of 64 x 64."""
  each = pattern.size // ROWS
  table = np.zeros((len(pattern.blocks), -(-k_blocks // each)), np.int32)
  for i, row in enumerate(pattern.blocks):
    table[i, [j for j in row if j < table.shape[1]]] = 1
  table = table.repeat(each, 0).repeat(each, 1)
  return jnp.asarray(table[:, :k_blocks])


class Spot(NamedTuple):
  """Where a tile stands: int32 scalars.

  Attributes:
    b: row of the batch.
    n: query head.
    q_first: index (from 0, without `q_start`) of the tile's first query.
    k_first: of its first key.
  """

  b: jax.Array
  n: jax.Array
  q_first: jax.Array
  k_first: jax.Array


class Logits(NamedTuple):
  """Logits in base 2 are x * settings.factor + shift.

  Attributes:
    x: [64, columns] float32; -inf where a query does not see a key.
    shift: float32 scalar, or 0.0.
    slope: [64, columns], the derivative of the soft cap; None where there is
      none or it was not asked for.
  """

  x: jax.Array
  shift: jax.Array | float
  slope: jax.Array | None


@dataclasses.dataclass(frozen=True)
class Tile:
  """What all tiles of a kernel have in common.

  Attributes:
    settings: static.
    refs: of `Extras`, inside the kernel.
    columns: of a tile.
    q_axis: 0 where rows are queries, 1 where columns are.
    reach: of the panels.
  """

  settings: Settings
  refs: Extras
  columns: int
  q_axis: int = 0
  reach: int = 0

  @property
  def shape(self) -> tuple[int, int]:
    """64 x columns."""
    return ROWS, self.columns

  def logits(
    self,
    spot: Spot,
    partial: jax.Array,
    products: jax.Array,
    *,
    slope: bool = False,
  ) -> Logits:
    """Logits of the products q k' (or k q') of a tile.

    Args:
      spot: the tile's place.
      partial: bool scalar, whether the mask hides some of it, or may.
      products: [64, columns] float32, in the layout of an accumulator.
      slope: whether the derivative of the soft cap is wanted.
    """
    x, steep = products, None
    if self.settings.soft_cap is not None:
      x = _tanh(x * (self.settings.scale / self.settings.soft_cap))
      steep = 1.0 - x * x if slope else None
    if self.refs.bias is not None:
      x = x + self._bias(spot) * (LOG2E / self.settings.factor)
    shift: jax.Array | float = 0.0
    if self.refs.strip is not None:
      x, shift = self._relative(spot, x)
    return Logits(self._masked(spot, partial, x), shift, steep)

  def keep(self, spot: Spot) -> jax.Array:
    """Bool [64, columns], which weights dropout keeps (`Dropout.keep`)."""
    seeds = self.refs.seeds
    assert seeds is not None
    queries = self._along(spot.q_first, self.q_axis).astype(jnp.uint32)
    keys = self._along(spot.k_first, self.k_axis).astype(jnp.uint32)
    rows = mix(seeds[0, spot.b, spot.n] ^ queries)
    columns = mix(seeds[1, spot.b, spot.n] ^ keys)
    both = self._over(rows, self.q_axis) ^ self._over(columns, self.k_axis)
    # As `Dropout.keep`: the upper 24 bits.
    return (mix(both) >> 8).astype(jnp.int32) >= self.settings.threshold

  @property
  def k_axis(self) -> int:
    """The other one than `q_axis`."""
    return 1 - self.q_axis

  def _along(self, first: jax.Array, axis: int) -> jax.Array:
    """Indices from the first on, along an axis."""
    return first + self._iota(axis)

  def _iota(self, axis: int) -> jax.Array:
    return plgpu.broadcasted_iota(
      jnp.int32, (self.shape[axis],), 0, layout=along(axis)
    )

  def _over(self, x: jax.Array, axis: int) -> jax.Array:
    """Spreads what is along an axis over the tile."""
    return spread(x, self.shape, axis)

  def _read(
    self, ref: Any, b: jax.Array, first: jax.Array, axis: int
  ) -> jax.Array:
    """Numbers of the positions along an axis, over the tile."""
    piece = ref.at[b, pl.ds(first, self.shape[axis])]
    return self._over(_load(piece, along(axis)), axis)

  def _relative(self, spot: Spot, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """With a relative bias, and the shift where it is one number."""
    strip, far = self.refs.strip, self.refs.far
    assert strip is not None and far is not None
    count = self.columns // ROWS
    sides = spot.q_first + self.settings.q_start, spot.k_first
    row, column = (lax.div(sides[i], ROWS) for i in (self.q_axis, self.k_axis))
    place = column - row + self.reach + count - 1
    last = 2 * self.reach + count - 1
    near = (place >= 0) & (place <= last)

    def add(x: jax.Array) -> jax.Array:
      first = pl.multiple_of(place * ROWS, ROWS)
      piece = strip.at[spot.n, :, pl.ds(first, self.columns)]
      return x + _load(piece, plgpu.Layout.WGMMA)

    # In tiles of queries by keys those before are left, else the reverse.
    side = ((place > 0) == (self.q_axis == 0)).astype(jnp.int32)
    shift = jnp.where(near, 0.0, far[spot.n, side])
    return lax.cond(near, add, lambda x: x, x), shift

  def _bias(self, spot: Spot) -> jax.Array:
    """The additive bias of a tile, float32."""
    bias = self.refs.bias
    assert bias is not None
    outer = [
      index if size > 1 else 0
      for index, size in zip((spot.b, spot.n), bias.shape[:2], strict=True)
    ]
    firsts = spot.q_first, spot.k_first
    whole = [size > 1 for size in bias.shape[2:]]
    starts = [firsts[i] for i in (self.q_axis, self.k_axis)]
    if all(whole):
      piece = bias.at[
        *outer, pl.ds(starts[0], ROWS), pl.ds(starts[1], self.columns)
      ]
      loaded = _load(piece, plgpu.Layout.WGMMA)
      return loaded.astype(jnp.float32)
    if not any(whole):
      return bias[*outer, 0, 0].astype(jnp.float32)
    axis = whole.index(True)
    inner: list = [0, 0]
    inner[axis] = pl.ds(starts[axis], self.shape[axis])
    loaded = _load(bias.at[*outer, *inner], along(axis))
    return self._over(loaded.astype(jnp.float32), axis)

  def _masked(self, spot: Spot, partial: jax.Array, x: jax.Array) -> jax.Array:
    def hide(x: jax.Array) -> jax.Array:
      return jnp.where(self._seen(spot), x, -jnp.inf)

    if not self._hides:
      return x
    return lax.cond(partial, hide, lambda x: x, x)

  @property
  def _hides(self) -> bool:
    """Whether any tile is partial."""
    settings = self.settings
    return (
      settings.causal
      or settings.window is not None
      or settings.pattern is not None
      or self.refs.q_segments is not None
      or settings.k_length % settings.blocks.k_multiple > 0
    )

  def _seen(self, spot: Spot) -> jax.Array:
    """Bool [64, columns], which keys the queries of a tile see."""
    settings, refs = self.settings, self.refs
    seen = []
    if settings.k_length % settings.blocks.k_multiple:
      seen.append(self._keys(spot) < settings.k_length)
    if settings.causal:
      past = self._distance(spot) <= 0
      if refs.k_prefix is not None:
        prefix = self._read(refs.k_prefix, spot.b, spot.k_first, self.k_axis)
        past = past | (prefix > 0)
      seen.append(past)
    if settings.window is not None:
      seen.append(_within(settings.window, self._distance(spot)))
    if settings.pattern is not None:
      seen.append(self._pattern(spot))
    if refs.q_segments is not None and refs.k_segments is not None:
      seen.append(
        self._read(refs.q_segments, spot.b, spot.q_first, self.q_axis)
        == self._read(refs.k_segments, spot.b, spot.k_first, self.k_axis)
      )
    return functools.reduce(operator.and_, seen)

  def _pattern(self, spot: Spot) -> jax.Array:
    """What the union of a pattern's parts lets be seen."""
    pattern = self.settings.pattern
    assert pattern is not None
    tokens = pattern.global_tokens
    seen = []
    if tokens:
      queries = self._queries(spot) + self.settings.q_start
      seen += [queries < tokens, self._keys(spot) < tokens]
    if pattern.window is not None:
      seen.append(_within(Window(*pattern.window), self._distance(spot)))
    if self.refs.table is not None:
      seen.append(self._blocks(spot))
    if not seen:
      return self._keys(spot) < 0
    return functools.reduce(operator.or_, seen)

  # Computed where they are used only: jax's search for layouts takes minutes
  # where an array has no use that says its own.

  def _queries(self, spot: Spot) -> jax.Array:
    """Indices of the queries, over the tile."""
    return self._over(self._along(spot.q_first, self.q_axis), self.q_axis)

  def _keys(self, spot: Spot) -> jax.Array:
    """Indices of the keys, over the tile."""
    return self._over(self._along(spot.k_first, self.k_axis), self.k_axis)

  def _distance(self, spot: Spot) -> jax.Array:
    """Key less query, in positions."""
    return self._keys(spot) - self._queries(spot) - self.settings.q_start

  def _blocks(self, spot: Spot) -> jax.Array:
    """Whether the pattern's blocks let pairs be seen."""
    table = self.refs.table
    assert table is not None
    q = lax.div(spot.q_first + self.settings.q_start, ROWS)
    k = lax.div(spot.k_first, ROWS)
    column = self._over(self._iota(1), 1)
    seen = jnp.zeros_like(column)
    for i in range(self.columns // ROWS):
      at = (q, k + i) if self.q_axis == 0 else (q + i, k)
      inside = (column >= i * ROWS) & (column < (i + 1) * ROWS)
      seen = jnp.where(inside, table[at], seen)
    return seen > 0


def along(axis: int) -> Any:
  """The layout of a vector along an axis of a tile."""
  return plgpu.Layout.WGMMA.reduce(1 - axis)


def spread(x: jax.Array, shape: tuple[int, int], axis: int = 0) -> jax.Array:
  """A vector along an axis of a tile, over the tile.

  With its layout said: jax's search for one may take minutes.
  """
  whole = lax.broadcast_in_dim(x, shape, [axis])
  return plgpu.layout_cast(whole, plgpu.Layout.WGMMA)


def _tanh(x: jax.Array) -> jax.Array:
  """To float32's absolute precision: the chip's own has 11 bits."""
  return 1.0 - 2.0 / (1.0 + jnp.exp2(x * (2 * LOG2E)))


def _within(window: Window, distance: jax.Array) -> jax.Array:
  """Where key less query is in a window."""
  parts = []
  if window.right is not None:
    parts.append(distance <= window.right)
  if window.left is not None:
    parts.append(distance >= -window.left)
  return functools.reduce(operator.and_, parts)
