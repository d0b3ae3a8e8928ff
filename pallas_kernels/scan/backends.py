"""Kernels of the scans: what there is, and which one suits a device.

A kernel is a module `<operation>_<name>`, which has `scan`, of arrays that the
public function has checked, and `refusal`, which says in words what keeps it
from such arrays, or None.

linear: `scan(a, b, initial, *, reverse, interpret) -> h`, all float32 or
complex64.  a [B T ...] has zeros where a state is reset; its axes after the
first two may be of size 1 (on TPU those too).  It needs no derivative:
`linear` knows it.  `refusal(a, b)`.

selective: `scan(x, dt, a, b, c, d, z, dt_bias, initial, resets, *, softplus,
interpret) -> (y, final)`, differentiable in reverse mode by all but resets.
x, dt, b, c and z may be of any float dtype, a and initial are float32; all
from d on may be None.  y has the dtype of x, final is float32.
`refusal(x, a)`.
"""

import importlib
import logging
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import jax.numpy as jnp

from pallas_kernels import platforms

_log = logging.getLogger(__name__)


def load(operation: str, name: str) -> ModuleType:
  """The module of a kernel, imported when it is first asked for.

  Args:
    operation: "linear" or "selective".
    name: one of `platforms.KERNELS`.
  """
  return importlib.import_module(f"pallas_kernels.scan.{operation}_{name}")


def pick(
  operation: str,
  arrays: Sequence[Any],
  dtype: Any,
  default: str,
  *,
  length: int,
  shards: int,
) -> str:
  """The kernel for the device at hand if it takes the arrays, else `default`.

  None is picked for a single step, which is no work for one.  The compiler
  divides no kernel among devices: where a mesh is in scope along which it
  would have to, or the length is in shards, none is picked, either.

  Args:
    operation: "linear" or "selective".
    arrays: what the kernel's `refusal` asks for; shapes and dtypes.
    dtype: of the states.
    default: another implementation's name.
    length: T.
    shards: parts of the length.
  """
  target = platforms.target()
  name = _of(target)
  if name is None or length == 1 or shards > 1 or platforms.divided():
    return default
  why = refusal(operation, name, arrays, dtype)
  if why is None:
    _log.info("%s_scan on %s is by %r", operation, target.kind, name)
    return name
  _log.warning(
    "%s_scan on %s is by %r; not by %r: %s",
    *(operation, target.kind, default, name, why),
  )
  return default


def refusal(
  operation: str, name: str, arrays: Sequence[Any], dtype: Any
) -> str | None:
  """Why a kernel can't run on such arrays; None if it can."""
  if dtype not in (jnp.float32, jnp.complex64):
    return f"states of {jnp.dtype(dtype).name}, but kernels have float32"
  found: str | None = load(operation, name).refusal(*arrays)
  return found


def check(
  operation: str,
  name: str,
  arrays: Sequence[Any],
  dtype: Any,
  interpret: bool,
) -> None:
  """Raises ValueError where the named implementation can't do what is asked."""
  what = f"{operation}_scan"
  if name not in platforms.KERNELS:
    if interpret:
      raise ValueError(f"{what} interprets kernels only, not {name!r}")
    return
  why = refusal(operation, name, arrays, dtype)
  if why:
    raise ValueError(f"{what} with {name!r}: {why}")


def _of(target: platforms.Target) -> str | None:
  """The kernel that was written for a device; None for a device without."""
  if target.platform == "tpu":
    return "mosaic_tpu"
  if target.capability is None:
    return None
  return "mosaic_gpu" if target.tma else "triton"
