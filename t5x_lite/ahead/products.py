"""FLOPs of matrix products as compilers write them: `dot`, `convolution`.

A compiler for TPUs turns every product into a convolution, whose spatial
dimensions are the batch dimensions, or more than one contracted dimension.
"""

import math
import re

from t5x_lite.ahead.hlo import Computation, Instruction, Shape

_WINDOW = re.compile(r"\bwindow=\{([^}]*)\}")


def flops(computation: Computation, one: Instruction) -> float:
  """FLOPs of a `dot` or `convolution`; 0 of any other instruction."""
  if one.opcode == "dot":
    return _dot(computation, one)
  if one.opcode == "convolution":
    return _convolution(computation, one)
  return 0.0


def _operands(computation: Computation, one: Instruction) -> list[Shape]:
  shapes = [computation.shape_of(name) for name in one.operands[:2]]
  found = [shape for shape in shapes if shape is not None]
  if len(found) != 2:
    raise ValueError(f"{one.name}: operands of unknown shapes")
  return found


def _dot(computation: Computation, one: Instruction) -> float:
  left, _ = _operands(computation, one)
  contracted = one.attribute(r"lhs_contracting_dims=\{([\d,]*)\}") or ""
  inner = math.prod(left.dims[int(n)] for n in contracted.split(",") if n)
  return 2.0 * math.prod(one.shapes[0].dims) * inner


def _convolution(computation: Computation, one: Instruction) -> float:
  left, right = _operands(computation, one)
  labels = one.attribute(r"\bdim_labels=([\w?]+_[\w?]+->[\w?]+)")
  assert labels is not None, f"{one.name}: no dim_labels"
  inputs, kernel, outputs = re.split(r"_|->", labels)
  out = one.shapes[0].dims
  total = 2.0 * out[outputs.index("b")] * out[outputs.index("f")]
  total *= right.dims[kernel.index("i")]
  # One batch group reads its part of the batch of the left side only.
  window = _window(one)
  for place in sorted(set(outputs) - {"b", "f"}):
    number = int(place)
    total *= _pairs(
      left.dims[inputs.index(place)],
      right.dims[kernel.index(place)],
      out[outputs.index(place)],
      {name: values[number] for name, values in window.items()},
    )
  return total


def _window(one: Instruction) -> dict[str, list[str]]:
  found = _WINDOW.search(one.attributes)
  if not found:
    return {}
  fields = (field.split("=", 1) for field in found[1].split())
  return {name: value.split("x") for name, value in fields}


def _pairs(size: int, kernel: int, out: int, window: dict[str, str]) -> int:
  """Pairs of an output and a place in the window that meet an input.

  A product whose batch dimension is spatial has one such pair an output, as
  all others fall on the padding or between the inputs.
  """
  low = int(window.get("pad", "0_0").split("_")[0])
  stride = int(window.get("stride", "1"))
  spread = int(window.get("lhs_dilate", "1"))
  step = int(window.get("rhs_dilate", "1"))
  last = (size - 1) * spread
  if kernel == 1 or out == 1:
    count = max(kernel, out)
    moved = step if out == 1 else stride
    places = (n * moved - low for n in range(count))
    return sum(0 <= p <= last and p % spread == 0 for p in places)
  return sum(
    0 <= (p := o * stride + k * step - low) <= last and p % spread == 0
    for o in range(out)
    for k in range(kernel)
  )
