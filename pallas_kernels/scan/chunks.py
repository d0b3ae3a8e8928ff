"""Cutting the time axis into chunks, and what all scans check."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp


def pick(
  what: str,
  implementation: str | None,
  known: Mapping[str, Callable[..., Any]],
  default: str,
) -> Callable[..., Any]:
  """The function of that name; ValueError says which names there are."""
  name = implementation or default
  check_known(what, name, known)
  return known[name]


def check_known(what: str, name: str, known: Iterable[str]) -> None:
  """Raises ValueError, with the names there are, unless one is `name`."""
  if name not in known:
    raise ValueError(
      f"{what} implementation {name!r} is not one of {', '.join(sorted(known))}"
    )


def check_chunk(what: str, chunk: int) -> None:
  """Raises ValueError unless a chunk has a step at least."""
  if chunk < 1:
    raise ValueError(f"{what} needs a chunk of at least 1 step, not {chunk}")


def check_shape(
  what: str, name: str, x: jax.Array | None, shape: tuple[int, ...]
) -> None:
  """Raises ValueError unless x has the shape; what is None has any."""
  if x is not None and x.shape != shape:
    raise ValueError(f"{what} needs {name} of shape {shape}, not {x.shape}")


def float32_at_least(
  *arrays: jax.Array | jax.ShapeDtypeStruct | None,
) -> Any:
  """The arrays' common dtype, float32 at least: no state is bfloat16."""
  return jnp.result_type(jnp.float32, *(x for x in arrays if x is not None))


def swap(x: jax.Array) -> jax.Array:
  """[B T ...] as [T B ...], and back."""
  return jnp.swapaxes(x, 0, 1)


def cut(x: jax.Array, chunk: int, fill: float = 0.0) -> jax.Array:
  """[B T ...] as chunks [T/chunk, chunk, B, ...], time first, for `lax.scan`.

  Steps of `fill` complete the last chunk.
  """
  x = swap(x)
  missing = -len(x) % chunk
  if missing:
    widths = [(0, missing)] + [(0, 0)] * (x.ndim - 1)
    x = jnp.pad(x, widths, constant_values=fill)
  return x.reshape(-1, chunk, *x.shape[1:])


def join(x: jax.Array, length: int) -> jax.Array:
  """The inverse of `cut`: [T/chunk, chunk, B, ...] as [B T ...]."""
  return swap(x.reshape(-1, *x.shape[2:])[:length])


def scan_chunks(
  function: Callable[[Any, Any], tuple[Any, jax.Array]],
  state: Any,
  inputs: Any,
  chunk: int,
) -> tuple[Any, jax.Array]:
  """Runs `function` over chunks of `chunk` steps, one after the other.

  Only the states between chunks are kept for the backward pass, which
  computes each chunk once more.  Steps of zeros complete the last chunk: they
  must leave the state as it is.

  Args:
    function: (state, inputs [B chunk ...]) -> (state, output [B chunk ...]).
    state: pytree before the first step.
    inputs: pytree of arrays [B T ...].
    chunk: number of steps.

  Returns:
    The state after the last step, and the output [B T ...].
  """
  length = jax.tree.leaves(inputs)[0].shape[1]
  chunk = min(chunk, length)

  @jax.checkpoint
  def run(state: Any, piece: Any) -> tuple[Any, jax.Array]:
    state, y = function(state, jax.tree.map(swap, piece))
    return state, swap(y)

  pieces = jax.tree.map(lambda x: cut(x, chunk), inputs)
  state, y = jax.lax.scan(run, state, pieces)
  return state, join(y, length)
