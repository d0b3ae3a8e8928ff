"""Which implementation of attention runs, and where."""

import importlib
import logging
from typing import Any

from pallas_kernels import platforms

# Each is a module of this package.
MODULES = {
  "chunked": "chunked",
  "mosaic_gpu": "hopper",
  "mosaic_tpu": "tpu",
  "reference": "reference",
  "triton": "triton",
}
# Logits of one head, T x S, from which on "chunked" is taken: from there on it
# takes a CPU no longer, whatever the mask and the bias.
_LARGE = 2**22
# A kernel's blocks have this many queries or more.  With fewer, as in decoding,
# there is nothing to save: the keys are read once either way.
_FEW = 64

_log = logging.getLogger(__name__)


def module(name: str) -> Any:
  """That of an implementation; ValueError for an unknown one."""
  if name not in MODULES:
    known = ", ".join(MODULES)
    raise ValueError(f"attention implementation {name!r} is not one of {known}")
  return importlib.import_module(f"pallas_kernels.attention.{MODULES[name]}")


def candidates(target: platforms.Target) -> tuple[str, ...]:
  """Kernels for a kind of device, the best first."""
  if target.platform == "tpu":
    return ("mosaic_tpu",)
  if target.platform != "gpu" or target.capability is None:
    return ()
  if target.wgmma:
    return ("mosaic_gpu", "triton")
  return ("triton",) if target.capability >= (8, 0) else ()


def pick(q: Any, k: Any, v: Any, **inputs: Any) -> str:
  """The name of the best implementation for these inputs, where they run.

  As `pick_attention` says.  Batch and heads don't count in the choice between
  "chunked" and "reference": they are often divided among devices, whose number
  is not known here.

  Args:
    q: array or ShapeDtypeStruct, as k and v.
    k: likewise.
    v: likewise.
    **inputs: those of `reference.attention`.
  """
  plain = "chunked" if q.shape[1] * k.shape[1] >= _LARGE else "reference"
  if q.shape[1] < _FEW or platforms.divided():
    return plain
  target = platforms.target()
  refused = ""
  for name in candidates(target):
    reason = module(name).refusal(q, k, v, **inputs)
    if reason is None:
      _log.info("attention on %s is by %r%s", target.kind, name, refused)
      return name
    refused += f"; not by {name!r}: {reason}"
  if refused:
    _log.warning("attention on %s is by %r%s", target.kind, plain, refused)
  return plain


def check(name: str, q: Any, k: Any, v: Any, **inputs: Any) -> None:
  """ValueError with the reason if the implementation refuses these inputs."""
  if name not in platforms.KERNELS:
    return
  reason = module(name).refusal(q, k, v, **inputs)
  if reason is not None:
    raise ValueError(
      f"attention cannot be by {name!r}: {reason}; leave `implementation` out"
      " to have another one picked"
    )
