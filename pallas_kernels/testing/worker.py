"""Compiles one function and writes down what jax says of it.

Started by `compile_for` in a process of its own, with the environment that the
compiler wants: `python -m pallas_kernels.testing.worker REQUEST ANSWER`.
"""

import importlib
import importlib.util
import json
import pathlib
import sys
import traceback
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pallas_kernels.testing import chips, gpu, tpu

PLATFORMS = {"tpu": tpu, "gpu": gpu}


def _load(target: str) -> Callable[..., Any]:
  """Returns the function that "module:name" or "file.py:name" names."""
  place, _, name = target.rpartition(":")
  if place.endswith(".py"):
    path = pathlib.Path(place)
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
  else:
    module = importlib.import_module(place)
  found = module
  for part in name.split("."):
    found = getattr(found, part)
  return found  # type: ignore[return-value]


def _mesh(chip: chips.Chip, topology: str, axes: dict[str, int]) -> Mesh:
  described = PLATFORMS[chip.platform].topology(chip, topology)
  count = int(np.prod(list(axes.values())))
  if count > len(described.devices):
    raise ValueError(
      f"a mesh of {axes} needs {count} devices, and {topology!r} has "
      f"{len(described.devices)}: name a larger topology"
    )
  devices = np.array(described.devices[:count]).reshape(list(axes.values()))
  return Mesh(devices, tuple(axes))


def _compile(request: dict[str, Any]) -> dict[str, Any]:
  chip = chips.chip_named(request["chip"])
  make, given = _load(request["target"]), request["arguments"]
  if request["mesh"]:
    mesh = _mesh(chip, request["topology"], request["mesh"])
    function, arguments = make(mesh=mesh, **given)
  else:
    function, arguments = make(**given)
    mesh = _mesh(chip, request["topology"], {"device": 1})

  def placed(x: Any) -> jax.ShapeDtypeStruct:
    # A sharding that is not given means a whole copy on every device.
    sharding = getattr(x, "sharding", None)
    if not isinstance(sharding, NamedSharding):
      sharding = NamedSharding(mesh, PartitionSpec())
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

  arguments = jax.tree.map(placed, tuple(arguments))
  jitted = function if hasattr(function, "lower") else jax.jit(function)
  with jax.set_mesh(mesh):  # Triton reads the device's kind off the mesh
    compiled = jitted.lower(*arguments).compile()
  memory = compiled.memory_analysis()
  assert memory is not None, "no memory analysis"
  cost = compiled.cost_analysis() or {}
  if isinstance(cost, list):
    cost = cost[0] if cost else {}
  return {
    "memory": {
      "arguments": memory.argument_size_in_bytes,
      "outputs": memory.output_size_in_bytes,
      "temporaries": memory.temp_size_in_bytes,
    },
    "flops": cost.get("flops"),
    "bytes_accessed": cost.get("bytes accessed"),
    "hlo": compiled.as_text(),
  }


def main(request: str, answer: str) -> None:
  """Reads the request, a JSON file, and writes the answer, another."""
  try:
    found = _compile(json.loads(pathlib.Path(request).read_text()))
  except Exception as error:
    traceback.print_exc()
    found = {"error": f"{type(error).__name__}: {error}"}
  pathlib.Path(answer).write_text(json.dumps(found))


if __name__ == "__main__":
  main(*sys.argv[1:])
