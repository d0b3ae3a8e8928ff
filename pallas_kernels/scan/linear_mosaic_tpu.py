"""The linear recurrence on TPUs.

Channels are on lanes.  Eight steps, the sublanes of a vector, are scanned at
once by doubling, three times; the state before them then goes to all eight.
A complex number is two vectors, its real and its imaginary part.
"""

import dataclasses
import functools
import math
import operator
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

_SUBLANES = 8
_EIGHTS = 2  # Of steps in one turn of the loop.
_CHUNK = 256  # Steps of a grid step.
_BLOCK = 512  # Channels of one.

_Number = tuple[jax.Array, ...]  # (real,) or (real, imaginary).


def refusal(a: Any, b: Any) -> str | None:
  """Why the kernel can't scan such arrays; None, since it can any."""
  del a, b
  return None


@dataclasses.dataclass(frozen=True)
class _Plan:
  """What is fixed of a scan.

  Attributes:
    length: T.
    chunk: steps of a grid step, a multiple of 16.
    planes: 1 if real, 2 if complex.
    constant: whether a is the same at all steps.
    reverse: from right to left.
  """

  length: int
  chunk: int
  planes: int
  constant: bool
  reverse: bool

  @property
  def last(self) -> int:
    """The sublane of the last one of eight steps."""
    return 0 if self.reverse else _SUBLANES - 1

  @property
  def shifts(self) -> tuple[int, ...]:
    """Of rows, to the state one, two and four steps before."""
    back = (_SUBLANES - 1, _SUBLANES - 2, _SUBLANES - 4)
    return back if self.reverse else (1, 2, 4)


def scan(
  a: jax.Array,
  b: jax.Array,
  initial: jax.Array,
  *,
  reverse: bool,
  interpret: bool,
) -> jax.Array:
  """The states [B T ...], as `linear_scan`.

  Args:
    a: axes of size 1 are broadcast against b, B and T too.
    b: [B T ...], float32 or complex64, as a and initial.
    initial: [B ...].
    reverse: see there.
    interpret: see there.
  """
  shape, (batch, length) = b.shape, b.shape[:2]
  width = math.prod(shape[2:])
  a = jnp.broadcast_to(a, a.shape[:2] + shape[2:])
  a, b = (x.reshape(*x.shape[:2], width) for x in (a, b))
  initial = initial.reshape(batch, 1, width)
  plan = _Plan(
    length,
    min(_CHUNK, math.ceil(length / 16) * 16),
    2 if jnp.iscomplexobj(b) else 1,
    a.shape[1] < length,
    reverse,
  )
  h = _call(plan, _planes(a), _planes(b), _planes(initial), interpret)
  out = h[0] if plan.planes == 1 else jax.lax.complex(*h)
  return out.reshape(shape)


def _planes(x: jax.Array) -> _Number:
  return (x.real, x.imag) if jnp.iscomplexobj(x) else (x,)


def _call(
  plan: _Plan, a: _Number, b: _Number, initial: _Number, interpret: bool
) -> _Number:
  """a [B|1 T|1 C], b [B T C], initial [B 1 C]."""
  batch, length, width = b[0].shape
  block = width if width < _BLOCK else _BLOCK
  chunks = math.ceil(length / plan.chunk)

  def chunk(t: jax.Array) -> jax.Array:
    return chunks - 1 - t if plan.reverse else t

  def of_a(i: jax.Array, c: jax.Array, t: jax.Array) -> tuple[Any, ...]:
    row = 0 if a[0].shape[0] < batch else i
    return row, 0 if plan.constant else chunk(t), c

  steps = pl.BlockSpec((1, plan.chunk, block), lambda i, c, t: (i, chunk(t), c))
  factors = pl.BlockSpec((1, 1 if plan.constant else plan.chunk, block), of_a)
  states = pl.BlockSpec((1, 1, block), lambda i, c, t: (i, 0, c))
  n = plan.planes
  arrays = (*a, *b, *initial)
  found = pl.pallas_call(
    functools.partial(_kernel, plan),
    name="linear_scan",
    grid=(batch, math.ceil(width / block), chunks),
    in_specs=[factors] * n + [steps] * n + [states] * n,
    out_specs=[steps] * n,
    out_shape=[jax.ShapeDtypeStruct(b[0].shape, jnp.float32)] * n,
    scratch_shapes=[pltpu.VMEM((1, block), jnp.float32)] * n,
    interpret=interpret,
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=("parallel", "parallel", "arbitrary")
    ),
    cost_estimate=pl.CostEstimate(
      flops=2 * n * n * b[0].size,
      transcendentals=0,
      bytes_accessed=4 * (sum(x.size for x in arrays) + n * b[0].size),
    ),
  )(*arrays)
  return tuple(found)


def _kernel(plan: _Plan, *refs: Any) -> None:
  n = plan.planes
  a, b, initial, h, carry = (refs[i : i + n] for i in range(0, 5 * n, n))
  at = pl.program_id(2)

  @pl.when(at == 0)
  def _start() -> None:
    for kept, first in zip(carry, initial, strict=True):
      kept[...] = first[0]

  width = b[0].shape[-1]
  row = jax.lax.broadcasted_iota(jnp.int32, (_SUBLANES, width), 0)
  first = (pl.num_programs(2) - 1 - at if plan.reverse else at) * plan.chunk
  # Of steps that are none, those before the first would be felt.
  ragged = plan.reverse and plan.length % plan.chunk != 0
  if plan.constant:
    constant = tuple(jnp.broadcast_to(x[0], row.shape) for x in a)
    at_all = None if ragged else _products(plan, row, constant)

  def eight(i: jax.Array, state: _Number) -> _Number:
    if plan.reverse:
      i = plan.chunk // _SUBLANES - 1 - i
    start = pl.multiple_of(i * _SUBLANES, _SUBLANES)
    rows = pl.ds(start, _SUBLANES)
    added = tuple(x[0, rows, :] for x in b)
    whole = constant if plan.constant else tuple(x[0, rows, :] for x in a)
    if ragged:
      real = row < plan.length - first - start
      whole = _or_one(real, whole)
      added = tuple(jnp.where(real, x, 0.0) for x in added)
    products = at_all if plan.constant else None
    products = products or _products(plan, row, whole)
    for factor, shift in zip(products, plan.shifts, strict=False):
      before = tuple(
        jnp.where(_exists(plan, row, shift), pltpu.roll(x, shift, 0), 0.0)
        for x in added
      )
      added = _plus(added, _times(factor, before))
    states = _plus(added, _times(products[-1], state))
    for ref, x in zip(h, states, strict=True):
      ref[0, rows, :] = x
    return tuple(x[plan.last : plan.last + 1] for x in states)

  def turn(i: jax.Array, state: _Number) -> _Number:
    for j in range(_EIGHTS):
      state = eight(i * _EIGHTS + j, state)
    return state

  state = tuple(x[...] for x in carry)
  turns = plan.chunk // (_SUBLANES * _EIGHTS)
  state = jax.lax.fori_loop(0, turns, turn, state)
  for kept, x in zip(carry, state, strict=True):
    kept[...] = x


def _products(plan: _Plan, row: jax.Array, a: _Number) -> list[_Number]:
  """Of a over one, two, four and eight steps, up to each of eight rows.

  Fewer, where fewer of the eight come before.
  """
  products = [a]
  for shift in plan.shifts:
    before = tuple(pltpu.roll(x, shift, 0) for x in a)
    a = _times(a, _or_one(_exists(plan, row, shift), before))
    products.append(a)
  return products


def _exists(plan: _Plan, row: jax.Array, shift: int) -> jax.Array:
  """Rows to which the shift brings an earlier step of the eight."""
  return row < shift if plan.reverse else row >= shift


def _or_one(where: jax.Array, x: _Number) -> _Number:
  """x, and elsewhere 1."""
  ones = (1.0, 0.0)
  return tuple(
    jnp.where(where, part, one) for part, one in zip(x, ones, strict=False)
  )


def _plus(x: _Number, y: _Number) -> _Number:
  return tuple(map(operator.add, x, y))


def _times(x: _Number, y: _Number) -> _Number:
  if len(x) == 1:
    return (x[0] * y[0],)
  return x[0] * y[0] - x[1] * y[1], x[0] * y[1] + x[1] * y[0]
