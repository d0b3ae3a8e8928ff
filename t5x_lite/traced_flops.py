"""FLOPs of the matrix products that a program really contains, as traced.

For hardware utilization (HFU), and as the test of the formulas in `flops`.
XLA's own `cost_analysis` counts the body of a loop once, however often it
runs, so that of a model scanned over its layers it sees a single one.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

# Their bodies run an unknown number of times.
_UNKNOWN = ("while", "pallas_call")


def of_program(function: Callable[..., Any], *args: Any) -> float:
  """FLOPs of the matrix products in a function.

  Scans count as often as they run, the costliest branch of a condition
  counts, and so does recomputation.

  Args:
    function: any traceable function, such as a jitted training step.
    *args: arrays or ShapeDtypeStructs.

  Raises:
    NotImplementedError: for a product in a `while` loop or a Pallas kernel:
      how often it runs cannot be known.
  """
  return _of_jaxpr(jax.make_jaxpr(function)(*args).jaxpr)


def _of_jaxpr(jaxpr: Any) -> float:
  total = 0.0
  for equation in jaxpr.eqns:
    name = equation.primitive.name
    inner = [_of_jaxpr(sub) for sub in _subprograms(equation.params)]
    if name == "dot_general":
      total += _of_dot(equation)
    elif name == "scan":
      total += equation.params["length"] * sum(inner)
    elif name == "cond":
      total += max(inner)
    elif name in _UNKNOWN and any(inner):
      raise NotImplementedError(f"a product in {name}: how often does it run?")
    else:
      total += sum(inner)
  return total


def _subprograms(params: Mapping[str, Any]) -> list[Any]:
  """The jaxprs that an equation calls."""
  found = []
  for value in params.values():
    for entry in value if isinstance(value, Sequence) else [value]:
      jaxpr = getattr(entry, "jaxpr", entry)  # of a closed jaxpr
      if hasattr(jaxpr, "eqns"):
        found.append(jaxpr)
  return found


def _of_dot(equation: Any) -> float:
  (contracted, _), _ = equation.params["dimension_numbers"]
  left = equation.invars[0].aval.shape
  inner = math.prod(left[axis] for axis in contracted)
  return 2.0 * math.prod(equation.outvars[0].aval.shape) * inner
