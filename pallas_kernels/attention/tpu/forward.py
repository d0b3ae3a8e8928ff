"""Forward pass of attention on a TPU.

A step is one pair of blocks of a schedule; the running maximum, sum and output
of a block of queries stay in VMEM (Dao et al. 2022,
https://arxiv.org/abs/2205.14135).  Within a step the products of the next part
are asked for before the softmax of one, so that the matrix unit need not wait.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.attention.tpu import tile as tiles
from pallas_kernels.attention.tpu.blocks import extras
from pallas_kernels.attention.tpu.inputs import (
  ROWS,
  Given,
  Inputs,
  Lists,
  Settings,
  Walk,
  precision,
)
from pallas_kernels.attention.tpu.tile import LOG2E, Refs, Tile

# Finite, because -inf less -inf would be no number.
_LEAST = -1e30
# Weights may be 2^60 by the maximum that they are relative to: their sums, and
# those of values by them, are far from the greatest float32.
_MOST = 60.0
# Keys of a block that is hidden in part which are skipped if all are hidden.
_MASKED_KEYS = 512


class _Plan(NamedTuple):
  """What the kernel knows besides Settings.

  Attributes:
    walk: through the schedule.
    heads: N.
    masked: whether any block may be partial.
    names: of the Refs that are there.
  """

  walk: Walk
  heads: int
  masked: bool
  names: tuple[str, ...]


class _State(NamedTuple):
  """Of a block of queries, in VMEM, or of a part of it, in registers.

  Attributes:
    top: [1 t], the greatest exponent up to now.
    total: [1 t], of the weights, which are 2^(exponent - top).
    y: [V t], of the values by their weights.
  """

  top: Any
  total: Any
  y: Any


def forward(
  settings: Settings, inputs: Inputs, given: Given
) -> tuple[jax.Array, jax.Array]:
  """Output [B N V T] and log-sum-exp [B N T] float32.

  The output is in the dtype of q, or in float32 where there are panels: all
  logits of a number of their table share the error of <dy, y>.
  """
  size, heads, q_width, q_length = inputs.q.shape
  kv_heads, width = inputs.v.shape[1:3]
  t, s = settings.q_block, settings.k_block
  walk = Walk.of(given.by_queries)

  def place(b: Any, n: Any, i: Any, step: Any, *lists: Any) -> tuple[Any, ...]:
    return b, n, i, walk.other(Lists(*lists), b, i, step)

  def queries(*grid: Any) -> tuple[Any, ...]:
    b, n, i, *_ = grid
    return b, n, 0, i

  def keys(*grid: Any) -> tuple[Any, ...]:
    b, n, _, j = place(*grid)
    return b, n // (heads // kv_heads), 0, j

  more = extras(settings, inputs, given, place)
  plan = _Plan(walk, heads, given.masked(settings), tuple(more))
  grid = (size, heads, q_length // t, walk.longest)
  dtype = inputs.q.dtype if inputs.panels is None else jnp.float32
  y, lse = pl.pallas_call(
    functools.partial(_kernel, settings, plan),
    name="attention_forward",
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=2,
      grid=grid,
      in_specs=[
        pl.BlockSpec((1, 1, q_width, t), queries),
        pl.BlockSpec((1, 1, q_width, s), keys),
        pl.BlockSpec((1, 1, width, s), keys),
        *(spec for _, spec in more.values()),
      ],
      out_specs=[
        pl.BlockSpec((1, 1, width, t), queries),
        pl.BlockSpec((1, 1, 1, t), queries),
      ],
      scratch_shapes=[
        pltpu.VMEM((1, t), jnp.float32),
        pltpu.VMEM((1, t), jnp.float32),
        pltpu.VMEM((width, t), jnp.float32),
        pltpu.SMEM((1,), jnp.int32),
      ],
    ),
    out_shape=[
      jax.ShapeDtypeStruct((size, heads, width, q_length), dtype),
      jax.ShapeDtypeStruct((size, heads, 1, q_length), jnp.float32),
    ],
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=("parallel", "parallel", "parallel", "arbitrary"),
      vmem_limit_bytes=settings.vmem,
    ),
    cost_estimate=_cost(settings, inputs, grid),
    interpret=settings.interpret,
  )(
    *Lists.of(given.by_queries),
    *inputs[:3],
    *(array for array, _ in more.values()),
  )
  return y, lse[:, :, 0]


def _cost(
  settings: Settings, inputs: Inputs, grid: tuple[int, ...]
) -> pl.CostEstimate:
  """Of a schedule as long as what positions hide leaves it."""
  size, heads, q_blocks, longest = grid
  k, v = inputs.k, inputs.v
  steps = size * heads * q_blocks * longest
  pairs = steps * settings.q_block * settings.k_block
  keys = steps * settings.k_block * (k.shape[2] + v.shape[2])
  queries = inputs.q.size + size * heads * inputs.q.shape[3] * v.shape[2]
  return pl.CostEstimate(
    flops=2 * pairs * (k.shape[2] + v.shape[2]),
    transcendentals=pairs,
    bytes_accessed=(keys + queries) * k.dtype.itemsize,
  )


def _kernel(
  settings: Settings, plan: _Plan, blocks: Any, lengths: Any, *refs: Any
) -> None:
  q, k, v, *more, y, lse, top, total, sums, failed = refs
  state = _State(top, total, sums)
  lists = Lists(blocks, lengths)
  b, n, i, step = (pl.program_id(x) for x in range(4))

  @pl.when(step == 0)
  def _() -> None:
    top[...] = jnp.full_like(top, _LEAST)
    total[...] = jnp.zeros_like(total)
    sums[...] = jnp.zeros_like(sums)

  head = b * plan.heads + n
  j = plan.walk.other(lists, b, i, step)
  partial = plan.walk.partial(lists, b, i, step)
  given = Refs(**dict(zip(plan.names, more, strict=True)))
  # With one block alone there is no earlier one.
  later = step > 0 if plan.walk.longest > 1 else None

  def turn(number: Any, _: Any) -> None:
    t = pl.multiple_of(number * settings.q_part, ROWS)
    tile = Tile(head, i, j, t, 0, settings.q_part, settings.k_block)
    here = _State(*(x.at[:, pl.ds(t, settings.q_part)] for x in state))
    strip = _Strip(settings, given, tile, (q, k, v), False)
    run = functools.partial(_add_strip, strip, here, failed, later)
    if not plan.masked:
      run()
      return
    pl.when(~partial)(run)
    pl.when(partial)(functools.partial(_add_masked, strip, here))

  @pl.when(step < plan.walk.length(lists, b, i))
  def _() -> None:
    turns = settings.q_block // settings.q_part
    jax.lax.fori_loop(0, turns, turn, None)

  @pl.when(step == plan.walk.longest - 1)
  def _() -> None:
    kept = 1 - settings.rate
    # The greatest weight is 1, if there is one.
    scaled = sums[...] / (jnp.maximum(total[...], 1) * kept)
    y[0, 0] = scaled.astype(y.dtype)
    lse[0, 0] = top[...] / LOG2E + jnp.log(total[...])


class _Strip(NamedTuple):
  """A block of keys by some queries of a block.

  Attributes:
    settings: static ones.
    refs: what is read beside the arrays.
    tile: all of it.
    arrays: q, k and v.
    masked: whether some of it may be hidden.
    near: what `tiles.is_near` says.
  """

  settings: Settings
  refs: Refs
  tile: Tile
  arrays: tuple[Any, Any, Any]
  masked: bool
  near: bool = False

  def parts(self) -> Iterator[tuple[Tile, tiles.Exponents]]:
    """Some keys at once, with their exponents."""
    size = self.settings.k_part
    parts = [
      self.tile._replace(s=pl.multiple_of(self.tile.s + s, ROWS), keys=size)
      for s in range(0, self.tile.keys, size)
    ]
    coming = self._products(parts[0])
    for part, following in itertools.zip_longest(parts, parts[1:]):
      products = coming
      if following is not None:
        coming = self._products(following)
      found = tiles.exponents(
        self.settings,
        self.refs,
        part,
        products,
        masked=self.masked,
        near=self.near,
      )
      yield part, found

  def sums(
    self, part: Tile, found: tiles.Exponents, top: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Of a part's weights 2^(exponent - top), and of v by them."""
    level = top if found.far is None else top - found.far
    weights = jnp.exp2(found.values - level)
    total = jnp.sum(weights, axis=0, keepdims=True)
    if self.settings.rate:
      kept = tiles.keep(self.settings, self.refs, part)
      weights = jnp.where(kept, weights, jnp.zeros_like(weights))
    v = self.arrays[2][0, 0, :, pl.ds(part.s, part.keys)]
    y = jnp.dot(
      v,
      weights.astype(v.dtype),
      precision=precision(v),
      preferred_element_type=jnp.float32,
    )
    return total, y

  def _products(self, part: Tile) -> jax.Array:
    """k q' [s t]."""
    q = self.arrays[0][0, 0, :, pl.ds(part.t, part.queries)]
    k = self.arrays[1][0, 0, :, pl.ds(part.s, part.keys)]
    return jax.lax.dot_general(
      k,
      q,
      (((0,), (0,)), ((), ())),
      precision=precision(q),
      preferred_element_type=jnp.float32,
    )


def _by_distance(strip: _Strip, run: Callable[[_Strip], None]) -> None:
  """Calls `run` with `near` set, once for each of its values."""
  if strip.refs.panels is None:
    run(strip)
    return
  is_near = tiles.is_near(strip.settings, strip.refs, strip.tile)
  for near in (False, True):
    here = functools.partial(run, strip._replace(near=near))
    pl.when(is_near == near)(here)


def _add_strip(
  strip: _Strip, state: _State, failed: Any, later: jax.Array | None
) -> None:
  """Adds a block of keys to the state of some queries, by trust if it may be.

  Args:
    strip: of which nothing is hidden.
    state: in VMEM.
    failed: [1] in scalar memory.
    later: whether there was a block before; None if there never is.
  """

  def add(strip: _Strip) -> None:
    if later is None:
      _add(strip, state)
      return
    failed[0] = 1
    pl.when(later)(functools.partial(_trust, strip, state, failed))
    pl.when(failed[0] == 1)(functools.partial(_add, strip, state))

  _by_distance(strip, add)


def _add_masked(strip: _Strip, state: _State) -> None:
  """As `_add_strip`, but for keys that positions hide from all its queries.

  Without trust: two ways here, too, would be much code for little.
  """
  settings, tile = strip.settings, strip.tile
  size = settings.k_part
  keys = size * math.gcd(tile.keys // size, max(_MASKED_KEYS // size, 1))

  def turn(number: Any, _: Any) -> None:
    s = pl.multiple_of(number * keys, ROWS)
    some = strip._replace(tile=tile._replace(s=s, keys=keys), masked=True)
    run = functools.partial(
      _by_distance, some, functools.partial(_add, state=state)
    )
    pl.when(tiles.may_see(settings, strip.refs, some.tile))(run)

  jax.lax.fori_loop(0, tile.keys // keys, turn, None)


def _add(strip: _Strip, state: _State) -> None:
  """Moves the maximum, and all sums with it, by each part."""
  now = _State(*(x[...] for x in state))
  for part, found in strip.parts():
    top = jnp.maximum(now.top, _top(found))
    total, y = strip.sums(part, found, top)
    fade = jnp.exp2(now.top - top)
    now = _State(top, fade * now.total + total, fade * now.y + y)
  for place, new in zip(state, now, strict=True):
    place[...] = new


def _trust(strip: _Strip, state: _State, failed: Any) -> None:
  """Lets the maximum stand where no exponent is far above it.

  What the weights are relative to does not matter as long as they are finite;
  to take what is there spares waiting for all products.
  If it is too small nothing is added, and `failed` stays 1.
  """
  now = _State(*(x[...] for x in state))
  greatest = jnp.full_like(now.top, -jnp.inf)
  for part, found in strip.parts():
    greatest = jnp.maximum(greatest, _top(found))
    total, y = strip.sums(part, found, now.top)
    now = _State(now.top, now.total + total, now.y + y)

  @pl.when(jnp.max(greatest - now.top) < _MOST)
  def _() -> None:
    failed[0] = 0
    state.total[...] = now.total
    state.y[...] = now.y


def _top(found: tiles.Exponents) -> jax.Array:
  """The greatest exponent [1 t]."""
  top = jnp.max(found.values, axis=0, keepdims=True)
  return top if found.far is None else top + found.far
