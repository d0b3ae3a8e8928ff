"""The selective scan by kernels for Hopper and Blackwell GPUs.

The forward pass keeps the states between chunks of steps, and the backward
pass computes those within a chunk again.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from pallas_kernels import compat
from pallas_kernels.scan import selective_mosaic_gpu_backward as backward
from pallas_kernels.scan import selective_mosaic_gpu_forward as forward

_MOST_STATES = 16
# Threads load states by fours, and two of them share a channel.
_STATES = 8
_FLOATS = ("float32", "bfloat16", "float16")
# A step size that is none after softplus, whatever the bias.
_NO_STEP = -1e4
# A power of 2 that is 0, whatever is added to it.
_RESET = -1e30


def refusal(x: Any, a: Any) -> str | None:
  """Why the kernels can't scan x [B T E] with a [E P]; None if they can."""
  if compat.VERSION < (0, 11):
    return "jax is older than 0.11"
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
  """y [B T E] and the last state [B E P], as `selective_scan`."""
  (batch, length, width), states = x.shape, a.shape[1]
  f32 = jnp.float32
  sizes = forward.Sizes(softplus=softplus)
  if dt_bias is not None and not softplus:
    dt, dt_bias = dt.astype(f32) + dt_bias.astype(f32), None
  no_step = _NO_STEP if softplus else 0.0
  chunk, channels = sizes.chunk, forward.CHANNELS
  if initial is None:
    initial = jnp.zeros((batch, width, states), f32)
  arrays = {
    "x": _pad(x, (1, chunk), (2, channels)),
    "dt": _pad(_pad(dt, (1, chunk), value=no_step), (2, channels)),
    "b": _pad(b.astype(f32), (1, chunk), (2, _STATES)),
    "c": _pad(c.astype(f32), (1, chunk), (2, _STATES)),
    "a": _pad(a * forward.LOG2_E, (0, channels), (1, _STATES)),
    "d": _of_channels(d, width),
    "bias": _of_channels(dt_bias, width),
    "initial": _pad(initial, (1, channels), (2, _STATES)),
  }
  if z is not None:
    arrays["z"] = _pad(z, (1, chunk), (2, channels))
  if resets is not None:
    rows = jnp.where(resets, _RESET, 0.0).astype(f32)
    arrays["resets"] = _pad(rows, (1, chunk))
  parameters = compat.gpu_interpreter() if interpret else None
  y, final = _scan(sizes, parameters, arrays)
  return y[:, :length, :width], final[:, :width, :states]


def _pad(
  x: jax.Array, *multiples: tuple[int, int], value: float = 0.0
) -> jax.Array:
  """x with each of the axes a multiple, by `value` at its end."""
  widths = [(0, 0)] * x.ndim
  for axis, multiple in multiples:
    widths[axis] = 0, -x.shape[axis] % multiple
  if not any(end for _, end in widths):
    return x
  return jnp.pad(x, widths, constant_values=value)


def _of_channels(x: jax.Array | None, width: int) -> jax.Array:
  x = jnp.zeros(width) if x is None else x
  return _pad(x.astype(jnp.float32), (0, forward.CHANNELS))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _scan(
  sizes: forward.Sizes, interpret: Any, arrays: dict[str, jax.Array]
) -> tuple[jax.Array, jax.Array]:
  """As `scan`, of arrays as `forward.forward` takes them."""
  y, final = forward.forward(arrays, sizes, keep=False, interpret=interpret)
  return y, final


def _forward(
  sizes: forward.Sizes, interpret: Any, arrays: dict[str, jax.Array]
) -> tuple[tuple[jax.Array, jax.Array], dict[str, jax.Array]]:
  y, final, before = forward.forward(
    arrays, sizes, keep=True, interpret=interpret
  )
  kept = {name: x for name, x in arrays.items() if name != "initial"}
  return (y, final), kept | {"before": before}


def _backward(
  sizes: forward.Sizes,
  interpret: Any,
  kept: dict[str, jax.Array],
  gradients: tuple[jax.Array, jax.Array],
) -> tuple[dict[str, jax.Array]]:
  dy, dfinal = gradients
  found = backward.backward(
    kept | {"dy": dy, "dfinal": dfinal}, sizes, interpret=interpret
  )
  db, dc = backward.sum_of_tiles(found["dbc"])
  sums = {
    "b": db,
    "c": dc,
    "a": jnp.sum(found["da"], axis=0) * backward.LN_2,
    "d": jnp.sum(found["dd"], axis=0),
    "bias": jnp.sum(found["dbias"], axis=0),
    "initial": found["dinitial"],
  }
  of_steps: dict[str, jax.Array] = {
    name: found[f"d{name}"] for name in kept if name in forward.OF_CHANNELS
  }
  if "resets" in kept:
    of_steps["resets"] = jnp.zeros_like(kept["resets"])
  return (sums | of_steps,)


_scan.defvjp(_forward, _backward)
