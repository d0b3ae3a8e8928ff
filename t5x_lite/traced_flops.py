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

  Args:
    function: any traceable function, such as a jitted training step.
    *args: arrays or ShapeDtypeStructs.

  Raises:
    NotImplementedError: see `of_jaxpr`.
  """
  return of_jaxpr(jax.make_jaxpr(function)(*args))


def of_jaxpr(program: Any) -> float:
  """FLOPs of the matrix products in a traced program, on all its devices.

  Scans count as often as they run, the costliest branch of a condition
  counts, and so does recomputation; what is mapped over devices counts on each
  of them.  A Pallas kernel counts as much as it says of itself.

  Args:
    program: a `ClosedJaxpr`, or what is in it.

  Raises:
    NotImplementedError: for a product in a `while` loop, or in a Pallas kernel
      without an estimate: how often it runs cannot be known.
  """
  total = 0.0
  for equation in getattr(program, "jaxpr", program).eqns:
    name, params = equation.primitive.name, equation.params
    inner = [of_jaxpr(sub) for sub in _subprograms(params)]
    estimate = params.get("cost_estimate") if name == "pallas_call" else None
    if name == "dot_general":
      total += _of_dot(equation)
    elif name == "scan":
      total += params["length"] * sum(inner)
    elif name == "cond":
      total += max(inner)
    elif name == "shard_map":
      mesh, axes = params["mesh"], params["newly_manual_axes"]
      total += math.prod(mesh.shape[axis] for axis in axes) * sum(inner)
    elif estimate is not None:
      total += estimate.flops
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
