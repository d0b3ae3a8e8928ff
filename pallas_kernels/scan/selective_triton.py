"""The selective scan on NVIDIA GPUs by Pallas Triton.

A program walks along time with a channel a thread, whose states are as many
vectors: so what is summed over states stays in a thread, and Triton has no
matrix to lay out.  The states between chunks of steps are kept for the backward
pass.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

LOG2_E = math.log2(math.e)
# Channels of a warp.
LANES = 32
_FLOATS = ("float32", "bfloat16", "float16")
_MOST_STATES = 32
# Steps whose numbers are loaded before the first of them is used.
_AHEAD = 4


class Settings(NamedTuple):
  """What is static.

  Attributes:
    softplus: of the step sizes.
    interpret: run on any device.
    warps: of a program, of 32 channels each.
    chunk: steps whose first state is kept, a multiple of 4.
  """

  softplus: bool
  interpret: bool
  warps: int = 4
  chunk: int = 32


class Arrays(NamedTuple):
  """Inputs in the kernels' order of axes.

  Attributes:
    x: [B T E], any float dtype.
    dt: [B T E].
    a: [P E] float32.
    b: [B T P].
    c: [B T P].
    d: [E] or None.
    z: [B T E] or None.
    dt_bias: [E] or None.
    initial: [B P E] float32.
    resets: [B T] int32, or None.
  """

  x: jax.Array
  dt: jax.Array
  a: jax.Array
  b: jax.Array
  c: jax.Array
  d: jax.Array | None
  z: jax.Array | None
  dt_bias: jax.Array | None
  initial: jax.Array
  resets: jax.Array | None


def refusal(x: Any, a: Any) -> str | None:
  """Why the kernels can't scan x [B T E] with a [E P]; None if they can."""
  if jnp.dtype(x.dtype).name not in _FLOATS:
    return f"x is {jnp.dtype(x.dtype).name}, not one of {', '.join(_FLOATS)}"
  if a.shape[1] > _MOST_STATES:
    return f"{a.shape[1]} states, more than {_MOST_STATES}"
  if 0 in (*x.shape, *a.shape):
    return "an array is empty"
  return None


def scan(
  x: jax.Array,
  dt: jax.Array,
  a: jax.Array,
  b: jax.Array,
  c: jax.Array,
  d: jax.Array | None,
  z: jax.Array | None,
  dt_bias: jax.Array | None,
  initial: jax.Array | None,
  resets: jax.Array | None,
  *,
  softplus: bool,
  interpret: bool,
) -> tuple[jax.Array, jax.Array]:
  """y [B T E] and the last state [B E P], as `selective_scan`.

  Args:
    x: [B T E], any float dtype; y has it, too.
    dt: [B T E].
    a: [E P] float32.
    b: [B T P].
    c: [B T P].
    d: [E] or None.
    z: [B T E] or None.
    dt_bias: [E] or None.
    initial: [B E P] float32, or None.
    resets: [B T] bool, or None.
    softplus: of dt + dt_bias.
    interpret: run on any device.
  """
  if initial is None:
    initial = jnp.zeros((x.shape[0], *a.shape), jnp.float32)
  if resets is not None:
    resets = resets.astype(jnp.int32)
  initial = jnp.swapaxes(initial, 1, 2)
  arrays = Arrays(x, dt, a.T, b, c, d, z, dt_bias, initial, resets)
  y, final = _scan(Settings(softplus, interpret), arrays)
  return y, jnp.swapaxes(final, 1, 2)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _scan(settings: Settings, arrays: Arrays) -> tuple[jax.Array, jax.Array]:
  """y [B T E] and the last state [B P E]."""
  y, final, _ = _run(settings, arrays, False)
  return y, final


def _forward(
  settings: Settings, arrays: Arrays
) -> tuple[tuple[jax.Array, jax.Array], tuple[Arrays, jax.Array | None]]:
  y, final, before = _run(settings, arrays, True)
  return (y, final), (arrays, before)


def _backward(
  settings: Settings,
  kept: tuple[Arrays, jax.Array],
  gradients: tuple[jax.Array, jax.Array],
) -> tuple[Arrays]:
  from pallas_kernels.scan.selective_triton_backward import backward

  return (backward(settings, *kept, *gradients),)


_scan.defvjp(_forward, _backward)


def _run(
  settings: Settings, arrays: Arrays, keep: bool
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
  """y, the last state and, if asked, those before chunks [B T/chunk P E]."""
  size, length, width = arrays.x.shape
  states = arrays.a.shape[0]
  chunks = -(-length // settings.chunk)
  before = jax.ShapeDtypeStruct((size, chunks, states, width), jnp.float32)
  y, final, before = pl.pallas_call(
    functools.partial(_kernel, settings),
    grid=(size, -(-width // (settings.warps * LANES))),
    out_shape=(
      jax.ShapeDtypeStruct(arrays.x.shape, arrays.x.dtype),
      jax.ShapeDtypeStruct((size, states, width), jnp.float32),
      before if keep else None,
    ),
    compiler_params=plgpu.CompilerParams(num_warps=settings.warps),
    interpret=settings.interpret,
    name="selective_scan",
  )(arrays)
  return y, final, before


# A vector [channels] for each state.
States = tuple[jax.Array, ...]


class Reader:
  """Loads and stores numbers of the channels of a program.

  Vectors are [channels]; what is beyond the last channel is read as 0 and not
  written.

  Attributes:
    arrays: references.
    row: b.
    length: T.
    states: P.
    channels: [channels], their numbers.
    inside: [channels], whether there are such.
  """

  def __init__(self, arrays: Arrays, warps: int):
    self.arrays = arrays
    self.row = pl.program_id(0)
    self.length, width = arrays.x.shape[1:]
    self.states = arrays.a.shape[0]
    first = pl.program_id(1) * (warps * LANES)
    self.channels = first + jax.lax.iota(jnp.int32, warps * LANES)
    self.inside = self.channels < width

  def vector(self, ref: Any, *place: Any, mask: Any = True) -> jax.Array:
    """[channels] of ref [*place E], in float32."""
    view = ref.at[*place, self.channels]
    x = plgpu.load(view, mask=self.inside & mask, other=0.0)
    return x.astype(jnp.float32)

  def of_states(self, ref: Any, *place: Any) -> States:
    """Of ref [*place P E]."""
    return tuple(self.vector(ref, *place, p) for p in range(self.states))

  def numbers(self, ref: Any, t: Any) -> States:
    """One for each state, of ref [B T P], in float32."""
    return tuple(
      ref[self.row, t, p].astype(jnp.float32) for p in range(self.states)
    )

  def store(
    self, ref: Any, x: jax.Array, *place: Any, mask: Any = True
  ) -> None:
    """A vector to ref [*place E]."""
    view = ref.at[*place, self.channels]
    plgpu.store(view, x.astype(ref.dtype), mask=self.inside & mask)

  def store_states(self, ref: Any, h: States, *place: Any) -> None:
    """To ref [*place P E]."""
    for p, x in enumerate(h):
      self.store(ref, x, *place, p)


class Step:
  """What one step does to the states, from its inputs.

  Attributes:
    t: its number, or that of the last one if it is beyond.
    valid: whether it is not beyond the last one.
    x: [channels].
    raw: [channels], the step sizes before softplus.
    z: [channels] or None.
    kept: whether the state before it counts, or None for always.
  """

  def __init__(self, settings: Settings, reader: Reader, t: Any, bias: Any):
    arrays, row = reader.arrays, reader.row
    self.valid = t < reader.length
    self.t = t = jnp.minimum(t, reader.length - 1)
    self.x = reader.vector(arrays.x, row, t, mask=self.valid)
    self.raw = reader.vector(arrays.dt, row, t)
    self.z = None
    if arrays.z is not None:
      self.z = reader.vector(arrays.z, row, t)
    if bias is not None:
      self.raw = self.raw + bias
    self.kept = None
    if arrays.resets is not None:
      reset = jnp.logical_and(arrays.resets[row, t] != 0, self.valid)
      self.kept = jnp.logical_not(reset)
    self._softplus = settings.softplus

  @property
  def size(self) -> jax.Array:
    """[channels], after softplus; 0 beyond the last step."""
    size = self.raw
    if self._softplus:
      size = jnp.maximum(size, 0.0) + jnp.log1p(jnp.exp(-jnp.abs(size)))
    return jnp.where(self.valid, size, 0.0)

  def before(self, h: States) -> States:
    """The states before the step as the step sees them, 0 after a reset."""
    if self.kept is None:
      return h
    return tuple(jnp.where(self.kept, x, jnp.zeros_like(x)) for x in h)


def scaled(x: States, by: jax.Array | float) -> States:
  """Each vector times one."""
  return tuple(one * by for one in x)


def plus(x: States, y: States) -> States:
  """Sums of vectors."""
  return tuple(one + other for one, other in zip(x, y, strict=True))


def times(x: States, y: States) -> States:
  """Products of vectors, or of numbers and vectors."""
  return tuple(one * other for one, other in zip(x, y, strict=True))


def total(x: States) -> jax.Array:
  """Over states."""
  return functools.reduce(jnp.add, x)


def decays(a: States, size: jax.Array) -> States:
  """exp(size a)."""
  return tuple(jnp.exp2(x) for x in scaled(a, size * LOG2_E))


def _kernel(
  settings: Settings,
  arrays: Arrays,
  y_ref: Any,
  final_ref: Any,
  before_ref: Any,
) -> None:
  reader = Reader(arrays, settings.warps)
  row = reader.row
  a = reader.of_states(arrays.a)
  bias = None if arrays.dt_bias is None else reader.vector(arrays.dt_bias)
  d = None if arrays.d is None else reader.vector(arrays.d)

  def few_steps(group: jax.Array, h: States) -> States:
    steps = [
      Step(settings, reader, group * _AHEAD + ahead, bias)
      for ahead in range(_AHEAD)
    ]
    for step in steps:
      size = step.size
      added = scaled(reader.numbers(arrays.b, step.t), size * step.x)
      h = plus(times(decays(a, size), step.before(h)), added)
      y = total(times(reader.numbers(arrays.c, step.t), h))
      if d is not None:
        y = y + d * step.x
      if step.z is not None:
        y = y * step.z * jax.nn.sigmoid(step.z)
      reader.store(y_ref, y, row, step.t, mask=step.valid)
    return h

  def one_chunk(chunk: jax.Array, h: States) -> States:
    if before_ref is not None:
      reader.store_states(before_ref, h, row, chunk)
    groups = settings.chunk // _AHEAD
    return jax.lax.fori_loop(chunk * groups, (chunk + 1) * groups, few_steps, h)

  h = reader.of_states(arrays.initial, row)
  chunks = -(-reader.length // settings.chunk)
  h = jax.lax.fori_loop(0, chunks, one_chunk, h)
  reader.store_states(final_ref, h, row)
