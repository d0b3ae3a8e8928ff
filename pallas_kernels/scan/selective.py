"""The selective scan of Mamba (S6): steps that depend on the input."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from pallas_kernels import platforms
from pallas_kernels.scan import backends, chunks, linear, selective_chunks
from pallas_kernels.scan import shards as two_levels
from pallas_kernels.scan.selective_chunks import Steps

_WHAT = "selective_scan"
_CHUNK = 64


def selective_scan(
  x: jax.Array,
  dt: jax.Array,
  a: jax.Array,
  b: jax.Array,
  c: jax.Array,
  *,
  d: jax.Array | None = None,
  z: jax.Array | None = None,
  dt_bias: jax.Array | None = None,
  dt_softplus: bool = False,
  initial: jax.Array | None = None,
  resets: jax.Array | None = None,
  chunk: int | None = None,
  shards: int = 1,
  implementation: str | None = None,
  interpret: bool = False,
) -> tuple[jax.Array, jax.Array]:
  """h_t = exp(dt_t a) h_{t-1} + dt_t b_t x_t; y_t = <c_t, h_t> + d x_t.

  Gu and Dao 2023, https://arxiv.org/abs/2312.00752, algorithm 2; with z, the
  gate of its figure 3, y_t silu(z_t).

  Args:
    x: [B T E], any float dtype; computed with in float32, as are the others.
    dt: [B T E], step sizes, at least 0 (after softplus, if that is asked for).
    a: [E P], continuous and negative.
    b: [B T P].
    c: [B T P].
    d: [E], weight of the input itself; None for 0.
    z: [B T E], gate; None for none.
    dt_bias: [E], added to dt; None for 0.
    dt_softplus: the step sizes are softplus(dt + dt_bias).
    initial: [B E P] state before the first step; None for zeros.
    resets: [B T] bool; where True the state before the step counts as 0.
    chunk: steps of a chunk of the chunked implementations; None picks.
    shards: parts into which the length is divided among devices; they are
      scanned at the same time, twice, with the same result.
    implementation: "associative" (whole [B T E P] in memory), "chunked" and
      "chunked_associative" (no more than [B chunk E P] at once, also in the
      backward pass; step by step, or `jax.lax.associative_scan`, within a
      chunk), "sequential" (the definition, step by step), or a kernel:
      "mosaic_tpu", "mosaic_gpu" (Hopper, Blackwell) or "triton" (other NVIDIA
      devices); None is what `pick_selective_scan` says.
    interpret: run a kernel step by step on whatever device there is.

  Returns:
    y [B T E] in the dtype of x, and the last state [B E P], float32.

  Raises:
    ValueError: shapes that do not fit, an unknown implementation, one that
      can't run on these arrays or be interpreted, or a length that the shards
      do not divide.
  """
  chunk = _CHUNK if chunk is None else chunk
  chunks.check_chunk(_WHAT, chunk)
  dtype = chunks.float32_at_least(x, dt, a, b, c)
  name = implementation or _pick(x, a, dtype, shards)
  chunks.check_known(_WHAT, name, (*_IMPLEMENTATIONS, *platforms.KERNELS))
  (batch, length, width), state = x.shape, a.shape[-1]
  two_levels.check(_WHAT, length, shards)
  chunks.check_shape(_WHAT, "dt", dt, x.shape)
  chunks.check_shape(_WHAT, "a", a, (width, state))
  chunks.check_shape(_WHAT, "b", b, (batch, length, state))
  chunks.check_shape(_WHAT, "c", c, (batch, length, state))
  chunks.check_shape(_WHAT, "d", d, (width,))
  chunks.check_shape(_WHAT, "z", z, x.shape)
  chunks.check_shape(_WHAT, "dt_bias", dt_bias, (width,))
  chunks.check_shape(_WHAT, "resets", resets, (batch, length))
  chunks.check_shape(_WHAT, "initial", initial, (batch, width, state))
  backends.check("selective", name, (x, a), dtype, interpret)
  a = jnp.asarray(a, dtype)
  if initial is not None:
    initial = jnp.asarray(initial, dtype)
  if name in platforms.KERNELS and shards == 1:
    kernel = backends.load("selective", name)
    y, final = kernel.scan(
      *(x, dt, a, b, c, d, z, dt_bias, initial, resets),
      softplus=dt_softplus,
      interpret=interpret,
    )
    return y, final
  if initial is None:
    initial = jnp.zeros((batch, width, state), dtype)
  if dt_bias is not None:
    dt = dt.astype(dtype) + dt_bias.astype(dtype)
  if dt_softplus:
    dt = jax.nn.softplus(dt.astype(dtype))
  steps = Steps(x, dt, b, c, resets)
  scan = _of(name, interpret)
  if shards == 1:
    y, final = scan(a, steps, initial, chunk)
  else:
    y, final = _in_shards(scan, a, steps, initial, chunk, shards)
  if d is not None:
    y = y + jnp.asarray(d, dtype) * x
  if z is not None:
    y = y * jax.nn.silu(z.astype(dtype))
  return y.astype(x.dtype), final


def pick_selective_scan(
  x: jax.Array | jax.ShapeDtypeStruct,
  a: jax.Array | jax.ShapeDtypeStruct,
  *,
  shards: int = 1,
) -> str:
  """The implementation that `selective_scan` takes where none is named.

  It is the kernel for the device at hand, unless that refuses the arrays,
  there is one step only, or the compiler divides arrays among devices; then
  "chunked" on a CPU, "chunked_associative" elsewhere.

  Args:
    x: [B T E]; its shape and dtype are all that is asked for.
    a: [E P], likewise.
    shards: of `selective_scan`.
  """
  return _pick(x, a, chunks.float32_at_least(x, a), shards)


def _pick(
  x: jax.Array | jax.ShapeDtypeStruct,
  a: jax.Array | jax.ShapeDtypeStruct,
  dtype: jnp.dtype,
  shards: int,
) -> str:
  default = "chunked"
  if platforms.target().platform != "cpu":
    default = "chunked_associative"  # A step is too little work for a device.
  return backends.pick(
    "selective", (x, a), dtype, default, length=x.shape[1], shards=shards
  )


_Scan = Callable[
  [jax.Array, Steps, jax.Array, int], tuple[jax.Array, jax.Array]
]


def _of(name: str, interpret: bool) -> _Scan:
  """The scan without d, gate and softplus, by the implementation."""
  if name in _IMPLEMENTATIONS:
    return _IMPLEMENTATIONS[name]
  kernel = backends.load("selective", name)

  def scan(
    a: jax.Array, steps: Steps, initial: jax.Array, chunk: int
  ) -> tuple[jax.Array, jax.Array]:
    del chunk
    x, dt, b, c, resets = steps
    # In float32: y is not complete yet.
    y, final = kernel.scan(
      *(x.astype(a.dtype), dt, a, b, c, None, None, None, initial, resets),
      softplus=False,
      interpret=interpret,
    )
    return y, final

  return scan


def _in_shards(
  scan: _Scan,
  a: jax.Array,
  steps: Steps,
  initial: jax.Array,
  chunk: int,
  shards: int,
) -> tuple[jax.Array, jax.Array]:
  steps = jax.tree.map(lambda x: two_levels.split(x, shards), steps)
  total = jnp.sum(steps.dt, axis=2, dtype=a.dtype)
  factors = jnp.exp(total[..., None] * a)
  factors = two_levels.any_reset(steps.resets, factors)

  def local(*inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
    *arrays, initial = inputs
    return scan(a, Steps(*arrays), initial, chunk)

  return two_levels.two_level(local, steps, factors, initial)


def _sequential(
  a: jax.Array, steps: Steps, initial: jax.Array, chunk: int
) -> tuple[jax.Array, jax.Array]:
  del chunk

  def one(h: jax.Array, step: Steps) -> tuple[jax.Array, jax.Array]:
    x, dt, b, c, _ = step.astype(a.dtype)
    added = (dt * x)[:, :, None] * b[:, None]
    h = jnp.exp(dt[:, :, None] * a) * step.kept(h) + added
    return h, jnp.sum(h * c[:, None], axis=-1)

  final, y = jax.lax.scan(one, initial, jax.tree.map(chunks.swap, steps))
  return chunks.swap(y), final


def _associative(
  a: jax.Array, steps: Steps, initial: jax.Array, chunk: int
) -> tuple[jax.Array, jax.Array]:
  del chunk
  x, dt, b, c, resets = steps.astype(a.dtype)
  h, final = linear.linear_scan(
    jnp.exp(dt[..., None] * a),
    (dt * x)[..., None] * b[:, :, None],
    initial=initial,
    resets=resets,
    implementation="associative",
  )
  return jnp.einsum("btep,btp->bte", h, c), final


def _chunked_associative(
  a: jax.Array, steps: Steps, initial: jax.Array, chunk: int
) -> tuple[jax.Array, jax.Array]:
  def run(h: jax.Array, steps: Steps) -> tuple[jax.Array, jax.Array]:
    y, h = _associative(a, steps, h, chunk)
    return h, y

  final, y = chunks.scan_chunks(run, initial, steps, chunk)
  return y, final


_IMPLEMENTATIONS: dict[str, _Scan] = {
  "associative": _associative,
  "chunked": selective_chunks.scan,
  "chunked_associative": _chunked_associative,
  "sequential": _sequential,
}
