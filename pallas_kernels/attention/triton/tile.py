"""One block of queries by one block of keys, as all kernels here see it."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from pallas_kernels.attention.dropout import mix
from pallas_kernels.attention.patterns import Pattern
from pallas_kernels.attention.tiles import Window

LOG2_E = math.log2(math.e)


@dataclasses.dataclass(frozen=True)
class Blocks:
  """How a kernel is cut.

  Attributes:
    queries: of a block; a power of 2, 16 at least, as are the keys, which
      divide it.
    keys: of a block.
    warps: of a program that sums y, or dq.
    more_warps: of one that sums dk and dv, or by biases, which takes more
      registers.
    stages: blocks that are loaded ahead, the current one included.
  """

  queries: int = 64
  keys: int = 64
  warps: int = 4
  more_warps: int = 4
  stages: int = 2


class Settings(NamedTuple):
  """What is static.

  Attributes:
    blocks: how kernels are cut.
    groups: query heads of a key head.
    k_length: keys before padding.
    q_start: position of the first query.
    causal: and whether there are keys that this does not hide is in Inputs.
    window: or None.
    pattern: its window and global tokens, or None; its blocks are in Inputs.
    scale: of the products.
    soft_cap: or None.
    rate: of dropout.
    threshold: what a weight's 24 bits must reach to stay.
    interpret: run on any device.
  """

  blocks: Blocks
  groups: int
  k_length: int
  q_start: int
  causal: bool
  window: Window | None
  pattern: Pattern | None
  scale: float
  soft_cap: float | None
  rate: float
  threshold: int
  interpret: bool


class Inputs(NamedTuple):
  """What tiles are made of; T and S are whole blocks, None is left out.

  Attributes:
    q: [B T N H], H and V powers of 2.
    k: [B S K H].
    v: [B S K V].
    bias: [1|B, 1|N, 1|T, 1|S].
    near: [N, R, C] float32, a relative bias near the diagonal, R the queries
      of a block, times log2(e).
    sides: [N 2] float32, the same far to the left and to the right.
    q_segments: [1|B, T] int32.
    k_segments: [1|B, S] int32.
    k_prefix: [B S] int32, 0 for keys that `causal` hides.
    seen: [T blocks, S blocks] int32, 0 where no block of the pattern is.
    seeds: [2 B N] uint32, of dropout: for queries, for keys.
  """

  q: jax.Array
  k: jax.Array
  v: jax.Array
  bias: jax.Array | None = None
  near: jax.Array | None = None
  sides: jax.Array | None = None
  q_segments: jax.Array | None = None
  k_segments: jax.Array | None = None
  k_prefix: jax.Array | None = None
  seen: jax.Array | None = None
  seeds: jax.Array | None = None


def divided(x: jax.Array, by: jax.Array | int) -> tuple[jax.Array, jax.Array]:
  """Quotient and remainder of numbers that are not negative, plainly."""
  x, by = jnp.int32(x), jnp.int32(by)  # of loops they are int64 in x64 mode
  return jax.lax.div(x, by), jax.lax.rem(x, by)


def product(x: jax.Array, y: jax.Array, x_axis: int, y_axis: int) -> jax.Array:
  """Sum over an axis of both, in float32; float32 is not rounded before."""
  exact, precision = x.dtype == jnp.float32, jax.lax.Precision
  return jax.lax.dot_general(
    x,
    y,
    (((x_axis,), (y_axis,)), ((), ())),
    precision=precision.HIGHEST if exact else precision.DEFAULT,
    preferred_element_type=jnp.float32,
  )


@dataclasses.dataclass(frozen=True)
class Tile:
  """Which queries and keys, inside a kernel.

  Matrices are [queries, keys], or [keys, queries] if the keys are `first`: so
  the weights are on the left of a product in either case, and registers need
  not be shuffled.

  Attributes:
    settings: what is static.
    inputs: references.
    row: b.
    head: n.
    i: block of queries.
    j: block of keys.
    keys_first: the order of axes.
  """

  settings: Settings
  inputs: Inputs
  row: jax.Array
  head: jax.Array
  i: jax.Array
  j: jax.Array
  keys_first: bool = False

  @property
  def queries(self) -> jax.Array:
    """The first query's index."""
    return self.i * self.settings.blocks.queries

  @property
  def keys(self) -> jax.Array:
    """The first key's index."""
    return self.j * self.settings.blocks.keys

  @property
  def distance(self) -> jax.Array:
    """Of the first key from the first query."""
    return self.keys - self.queries - self.settings.q_start

  def q_rows(self, x: jax.Array) -> jax.Array:
    """The tile's [t H] of [B T N H]."""
    return x[self.row, self._q_slice(), self.head, :]

  def k_rows(self, x: jax.Array) -> jax.Array:
    """The tile's [s H] of [B S K H]."""
    head, _ = divided(self.head, self.settings.groups)
    return x[self.row, self._k_slice(), head, :]

  def q_numbers(self, x: jax.Array) -> jax.Array:
    """One a query of [B N T], to be broadcast against a matrix."""
    return self.over_queries(x[self.row, self.head, self._q_slice()])

  def over_queries(self, x: jax.Array) -> jax.Array:
    """[t], to be broadcast against a matrix."""
    return x[None, :] if self.keys_first else x[:, None]

  def over_keys(self, x: jax.Array) -> jax.Array:
    """[s], likewise."""
    return x[:, None] if self.keys_first else x[None, :]

  def logits(self, q: jax.Array, k: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Logits times log2(e), and their slope: by the products times scale.

    Hidden ones are -inf.
    """
    settings = self.settings
    products = product(k, q, 1, 1) if self.keys_first else product(q, k, 1, 1)
    slope = jnp.float32(1.0)
    if settings.soft_cap is None:
      logits = products * (settings.scale * LOG2_E)
    else:
      bent = jnp.tanh(products * (settings.scale / settings.soft_cap))
      logits = bent * (settings.soft_cap * LOG2_E)
      slope = 1.0 - bent * bent
    if self.inputs.bias is not None:
      logits = logits + self._bias(self.inputs.bias)
    if self.inputs.near is not None:
      logits = logits + self._relative_bias(self.inputs.near)
    seen = self._seen()
    if seen is not None:
      logits = jnp.where(seen, logits, -jnp.inf)
    return logits, slope

  def drop(self, weights: jax.Array) -> jax.Array:
    """After dropout; see `dropout.Dropout`, whose bits these are."""
    seeds = self.inputs.seeds
    if seeds is None:
      return weights
    settings = self.settings
    queries, keys = (
      mix(
        seeds[which, self.row, self.head]
        ^ (first + jax.lax.iota(jnp.int32, size)).astype(jnp.uint32)
      )
      for which, first, size in (
        (0, self.queries, settings.blocks.queries),
        (1, self.keys, settings.blocks.keys),
      )
    )
    bits = mix(self.over_queries(queries) ^ self.over_keys(keys)) >> 8
    kept = bits.astype(jnp.int32) >= settings.threshold
    return jnp.where(kept, weights * (1.0 / (1.0 - settings.rate)), 0.0)

  def is_left(self) -> jax.Array:
    """Whether all distances have the bias of the far left."""
    return self._column() < 0

  def is_right(self) -> jax.Array:
    """Whether all distances have the bias of the far right."""
    near = self.inputs.near
    assert near is not None
    return self._column() >= near.shape[2]

  def _column(self) -> jax.Array:
    """Where the tile begins in the panel, if it is near."""
    near = self.inputs.near
    assert near is not None
    _, rows, columns = near.shape
    # The panel begins as many blocks before its rows as it ends after them.
    return self.distance + (columns - rows) // 2

  def _q_slice(self) -> Any:
    return _slice(self.queries, self.settings.blocks.queries)

  def _k_slice(self) -> Any:
    return _slice(self.keys, self.settings.blocks.keys)

  def _bias(self, bias: jax.Array) -> jax.Array:
    sizes = bias.shape
    place = (
      self.row if sizes[0] > 1 else 0,
      self.head if sizes[1] > 1 else 0,
      self._q_slice() if sizes[2] > 1 else 0,
      self._k_slice() if sizes[3] > 1 else 0,
    )
    x = bias[place].astype(jnp.float32) * LOG2_E
    if sizes[2] > 1 and sizes[3] > 1:
      return x.T if self.keys_first else x
    if sizes[2] > 1:
      return self.over_queries(x)
    return self.over_keys(x) if sizes[3] > 1 else x

  def _relative_bias(self, near: jax.Array) -> jax.Array:
    sides = self.inputs.sides
    assert sides is not None
    blocks = self.settings.blocks
    shape = blocks.queries, blocks.keys
    left, right = self.is_left(), self.is_right()
    far = jnp.where(left, sides[self.head, 0], sides[self.head, 1])
    here = jnp.logical_not(jnp.logical_or(left, right))
    column = jnp.where(here, self._column(), 0)
    view: Any = near.at[self.head, :, _slice(column, blocks.keys)]
    piece = plgpu.load(
      view,
      mask=jnp.broadcast_to(here, shape),
      other=jnp.broadcast_to(far, shape),
    )
    return piece.T if self.keys_first else piece

  def _seen(self) -> jax.Array | None:
    """Bool, broadcastable to a matrix; None for all."""
    settings, inputs = self.settings, self.inputs
    sizes = settings.blocks.queries, settings.blocks.keys
    parts = []
    queries = self.over_queries(
      self.queries + settings.q_start + jax.lax.iota(jnp.int32, sizes[0])
    )
    keys = self.over_keys(self.keys + jax.lax.iota(jnp.int32, sizes[1]))
    if inputs.k.shape[1] > settings.k_length:
      parts.append(keys < settings.k_length)
    if settings.causal:
      seen = keys <= queries
      if inputs.k_prefix is not None:
        prefix = inputs.k_prefix[self.row, self._k_slice()]
        seen = seen | self.over_keys(prefix != 0)
      parts.append(seen)
    if settings.window is not None:
      parts.extend(_in_window(settings.window, queries, keys))
    if settings.pattern is not None:
      parts.append(self._in_pattern(settings.pattern, queries, keys))
    if inputs.q_segments is not None and inputs.k_segments is not None:
      row = self.row if inputs.q_segments.shape[0] > 1 else 0
      q_segments = inputs.q_segments[row, self._q_slice()]
      k_segments = inputs.k_segments[row, self._k_slice()]
      parts.append(self.over_queries(q_segments) == self.over_keys(k_segments))
    return _all(parts)

  def _in_pattern(
    self, pattern: Pattern, queries: jax.Array, keys: jax.Array
  ) -> jax.Array:
    """In any of the pattern's parts."""
    seen = jnp.minimum(queries, keys) < pattern.global_tokens
    if pattern.window is not None:
      near = _all(_in_window(Window(*pattern.window), queries, keys))
      assert near is not None
      seen = seen | near
    if self.inputs.seen is not None:
      seen = seen | (self.inputs.seen[self.i, self.j] != 0)
    return seen


def _slice(start: Any, size: int) -> Any:
  return pl.ds(start, size)


def _in_window(
  window: Window, queries: jax.Array, keys: jax.Array
) -> list[jax.Array]:
  """What must be true of a pair, as `Window.visible`."""
  parts = []
  if window.left is not None:
    parts.append(keys + window.left >= queries)
  if window.right is not None:
    parts.append(keys <= queries + window.right)
  return parts


def _all(parts: list[jax.Array]) -> jax.Array | None:
  if not parts:
    return None
  seen = parts[0]
  for part in parts[1:]:
    seen = seen & part
  return seen
