"""What forward and backward kernel of the selective scan on TPUs share.

Channels are on the 128 lanes of a vector, states on its 8 sublanes: one step
of 128 channels and 16 states is two vectors.  A kernel runs over a grid (B,
chunks of T, blocks of E), the blocks innermost: what all channels share, b and
c, is fetched and spread over the lanes once for them all.

Sums over sublanes and rows to be broadcast go through memory: loads take any
stride, 0 too, where moves between registers would cost arithmetic slots.
"""

import dataclasses
import types
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels import compat

LANES = 128
SUBLANES = 8
STEPS = 16  # Of one turn of a loop: as many rows as a bfloat16 tile has.
LOG2_E = 1.4426950408889634
LN_2 = 0.6931471805599453
_LARGEST = 100.0  # Exponent of 2 whose inverse is still a number.
_MEBIBYTE = 2**20

# log(1 + x) / x on [0, 1], by falling powers; relative error 3.5e-7 in
# float32.  log(1 + x) itself would lose the digits of small steps.
_LOG1P = (
  *(-0.008539216592907906, 0.04408974200487137, -0.1076820120215416),
  *(0.17745274305343628, -0.24495479464530945, 0.33275482058525085),
  *(-0.4999740421772003, 0.9999998211860657),
)


@dataclasses.dataclass(frozen=True)
class Plan:
  """What is fixed of a scan: sizes, all complete, and options.

  Attributes:
    batch: B.
    length: T, a multiple of `chunk`.
    width: E, a multiple of `block`.
    states: P, a multiple of 8.
    chunk: steps of a grid step, a multiple of 16.
    block: channels of a grid step.
    tiles: of 128 channels that are scanned at a time.
    softplus: whether the step sizes go through it.
    gated: whether there is a z.
    resets: whether there are any.
    interpret: of `pallas_call`.
  """

  batch: int
  length: int
  width: int
  states: int
  chunk: int
  block: int
  tiles: int
  softplus: bool
  gated: bool
  resets: bool
  interpret: bool

  @property
  def grid(self) -> tuple[int, int, int]:
    """(B, chunks, blocks)."""
    return self.batch, self.length // self.chunk, self.width // self.block

  @property
  def groups(self) -> int:
    """Of `tiles` tiles, in a block."""
    return self.block // (self.tiles * LANES)

  @property
  def selectors(self) -> int:
    """Columns of b, c and, 8 times, of what is kept of a state."""
    return 2 * self.states + (SUBLANES if self.resets else 0)

  def steps(self, *, back: bool = False) -> pl.BlockSpec:
    """Of [B T E]; chunks from the last one, if `back`."""
    shape = (1, self.chunk, self.block)
    if back:
      last = self.grid[1] - 1
      return pl.BlockSpec(shape, lambda b, t, e: (b, last - t, e))
    return pl.BlockSpec(shape, lambda b, t, e: (b, t, e))

  def selected(self, columns: int, *, back: bool = False) -> pl.BlockSpec:
    """Of [B T columns]."""
    shape = (1, self.chunk, columns)
    if back:
      last = self.grid[1] - 1
      return pl.BlockSpec(shape, lambda b, t, e: (b, last - t, 0))
    return pl.BlockSpec(shape, lambda b, t, e: (b, t, 0))

  def weights(self, rows: int) -> pl.BlockSpec:
    """Of [E/128 rows 128], all of it."""
    shape = (self.width // LANES, rows, LANES)
    return pl.BlockSpec(shape, lambda b, t, e: (0, 0, 0))

  def of_row(self, rows: int) -> pl.BlockSpec:
    """Of [B E/128 rows 128], all of one batch row."""
    shape = (1, self.width // LANES, rows, LANES)
    return pl.BlockSpec(shape, lambda b, t, e: (b, 0, 0, 0))

  def scratch(self) -> dict[str, Any]:
    """What `spread` and `advance` need."""
    columns = (self.chunk, self.states, LANES)
    rows = (self.tiles, self.chunk, LANES)
    shapes = {
      "b": columns,
      "c": columns,
      "dt_rows": rows,
      "u_rows": rows,
      "products": (self.tiles * STEPS * SUBLANES, LANES),
    }
    if self.resets:
      shapes["kept"] = (self.chunk, SUBLANES, LANES)
    return {name: pltpu.VMEM(x, jnp.float32) for name, x in shapes.items()}


def call(
  kernel: Callable[[Plan, Any], None],
  name: str,
  plan: Plan,
  inputs: Mapping[str, tuple[jax.Array, pl.BlockSpec]],
  outputs: Mapping[str, tuple[jax.ShapeDtypeStruct, pl.BlockSpec]],
  scratch: Mapping[str, Any],
  cost: tuple[int, int],
) -> dict[str, jax.Array]:
  """Runs kernel(plan, refs), refs with the names of all that is given.

  Beside these refs has `at_chunk` and `at_block`, the place in the grid.

  Args:
    kernel: over `plan.grid`.
    name: of the kernel in profiles.
    plan: see there.
    inputs: arrays and their blocks.
    outputs: likewise.
    scratch: in VMEM.
    cost: operations, and exponentials, for one state of one step.
  """
  names = (*inputs, *outputs, *scratch)

  def run(*refs: Any) -> None:
    given = dict(zip(names, refs, strict=True))
    # Asked for here: a loop of an interpreted kernel can't.
    at = {"at_chunk": pl.program_id(1), "at_block": pl.program_id(2)}
    kernel(plan, types.SimpleNamespace(**given, **at))

  steps = plan.batch * plan.length * plan.width * plan.states
  arrays: list[Any] = [x for x, _ in (*inputs.values(), *outputs.values())]
  found = pl.pallas_call(
    run,
    name=name,
    grid=plan.grid,
    in_specs=[spec for _, spec in inputs.values()],
    out_specs=[spec for _, spec in outputs.values()],
    out_shape=[shape for shape, _ in outputs.values()],
    scratch_shapes=list(scratch.values()),
    interpret=plan.interpret,
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=("parallel", "arbitrary", "arbitrary"),
      vmem_limit_bytes=_vmem(inputs, outputs, scratch),
    ),
    cost_estimate=pl.CostEstimate(
      flops=cost[0] * steps,
      transcendentals=cost[1] * steps,
      bytes_accessed=sum(x.size * x.dtype.itemsize for x in arrays),
    ),
  )(*(x for x, _ in inputs.values()))
  return dict(zip(outputs, found, strict=True))


def _vmem(
  inputs: Mapping[str, tuple[Any, pl.BlockSpec]],
  outputs: Mapping[str, tuple[Any, pl.BlockSpec]],
  scratch: Mapping[str, Any],
) -> int:
  """Bytes that the blocks, two each, and the scratch take, and some more."""
  total = 4 * _MEBIBYTE
  for array, spec in (*inputs.values(), *outputs.values()):
    total += 2 * _padded(spec.block_shape, array.dtype.itemsize)
  for memory in scratch.values():
    total += _padded(memory.shape, memory.dtype.itemsize)
  return max(total, 16 * _MEBIBYTE)


def _padded(shape: Any, itemsize: int) -> int:
  """Bytes of an array in tiles of 8 x 128 words."""
  *major, rows, lanes = shape
  size = -(-rows // SUBLANES) * SUBLANES * (-(-lanes // LANES) * LANES)
  for n in major:
    size *= n
  return size * itemsize


def spread(plan: Plan, refs: Any) -> None:
  """Fills refs.b, c and kept from a chunk of refs.selectors [1 chunk *].

  Every value of theirs is in all lanes.
  """
  states = plan.states

  def sixteen(n: Any, _: None) -> None:
    first = pl.multiple_of(STEPS * n, STEPS)
    columns = refs.selectors[0, pl.ds(first, STEPS), :].T
    for s in range(STEPS):
      shape = (plan.selectors, LANES)
      wide = jnp.broadcast_to(columns[:, s : s + 1], shape)
      refs.b[first + s] = wide[:states]
      refs.c[first + s] = wide[states : 2 * states]
      if plan.resets:
        refs.kept[first + s] = wide[2 * states :]

  jax.lax.fori_loop(0, plan.chunk // STEPS, sixteen, None)


def lanes_of(plan: Plan, group: jax.Array) -> list[Any]:
  """Slices of the lanes of a group's tiles, within the block."""
  first = group * plan.tiles
  return [
    pl.ds(pl.multiple_of((first + i) * LANES, LANES), LANES)
    for i in range(plan.tiles)
  ]


def tiles_of(plan: Plan, refs: Any, group: jax.Array) -> list[jax.Array]:
  """Indices of a group's tiles, among all of E."""
  first = (refs.at_block * plan.groups + group) * plan.tiles
  return [first + i for i in range(plan.tiles)]


def raw_steps(refs: Any, rows: Any, lane: Any, tile: jax.Array) -> jax.Array:
  """dt + dt_bias, [16 128]."""
  return refs.dt[0, rows, lane].astype(jnp.float32) + refs.bias[tile]


def softplus(x: jax.Array) -> jax.Array:
  """log(1 + exp(x)), with all digits where it is small."""
  e = jnp.exp2(jnp.abs(x) * -LOG2_E)
  series = jnp.full_like(e, _LOG1P[0])
  for term in _LOG1P[1:]:
    series = series * e + term
  return jnp.maximum(x, 0.0) + series * e


def sigmoid(plan: Plan, x: jax.Array) -> jax.Array:
  """1 / (1 + exp(-x))."""
  below = 1.0 + jnp.exp2(jnp.minimum(x * -LOG2_E, _LARGEST))
  if plan.interpret:
    return 1.0 / below
  # A division takes twice as many operations, most for infinities.
  guess = compat.tpu_reciprocal(below)
  return guess * (2.0 - below * guess)


def advance(
  plan: Plan,
  refs: Any,
  group: jax.Array,
  first: jax.Array,
  h: list[jax.Array],
  *,
  outputs: bool,
  keep: bool,
) -> list[jax.Array]:
  """16 steps of a group's tiles, from the states h [P 128] of each.

  Fills rows from `first` on of refs.dt_rows and u_rows; refs.products with
  the terms of c'h if `outputs`; with `keep`, refs.after with the states.
  """
  rows = pl.ds(first, STEPS)
  tiles = tiles_of(plan, refs, group)
  for i, lane in enumerate(lanes_of(plan, group)):
    dt = raw_steps(refs, rows, lane, tiles[i])
    dt = softplus(dt) if plan.softplus else dt
    refs.dt_rows[i, rows] = dt
    refs.u_rows[i, rows] = dt * refs.x[0, rows, lane].astype(jnp.float32)

  def one(s: Any, h: list[jax.Array]) -> list[jax.Array]:
    b, c = refs.b[first + s], refs.c[first + s]
    after = []
    for i, tile in enumerate(tiles):
      u = row(plan, refs.u_rows, i, first + s)
      after.append(decay(plan, refs, i, tile, first + s) * h[i] + b * u)
      if keep:
        refs.after[first + s + 1, i] = after[i]
      if outputs:
        put(refs.products, i, s, after[i] * c)
    return after

  return unrolled(plan, STEPS, one, h)


def unrolled(
  plan: Plan, count: int, one: Callable[[Any, Any], Any], carry: Any
) -> Any:
  """The carry after one(i, carry) for all i; a loop if interpreted."""
  if plan.interpret:
    return jax.lax.fori_loop(0, count, one, carry)
  for i in range(count):
    carry = one(i, carry)
  return carry


def decay(
  plan: Plan, refs: Any, i: int, tile: jax.Array, t: jax.Array
) -> jax.Array:
  """Factors [P 128] of the states before a step; 0 where it resets them."""
  factors = jnp.exp2(refs.a[tile] * row(plan, refs.dt_rows, i, t))
  if plan.resets:
    factors = factors * tall(plan, refs.kept[t])
  return factors


def row(plan: Plan, ref: Any, i: int, t: jax.Array) -> jax.Array:
  """Row t of ref[i], [P 128]."""
  if plan.interpret:  # Knows no stride of 0.
    return jnp.broadcast_to(ref[i, pl.ds(t, 1)], (plan.states, LANES))
  return tall(plan, ref[i, pl.ds(t, SUBLANES, stride=0)])


def tall(plan: Plan, rows: jax.Array) -> jax.Array:
  """Eight equal rows as [P 128]."""
  return jnp.concatenate([rows] * (plan.states // SUBLANES), axis=0)


def put(products: Any, i: int, s: Any, terms: jax.Array) -> None:
  """Leaves terms [P 128] of step s for `sums` to add up."""
  eighths = [
    terms[p : p + SUBLANES] for p in range(0, terms.shape[0], SUBLANES)
  ]
  # Those of one state, of eight steps, side by side.
  first = SUBLANES * STEPS * i + s + (SUBLANES - 1) * SUBLANES * (s // SUBLANES)
  products[pl.ds(first, SUBLANES, stride=SUBLANES)] = _total(eighths)


def sums(products: Any, i: int) -> jax.Array:
  """The sums of the terms that were put of 16 steps, [16 128]."""
  halves = []
  for s in range(0, STEPS, SUBLANES):
    first = SUBLANES * (STEPS * i + s)
    terms = [
      products[pl.ds(first + SUBLANES * p, SUBLANES)] for p in range(SUBLANES)
    ]
    halves.append(_total(terms))
  return jnp.concatenate(halves, axis=0)


def _total(terms: list[jax.Array]) -> jax.Array:
  """The sum, in pairs: no long chain of additions."""
  while len(terms) > 1:
    odd = terms[len(terms) // 2 * 2 :]
    pairs = zip(terms[::2], terms[1::2], strict=False)
    terms = [x + y for x, y in pairs] + odd
  return terms[0]
