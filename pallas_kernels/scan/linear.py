"""h_t = a_t h_{t-1} + b_t, for real and complex diagonal recurrences."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from pallas_kernels.scan import chunks
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
      "sequential" (the definition, step by step); None picks for the platform.

  Returns:
    The states [B T ...] and the one after the last step [B ...] (of step 0 if
    reversed), float32 at least.

  Raises:
    ValueError: shapes that do not fit, an unknown implementation, or a length
      that the shards do not divide.
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
  default = "sequential" if jax.default_backend() == "cpu" else "associative"
  name = implementation or default
  chunks.pick(_WHAT, name, _IMPLEMENTATIONS, default)
  shape = b.shape[:1] + b.shape[2:]
  chunks.check_shape(_WHAT, "initial", initial, shape)
  chunks.check_shape(_WHAT, "resets", resets, b.shape[:2])
  dtype = chunks.float32_at_least(a, b, initial)
  a, b = jnp.asarray(a, dtype), jnp.asarray(b, dtype)
  initial = jnp.zeros(shape, dtype) if initial is None else initial
  initial = jnp.asarray(initial, dtype)
  a = jnp.broadcast_to(a, b.shape[:2] + a.shape[2:])
  if resets is not None:
    resets = resets.reshape(b.shape[:2] + (1,) * (b.ndim - 2))
    a = jnp.where(resets, jnp.zeros_like(a), a)
  scan = functools.partial(_scan, name, chunk)
  if shards > 1:
    return _in_shards(scan, a, b, initial, shards, reverse)
  if reverse:
    a, b = jnp.flip(a, 1), jnp.flip(b, 1)
  h = scan(a, b, initial)
  return (jnp.flip(h, 1) if reverse else h), h[:, -1]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _scan(
  name: str, chunk: int, a: jax.Array, b: jax.Array, initial: jax.Array
) -> jax.Array:
  """The states [B T ...] by the implementation of that name."""
  return _IMPLEMENTATIONS[name](a, b, initial, chunk)


def _forward(
  name: str, chunk: int, a: jax.Array, b: jax.Array, initial: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
  h = _scan(name, chunk, a, b, initial)
  return h, (a, h, initial)


def _backward(
  name: str, chunk: int, kept: tuple[jax.Array, ...], dh: jax.Array
) -> tuple[jax.Array, ...]:
  """The state after step t is used by step t + 1, which multiplies by a."""
  a, h, initial = kept
  following = jnp.concatenate([a[:, 1:], jnp.zeros_like(a[:, :1])], axis=1)
  db = _scan(
    *(name, chunk),
    *(jnp.flip(following, 1), jnp.flip(dh, 1)),
    jnp.zeros_like(initial),
  )
  db = jnp.flip(db, 1)
  before = jnp.concatenate([initial[:, None], h[:, :-1]], axis=1)
  da = db * before
  broadcast = [i for i in range(a.ndim) if a.shape[i] != da.shape[i]]
  da = jnp.sum(da, axis=broadcast, keepdims=True)
  return da, db, a[:, 0] * db[:, 0]


_scan.defvjp(_forward, _backward)


def _in_shards(
  scan: Callable[..., jax.Array],
  a: jax.Array,
  b: jax.Array,
  initial: jax.Array,
  shards: int,
  reverse: bool,
) -> tuple[jax.Array, jax.Array]:
  """As `shards.two_level`; the second pass multiplies and adds only.

  Each shard is turned around by itself: nothing moves between devices.
  """
  a, b = (two_levels.split(x, shards) for x in (a, b))
  if reverse:
    a, b = jnp.flip(a, 2), jnp.flip(b, 2)
  local = jax.vmap(scan, in_axes=1, out_axes=1)
  h = local(a, b, jnp.zeros_like(b[:, :, 0]))
  products = local(a, jnp.zeros_like(a), jnp.ones_like(a[:, :, 0]))
  before, final = two_levels.chain(
    products[:, :, -1], h[:, :, -1], initial, reverse
  )
  h = h + products * before[:, :, None]
  return two_levels.join(jnp.flip(h, 2) if reverse else h), final


def _sequential(
  a: jax.Array, b: jax.Array, initial: jax.Array, chunk: int
) -> jax.Array:
  del chunk

  def step(
    h: jax.Array, inputs: tuple[jax.Array, jax.Array]
  ) -> tuple[jax.Array, jax.Array]:
    h = inputs[0] * h + inputs[1]
    return h, h

  _, h = jax.lax.scan(step, initial, (chunks.swap(a), chunks.swap(b)))
  return chunks.swap(h)


def _combine(
  first: tuple[jax.Array, jax.Array], second: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
  """Two stretches of steps, the first one earlier, as one."""
  return first[0] * second[0], second[0] * first[1] + second[1]


def _associative(
  a: jax.Array, b: jax.Array, initial: jax.Array, chunk: int
) -> jax.Array:
  del chunk
  products, h = jax.lax.associative_scan(_combine, (a, b), axis=1)
  return h + products * initial[:, None]


def _chunked(
  a: jax.Array, b: jax.Array, initial: jax.Array, chunk: int
) -> jax.Array:
  length = b.shape[1]
  chunk = min(chunk, length)

  def run(
    state: jax.Array, inputs: tuple[jax.Array, jax.Array]
  ) -> tuple[jax.Array, jax.Array]:
    products, h = jax.lax.associative_scan(_combine, inputs, axis=0)
    h = h + products * state
    return h[-1], h

  pieces = chunks.cut(a, chunk, fill=1.0), chunks.cut(b, chunk)
  return chunks.join(jax.lax.scan(run, initial, pieces)[1], length)


_IMPLEMENTATIONS = {
  "associative": _associative,
  "chunked": _chunked,
  "sequential": _sequential,
}
