"""Attention without softmax: a matrix as state, also with decay."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pallas_kernels import platforms
from pallas_kernels.scan import chunks
from pallas_kernels.scan import shards as two_levels

_WHAT = "linear_attention"


class _Steps(NamedTuple):
  """Inputs of steps [B T *]; N heads are K groups of G."""

  q: jax.Array  # [B T K P]
  k: jax.Array  # [B T K P]
  v: jax.Array  # [B T K G H]
  log_decay: jax.Array | None  # [B T K G]
  resets: jax.Array | None  # [B T]

  def astype(self, dtype: jnp.dtype) -> "_Steps":
    """The same, computed with in `dtype`."""
    arrays = jax.tree.map(lambda x: x.astype(dtype), self[:4])
    q, k, v, log_decay = arrays
    return _Steps(q, k, v, log_decay, self.resets)


def linear_attention(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  *,
  log_decay: jax.Array | None = None,
  initial: jax.Array | None = None,
  resets: jax.Array | None = None,
  chunk: int | None = None,
  shards: int = 1,
  implementation: str | None = None,
) -> tuple[jax.Array, jax.Array]:
  """S_t = exp(log_decay_t) S_{t-1} + k_t v_t'; y_t = q_t' S_t.

  Linear attention (Katharopoulos et al. 2020), retention (Sun et al. 2023)
  and the state-space duality of Mamba-2 (Dao and Gu 2024, whose chunked form
  this is: matrix products within a chunk, a scan over chunks).

  Args:
    q: [B T K P], any float dtype; K divides N, and head n of v reads head
      n // (N / K).
    k: [B T K P].
    v: [B T N H].
    log_decay: [B T N], at most 0 and finite; None for 0.
    initial: [B N P H] state before the first step; None for zeros.
    resets: [B T] bool; where True the state before the step counts as 0.
    chunk: steps of a chunk of the chunked implementation; None picks for the
      platform.
    shards: parts into which the length is divided among devices; they are
      scanned at the same time, twice, with the same result.
    implementation: "chunked" or "sequential" (the definition, step by step);
      None picks.

  Returns:
    y [B T N H] in the dtype of v, and the last state [B N P H], float32.

  Raises:
    ValueError: shapes that do not fit, an unknown implementation, or a length
      that the shards do not divide.
  """
  if chunk is None:
    # Matrix units like large chunks, whose decays cost a CPU more.
    chunk = 32 if platforms.target().platform == "cpu" else 64
  chunks.check_chunk(_WHAT, chunk)
  scan = chunks.pick(_WHAT, implementation, _IMPLEMENTATIONS, "chunked")
  batch, length, groups, width = q.shape
  heads, size = v.shape[2:]
  if heads % groups:
    raise ValueError(
      f"linear_attention has {heads} value heads and {groups} key heads,"
      " which must divide them"
    )
  two_levels.check(_WHAT, length, shards)
  chunks.check_shape(_WHAT, "k", k, q.shape)
  chunks.check_shape(_WHAT, "v", v, (batch, length, heads, size))
  chunks.check_shape(_WHAT, "log_decay", log_decay, (batch, length, heads))
  chunks.check_shape(_WHAT, "resets", resets, (batch, length))
  shape = (batch, heads, width, size)
  chunks.check_shape(_WHAT, "initial", initial, shape)
  dtype = chunks.float32_at_least(q, k, v, log_decay)
  initial = jnp.zeros(shape, dtype) if initial is None else initial
  grouped = (groups, heads // groups)
  steps = _Steps(q, k, v.reshape(batch, length, *grouped, size), None, resets)
  if log_decay is not None:
    log_decay = log_decay.reshape(batch, length, *grouped)
    steps = steps._replace(log_decay=log_decay)
  state = jnp.asarray(initial, dtype).reshape(batch, *grouped, width, size)
  if shards == 1:
    y, final = scan(steps, state, chunk)
  else:
    y, final = _in_shards(scan, steps, state, chunk, shards)
  return y.reshape(v.shape).astype(v.dtype), final.reshape(shape)


def _in_shards(
  scan: Callable[..., tuple[jax.Array, jax.Array]],
  steps: _Steps,
  state: jax.Array,
  chunk: int,
  shards: int,
) -> tuple[jax.Array, jax.Array]:
  steps = jax.tree.map(lambda x: two_levels.split(x, shards), steps)
  factors = jnp.ones((*steps.v.shape[:2], 1, 1, 1, 1), state.dtype)
  if steps.log_decay is not None:
    total = jnp.sum(steps.log_decay, axis=2, dtype=state.dtype)
    factors = jnp.exp(total)[..., None, None]
  factors = two_levels.any_reset(steps.resets, factors)

  def local(*inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
    *arrays, state = inputs
    return scan(_Steps(*arrays), state, chunk)

  return two_levels.two_level(local, steps, factors, state)


def _sequential(
  steps: _Steps, state: jax.Array, chunk: int
) -> tuple[jax.Array, jax.Array]:
  del chunk

  def step(state: jax.Array, one: _Steps) -> tuple[jax.Array, jax.Array]:
    q, k, v, log_decay, reset = one.astype(state.dtype)
    if reset is not None:
      reset = reset.reshape(-1, 1, 1, 1, 1)
      state = jnp.where(reset, jnp.zeros_like(state), state)
    if log_decay is not None:
      state = jnp.exp(log_decay)[..., None, None] * state
    state = state + jnp.einsum("bkp,bkgh->bkgph", k, v)
    return state, jnp.einsum("bkp,bkgph->bkgh", q, state)

  state, y = jax.lax.scan(step, state, jax.tree.map(chunks.swap, steps))
  return chunks.swap(y), state


def _chunked(
  steps: _Steps, state: jax.Array, chunk: int
) -> tuple[jax.Array, jax.Array]:
  state, y = chunks.scan_chunks(_one_chunk, state, steps, chunk)
  return y, state


def _one_chunk(state: jax.Array, steps: _Steps) -> tuple[jax.Array, jax.Array]:
  """Matrix products for the steps of a chunk; decays by their cumulated log."""
  q, k, v, log_decay, resets = steps.astype(state.dtype)
  length = q.shape[1]
  seen = jnp.tril(jnp.ones((length, length), bool))[None]
  goes_on = jnp.ones((1, length), bool)
  if resets is not None:
    example = jnp.cumsum(resets, axis=1)
    seen = seen & (example[:, :, None] == example[:, None])
    goes_on = example == 0  # Sees the state before the chunk.
  if log_decay is None:
    log_decay = jnp.zeros((1, length, 1, 1), state.dtype)
  log_decay = jnp.moveaxis(log_decay, 1, -1)  # [B K G T].
  between = jnp.where(seen[:, None, None], _between(log_decay), -jnp.inf)
  before = jnp.cumsum(log_decay, axis=-1)
  before = jnp.where(goes_on[:, None, None], before, -jnp.inf)
  # Masked before exp, whose gradient is 0 there.
  between, before = jnp.exp(between), jnp.exp(before)
  weights = jnp.einsum("btkp,bskp->bkts", q, k)[:, :, None] * between
  y = jnp.einsum("bkgts,bskgh->btkgh", weights, v)
  passed = jnp.einsum("btkp,bkgph->btkgh", q, state)
  y = y + jnp.moveaxis(before, -1, 1)[..., None] * passed
  state = before[..., -1, None, None] * state
  v = jnp.moveaxis(between[..., -1, :], -1, 1)[..., None] * v
  return state + jnp.einsum("bskp,bskgh->bkgph", k, v), y


def _between(log_decay: jax.Array) -> jax.Array:
  """Sums [... T S] of log_decay [... T] over the steps after s, up to t.

  As differences of cumulated sums they would lose digits to every strong decay
  before s, even one of another example.
  """
  length = log_decay.shape[-1]
  up_to = jnp.tril(jnp.ones((length, length), log_decay.dtype))
  terms = log_decay[..., None] * (
    up_to - jnp.eye(length, dtype=log_decay.dtype)
  )
  return jnp.einsum(
    "tr,...rs->...ts", up_to, terms, precision=jax.lax.Precision.HIGHEST
  )


_IMPLEMENTATIONS = {"chunked": _chunked, "sequential": _sequential}
