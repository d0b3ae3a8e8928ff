"""The devices that a run is laid out on: those there are, or others' names.

What is compiled for a machine that is not here (`t5x_lite compile`) is laid out
on jax's descriptions of its devices, which compile but hold no arrays.
"""

import contextlib
import contextvars
from collections.abc import Iterator, Sequence
from typing import Any

import jax

_GIVEN: contextvars.ContextVar[tuple[Any, ...]] = contextvars.ContextVar(
  "devices", default=()
)


def devices() -> list[Any]:
  """All devices of the run."""
  return list(_GIVEN.get() or jax.devices())


@contextlib.contextmanager
def described(devices: Sequence[Any]) -> Iterator[None]:
  """Lays out on these devices instead."""
  token = _GIVEN.set(tuple(devices))
  try:
    yield
  finally:
    _GIVEN.reset(token)
