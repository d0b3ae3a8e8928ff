"""The selective scan on TPUs: shapes that its kernels take, and derivatives."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from pallas_kernels import platforms
from pallas_kernels.scan.selective_mosaic_tpu_backward import backward
from pallas_kernels.scan.selective_mosaic_tpu_forward import forward
from pallas_kernels.scan.selective_mosaic_tpu_steps import (
  LANES,
  LOG2_E,
  STEPS,
  SUBLANES,
  Plan,
)

# Steps and channels of a grid step, for 16 states: what VMEM holds.
_SIZES = (128, 1024)
_SMALL_SIZES = (64, 512)
_SMALL = ("TPU v2", "TPU v3", "TPU v4")
# Tiles of 128 channels at a time, the best first: enough of them that one's
# arithmetic fills the other's latency, few enough for the registers.
_TILES = (4, 5, 3, 2, 1)
_STATES = 16  # For which all that is.
# A step size that is none after softplus, whatever the bias.
_NO_STEP = -1e9
_MOST_STATES = 128
_FLOATS = ("float32", "bfloat16")


def refusal(x: Any, a: Any) -> str | None:
  """Why the kernel can't scan x [B T E] with a [E P]; None if it can."""
  if jnp.dtype(x.dtype).name not in _FLOATS:
    return f"x is {jnp.dtype(x.dtype).name}, not one of {', '.join(_FLOATS)}"
  if a.shape[1] > _MOST_STATES:
    return f"{a.shape[1]} states, more than {_MOST_STATES}"
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
  """y [B T E] and the last state [B E P], as `selective_scan`."""
  (batch, length, width), states = x.shape, a.shape[1]
  plan = _plan(
    *(batch, length, width, states),
    softplus=softplus,
    gated=z is not None,
    resets=resets is not None,
    interpret=interpret,
  )
  # Channels, states and steps that are none complete the blocks.
  channels, more = plan.width - width, plan.states - states
  later = plan.length - length
  arrays = {
    "x": _pad(x, later, channels),
    "dt": _pad(dt, later, channels, fill=_NO_STEP if softplus else 0.0),
    "selectors": _selectors(plan, b, c, resets),
    "a": _by_tile(_pad(a.astype(jnp.float32) * LOG2_E, channels, more)),
    "d": _weights(plan, d),
    "bias": _weights(plan, dt_bias),
    "initial": jnp.zeros(
      (batch, plan.width // LANES, plan.states, LANES), jnp.float32
    )
    if initial is None
    else _by_tile(_pad(initial.astype(jnp.float32), channels, more)),
  }
  if z is not None:
    arrays["z"] = _pad(z, later, channels)
  y, final = _scan(plan, arrays)
  final = jnp.swapaxes(final, 2, 3).reshape(batch, plan.width, plan.states)
  return y[:, :length, :width], final[:, :width, :states]


def _plan(
  batch: int, length: int, width: int, states: int, **options: bool
) -> Plan:
  chunk, block = _SMALL_SIZES if platforms.target().kind in _SMALL else _SIZES
  most = max(_TILES)
  states = _up(states, SUBLANES)
  if states > _STATES:
    chunk = max(_up(chunk * _STATES // states, STEPS), STEPS)
    most = max(most * _STATES // states, 1)
  chunk = min(chunk, _up(length, STEPS))
  count = -(-width // LANES)
  tiles = next(n for n in _TILES if n <= most and count % n == 0)
  groups = count // tiles
  groups = max(
    n
    for n in range(1, groups + 1)
    if groups % n == 0 and (n == 1 or n * tiles * LANES <= block)
  )
  return Plan(
    batch=batch,
    length=_up(length, chunk),
    width=count * LANES,
    states=states,
    chunk=chunk,
    block=groups * tiles * LANES,
    tiles=tiles,
    **options,
  )


def _up(size: int, unit: int) -> int:
  """The least multiple that is no smaller."""
  return math.ceil(size / unit) * unit


def _pad(x: jax.Array, rows: int, columns: int, fill: float = 0.0) -> jax.Array:
  """x [... R C] with that many rows and columns more."""
  if not rows and not columns:
    return x
  widths = [(0, 0)] * (x.ndim - 2) + [(0, rows), (0, columns)]
  return jnp.pad(x, widths, constant_values=fill)


def _by_tile(x: jax.Array) -> jax.Array:
  """[... E P] as [... E/128 P 128]."""
  *rest, width, states = x.shape
  x = x.reshape(*rest, width // LANES, LANES, states)
  return jnp.swapaxes(x, -1, -2)


def _weights(plan: Plan, x: jax.Array | None) -> jax.Array:
  """[E] as [E/128 1 128]; None as zeros."""
  if x is None:
    return jnp.zeros((plan.width // LANES, 1, LANES), jnp.float32)
  x = _pad(x.astype(jnp.float32)[None], 0, plan.width - x.shape[0])
  return x.reshape(-1, 1, LANES)


def _selectors(
  plan: Plan, b: jax.Array, c: jax.Array, resets: jax.Array | None
) -> jax.Array:
  """b, c and what steps keep side by side: [B T *], float32."""
  later, more = plan.length - b.shape[1], plan.states - b.shape[2]
  parts = [_pad(x.astype(jnp.float32), later, more) for x in (b, c)]
  if resets is not None:
    kept = 1.0 - resets[..., None].astype(jnp.float32)
    kept = jnp.broadcast_to(kept, (*resets.shape, SUBLANES))
    parts.append(_pad(kept, later, 0, fill=1.0))
  return jnp.concatenate(parts, axis=-1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _scan(
  plan: Plan, arrays: dict[str, jax.Array]
) -> tuple[jax.Array, jax.Array]:
  found = forward(plan, arrays, keep=False)
  return found["y"], found["final"]


def _forward(
  plan: Plan, arrays: dict[str, jax.Array]
) -> tuple[tuple[jax.Array, jax.Array], dict[str, jax.Array]]:
  found = forward(plan, arrays, keep=True)
  kept = {name: x for name, x in arrays.items() if name != "initial"}
  return (found["y"], found["final"]), {**kept, "before": found["before"]}


def _backward(
  plan: Plan,
  kept: dict[str, jax.Array],
  gradients: tuple[jax.Array, jax.Array],
) -> tuple[dict[str, jax.Array]]:
  dy, dfinal = gradients
  found = backward(plan, {**kept, "dy": dy, "dfinal": dfinal})
  names = ("x", "dt", "z", "initial")
  out = {name: found["d" + name] for name in names if "d" + name in found}
  out["selectors"] = _pad(
    found["dselectors"], 0, plan.selectors - 2 * plan.states
  )
  # a came times log2(e): so divides its gradient.
  out["a"] = jnp.sum(found["da"], axis=0) / LOG2_E
  for name, given in (("d", "dd"), ("bias", "dbias")):
    out[name] = jnp.sum(found[given], axis=(0, 2))[:, None]
  return (out,)


_scan.defvjp(_forward, _backward)
