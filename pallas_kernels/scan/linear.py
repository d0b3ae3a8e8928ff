"""h_t = a_t h_{t-1} + b_t, for real and complex diagonal recurrences."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pallas_kernels import platforms
from pallas_kernels.scan import backends, chunks
from pallas_kernels.scan import shards as two_levels

_WHAT = "linear_scan"
_CHUNK = 64


def linear_scan(
  a: jax.Array,
  b: jax.Array,
  *,
  initial: jax.Array | None = None,
  resets: jax.Array | None = None,
  reverse: bool = False,
  chunk: int | None = None,
  shards: int = 1,
  implementation: str | None = None,
  interpret: bool = False,
) -> tuple[jax.Array, jax.Array]:
  """All states of h_t = a_t h_{t-1} + b_t.

  The gradient is a scan in the other direction, by the same implementation,
  and needs a and the states alone.

  Args:
    a: [B T ...], real or complex; axes of size 1 are broadcast against b.
    b: [B T ...]; its shape is that of the states.
    initial: [B ...] state before the first step; None for zeros.
    resets: [B T] bool; where True the state before the step counts as 0.
    reverse: run from right to left, h_t = a_t h_{t+1} + b_t: `initial` is the
      state right of the row, and a reset says that an example ends there.
    chunk: steps of a chunk of the chunked implementation; None picks.
    shards: parts into which the length is divided among devices; they are
      scanned at the same time, with the same result.
    implementation: "associative" (`jax.lax.associative_scan`), "chunked" (the
      same within chunks, one after the other: less memory beside the result),
      "sequential" (the definition, step by step), or a kernel: "mosaic_tpu",
      "mosaic_gpu" (Hopper, Blackwell) or "triton" (other NVIDIA devices);
      None is what `pick_linear_scan` says.
    interpret: run a kernel step by step on whatever device there is.

  Returns:
    The states [B T ...] and the one after the last step [B ...] (of step 0 if
    reversed), float32 at least.

  Raises:
    ValueError: shapes that do not fit, an unknown implementation, one that
      can't run on these arrays or be interpreted, or a length that the shards
      do not divide.
  """
  if a.ndim != b.ndim:
    raise ValueError(
      f"linear_scan needs a and b with as many axes, not {a.shape}, {b.shape}"
    )
  for size, other in zip(a.shape, b.shape, strict=True):
    if size not in (1, other):
      raise ValueError(
        f"linear_scan needs a that broadcasts to b, not {a.shape} to {b.shape}"
      )
  chunk = _CHUNK if chunk is None else chunk
  chunks.check_chunk(_WHAT, chunk)
  two_levels.check(_WHAT, b.shape[1], shards)
  dtype = chunks.float32_at_least(a, b, initial)
  name = implementation or _pick(a, b, dtype, shards)
  chunks.check_known(_WHAT, name, (*_IMPLEMENTATIONS, *platforms.KERNELS))
  backends.check("linear", name, (a, b), dtype, interpret)
  shape = b.shape[:1] + b.shape[2:]
  chunks.check_shape(_WHAT, "initial", initial, shape)
  chunks.check_shape(_WHAT, "resets", resets, b.shape[:2])
  a, b = jnp.asarray(a, dtype), jnp.asarray(b, dtype)
  initial = jnp.zeros(shape, dtype) if initial is None else initial
  initial = jnp.asarray(initial, dtype)
  if resets is not None:
    resets = resets.reshape(b.shape[:2] + (1,) * (b.ndim - 2))
    a = jnp.where(resets, jnp.zeros_like(a), a)
  if name != "mosaic_tpu" or shards > 1:
    a = jnp.broadcast_to(a, b.shape[:2] + a.shape[2:])
  scan = functools.partial(_scan, _Options(name, chunk, reverse, interpret))
  if shards > 1:
    return _in_shards(scan, a, b, initial, shards, reverse)
  h = scan(a, b, initial)
  return h, h[:, 0 if reverse else -1]


def pick_linear_scan(
  a: jax.Array | jax.ShapeDtypeStruct,
  b: jax.Array | jax.ShapeDtypeStruct,
  *,
  shards: int = 1,
) -> str:
  """The implementation that `linear_scan` takes where none is named.

  It is the kernel for the device at hand, unless that refuses the arrays,
  there is one step only, or the compiler divides arrays among devices; then
  "sequential" on a CPU, "associative" elsewhere.

  Args:
    a: [B T ...]; its shape and dtype are all that is asked for.
    b: [B T ...], likewise.
    shards: of `linear_scan`.
  """
  return _pick(a, b, chunks.float32_at_least(a, b), shards)


def _pick(
  a: jax.Array | jax.ShapeDtypeStruct,
  b: jax.Array | jax.ShapeDtypeStruct,
  dtype: jnp.dtype,
  shards: int,
) -> str:
  on_cpu = platforms.target().platform == "cpu"
  default = "sequential" if on_cpu else "associative"
  return backends.pick(
    "linear", (a, b), dtype, default, length=b.shape[1], shards=shards
  )


class _Options(NamedTuple):
  """What is fixed of a scan."""

  name: str
  chunk: int
  reverse: bool
  interpret: bool


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _scan(
  options: _Options, a: jax.Array, b: jax.Array, initial: jax.Array
) -> jax.Array:
  """The states [B T ...] by the implementation of that name."""
  name, chunk, reverse, interpret = options
  if name in _IMPLEMENTATIONS:
    return _IMPLEMENTATIONS[name](a, b, initial, reverse, chunk)
  kernel = backends.load("linear", name)
  h: jax.Array = kernel.scan(
    a, b, initial, reverse=reverse, interpret=interpret
  )
  return h


def _forward(
  options: _Options, a: jax.Array, b: jax.Array, initial: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
  h = _scan(options, a, b, initial)
  return h, (a, h, initial)


def _backward(
  options: _Options, kept: tuple[jax.Array, ...], dh: jax.Array
) -> tuple[jax.Array, ...]:
  """The state after step t is used by step t + 1, which multiplies by a."""
  a, h, initial = kept
  back = options._replace(reverse=not options.reverse)
  # An a of all steps needs no delay: before the first step is a state of 0.
  following = a if a.shape[1] < h.shape[1] else _delayed(a, 0, back.reverse)
  db = _scan(back, following, dh, jnp.zeros_like(initial))
  da = db * _delayed(h, initial[:, None], options.reverse)
  broadcast = [i for i in range(a.ndim) if a.shape[i] != da.shape[i]]
  da = jnp.sum(da, axis=broadcast, keepdims=True)
  first = -1 if options.reverse else 0
  return da, db, a[:, first] * db[:, first]


_scan.defvjp(_forward, _backward)


def _delayed(x: jax.Array, first: jax.Array | int, reverse: bool) -> jax.Array:
  """x [B T ...] one step later in the direction, which begins with `first`."""
  first = jnp.broadcast_to(first, x[:, :1].shape).astype(x.dtype)
  if reverse:
    return jnp.concatenate([x[:, 1:], first], axis=1)
  return jnp.concatenate([first, x[:, :-1]], axis=1)


def _in_shards(
  scan: Callable[..., jax.Array],
  a: jax.Array,
  b: jax.Array,
  initial: jax.Array,
  shards: int,
  reverse: bool,
) -> tuple[jax.Array, jax.Array]:
  """As `shards.two_level`; the second pass multiplies and adds only."""
  a, b = (two_levels.split(x, shards) for x in (a, b))
  local = jax.vmap(scan, in_axes=1, out_axes=1)
  h = local(a, b, jnp.zeros_like(b[:, :, 0]))
  products = local(a, jnp.zeros_like(a), jnp.ones_like(a[:, :, 0]))
  last = 0 if reverse else -1
  before, final = two_levels.chain(
    products[:, :, last], h[:, :, last], initial, reverse
  )
  return two_levels.join(h + products * before[:, :, None]), final


def _sequential(
  a: jax.Array, b: jax.Array, initial: jax.Array, reverse: bool, chunk: int
) -> jax.Array:
  del chunk

  def step(
    h: jax.Array, inputs: tuple[jax.Array, jax.Array]
  ) -> tuple[jax.Array, jax.Array]:
    h = inputs[0] * h + inputs[1]
    return h, h

  steps = chunks.swap(a), chunks.swap(b)
  return chunks.swap(jax.lax.scan(step, initial, steps, reverse=reverse)[1])


def _combine(
  first: tuple[jax.Array, jax.Array], second: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
  """Two stretches of steps, the first one earlier, as one."""
  return first[0] * second[0], second[0] * first[1] + second[1]


def _associative(
  a: jax.Array, b: jax.Array, initial: jax.Array, reverse: bool, chunk: int
) -> jax.Array:
  del chunk
  products, h = jax.lax.associative_scan(
    _combine, (a, b), axis=1, reverse=reverse
  )
  return h + products * initial[:, None]


def _chunked(
  a: jax.Array, b: jax.Array, initial: jax.Array, reverse: bool, chunk: int
) -> jax.Array:
  length = b.shape[1]
  chunk = min(chunk, length)

  def run(
    state: jax.Array, inputs: tuple[jax.Array, jax.Array]
  ) -> tuple[jax.Array, jax.Array]:
    products, h = jax.lax.associative_scan(
      _combine, inputs, axis=0, reverse=reverse
    )
    h = h + products * state
    return h[0 if reverse else -1], h

  pieces = chunks.cut(a, chunk, fill=1.0), chunks.cut(b, chunk)
  _, h = jax.lax.scan(run, initial, pieces, reverse=reverse)
  return chunks.join(h, length)


_IMPLEMENTATIONS = {
  "associative": _associative,
  "chunked": _chunked,
  "sequential": _sequential,
}
