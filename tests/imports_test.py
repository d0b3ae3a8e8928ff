"""The direction of dependencies, read off the source, and the import's cost.

    pallas_kernels <- layers <- models <- decoding, objectives <- trainer
                                                    <- evaluators <- commands

A row of `ARROWS` lists everything that a part may import, anywhere in its
files.  Everything else may import what it likes, but heavy libraries only
inside functions, so that a misspelt setting is told before TensorFlow loads.
"""

import ast
import json
import pathlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGES = ("t5x_lite", "pallas_kernels", "tasks")

HEAVY = {
  "clu",
  "lm_eval",
  "matplotlib",
  "orbax",
  "rouge_score",
  "sacrebleu",
  "seqio",
  "sklearn",
  "tensorboard",
  "tensorflow",
  "tensorflow_datasets",
  "tensorflow_text",
  "tensorstore",
}

JAX = {"jax", "numpy"}
NNX = JAX | {"flax", "pallas_kernels"}
LAYERS = NNX | {
  "t5x_lite.compat",
  "t5x_lite.errors",
  "t5x_lite.layers",
  "t5x_lite.rules",
}
MODELS = LAYERS | {"t5x_lite.models"}
TRAINER = MODELS | {
  "optax",
  "t5x_lite.auto_mesh",
  "t5x_lite.compilation",
  "t5x_lite.losses",
  "t5x_lite.metrics",
  "t5x_lite.objectives",
  "t5x_lite.optimizers",
  "t5x_lite.partitioning",
  "t5x_lite.schedules",
  "t5x_lite.train_state",
}

ARROWS = {
  "pallas_kernels": JAX | {"pallas_kernels"},
  "t5x_lite.layers": LAYERS,
  "t5x_lite.models": MODELS,
  "t5x_lite.losses": NNX | {"t5x_lite.errors"},
  "t5x_lite.objectives": MODELS
  | {"t5x_lite.losses", "t5x_lite.metrics", "t5x_lite.objectives"},
  # Of objectives the protocols alone, to turn examples into batches.
  "t5x_lite.decoding": MODELS
  | {
    "t5x_lite.decoding",
    "t5x_lite.example_batches",
    "t5x_lite.losses",
    "t5x_lite.objectives.Generative",
    "t5x_lite.objectives.Objective",
    "t5x_lite.partitioning",
  },
  "t5x_lite.example_batches": LAYERS
  | {"t5x_lite.example_batches", "t5x_lite.partitioning"},
  "t5x_lite.auto_mesh": NNX
  | {
    "optax",
    "t5x_lite.chips",
    "t5x_lite.errors",
    "t5x_lite.meshes",
    "t5x_lite.partitioning",
    "t5x_lite.sizes",
  },
  "t5x_lite.compilation": JAX | {"t5x_lite.errors"},
  "t5x_lite.meshes": NNX
  | {"t5x_lite.compat", "t5x_lite.errors", "t5x_lite.machine"},
  "t5x_lite.partitioning": NNX
  | {
    "t5x_lite.compat",
    "t5x_lite.errors",
    "t5x_lite.meshes",
    "t5x_lite.rules",
    "t5x_lite.sizes",
  },
  "t5x_lite.rules": JAX,
  "t5x_lite.sizes": JAX,
  "t5x_lite.optimizers": TRAINER,
  "t5x_lite.trainer": TRAINER,
}


class Import(NamedTuple):
  """One name that a file imports, and whether importing the file does it."""

  name: str
  top_level: bool
  place: str


def module_name(path: pathlib.Path) -> str:
  parts = path.relative_to(ROOT).with_suffix("").parts
  return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(source: str, package: str, place: str = "") -> Iterator[Import]:
  """Yields what `source`, a file of `package`, imports.

  `from x import y` counts as `x.y`: y may be a module.  Imports in functions
  and under `if TYPE_CHECKING:` are not top level.
  """

  def visit(node: ast.AST, top_level: bool) -> Iterator[Import]:
    where = f"{place}:{getattr(node, 'lineno', 0)}"
    if isinstance(node, ast.Import):
      for alias in node.names:
        yield Import(alias.name, top_level, where)
    elif isinstance(node, ast.ImportFrom):
      base = node.module or ""
      if node.level:
        above = package.split(".")[: len(package.split(".")) - node.level + 1]
        base = ".".join([*above, *([base] if base else [])])
      for alias in node.names:
        yield Import(f"{base}.{alias.name}", top_level, where)
    elif isinstance(node, ast.Call) and node.args:
      called = ast.unparse(node.func)
      name = node.args[0]
      if (
        called.endswith(("import_module", "__import__"))
        and isinstance(name, ast.Constant)
        and isinstance(name.value, str)
      ):
        yield Import(name.value, top_level, where)
    inside = isinstance(
      node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
    ) or (
      isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
    )
    for child in ast.iter_child_nodes(node):
      yield from visit(child, top_level and not inside)

  yield from visit(ast.parse(source), True)


def files(part: str) -> list[pathlib.Path]:
  """Returns the files of a package or module given by its dotted name."""
  path = ROOT / part.replace(".", "/")
  found = sorted(path.rglob("*.py")) if path.is_dir() else []
  return found or [path.with_suffix(".py")]


def imports_of(part: str) -> list[Import]:
  found = []
  for path in files(part):
    name = module_name(path)
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    place = str(path.relative_to(ROOT))
    found += imports(path.read_text(), package, place)
  assert found, f"{part} imports nothing: has it moved?"
  return [
    entry
    for entry in found
    if entry.name.split(".")[0] not in sys.stdlib_module_names
  ]


def within(name: str, part: str) -> bool:
  return name == part or name.startswith(part + ".")


def test_reads_every_way_to_import():
  source = """
import a.b as c
from d import e, f
from . import g
from ..h import i
if TYPE_CHECKING:
  import j
class K:
  import k
def function():
  import l
  importlib.import_module("m.n")
try:
  import o
except ImportError:
  pass
"""
  found = {entry.name: entry.top_level for entry in imports(source, "p.q")}
  assert found == {
    "a.b": True,
    "d.e": True,
    "d.f": True,
    "p.q.g": True,
    "p.h.i": True,
    "j": False,
    "k": True,
    "l": False,
    "m.n": False,
    "o": True,
  }


@pytest.mark.parametrize("part", ARROWS)
def test_arrows(part):
  wrong = [
    f"{entry.place}: {entry.name}"
    for entry in imports_of(part)
    if not any(within(entry.name, allowed) for allowed in ARROWS[part])
  ]
  assert not wrong, f"{part} may import only {sorted(ARROWS[part])}"


def test_tasks_know_nothing_of_models():
  allowed = ("t5x_lite.errors", "t5x_lite.vocabularies")
  forbidden = {"flax", "gin", "jax", "pallas_kernels", "t5x_lite"}
  wrong = [
    f"{entry.place}: {entry.name}"
    for entry in imports_of("tasks")
    if entry.name.split(".")[0] in forbidden
    and not any(within(entry.name, name) for name in allowed)
  ]
  assert not wrong, f"of t5x_lite, tasks may import only {allowed}"


def test_the_library_meets_tasks_only_by_name():
  wrong = [e for e in imports_of("t5x_lite") if within(e.name, "tasks")]
  assert not wrong


def test_only_configuration_knows_gin():
  allowed = ("t5x_lite/config", "t5x_lite/main.py")
  wrong = [
    entry
    for package in PACKAGES
    for entry in imports_of(package)
    if within(entry.name, "gin") and not entry.place.startswith(allowed)
  ]
  assert not wrong


def test_heavy_libraries_are_imported_inside_functions():
  wrong = [
    f"{entry.place}: {entry.name}"
    for entry in imports_of("t5x_lite")
    if entry.top_level and entry.name.split(".")[0] in HEAVY
  ]
  assert not wrong


def run(program: str, *args: str) -> Any:
  """Runs `program` in a new interpreter; returns the JSON it prints last."""
  done = subprocess.run(
    [sys.executable, "-c", program, *args],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout.splitlines()[-1])


def test_importing_every_module_loads_nothing_heavy():
  modules = [
    module_name(path)
    for path in files("t5x_lite")
    if path.name != "__main__.py"
  ]
  program = """
import importlib, json, sys
guilty = {}
for module in sys.argv[2:]:
  importlib.import_module(module)
  for name in json.loads(sys.argv[1]):
    if name in sys.modules:
      guilty.setdefault(name, module)
print(json.dumps(guilty))
"""
  assert "t5x_lite.models" in modules
  assert run(program, json.dumps(sorted(HEAVY)), *modules, "tasks") == {}


def test_importing_models_costs_about_what_jax_and_flax_cost():
  program = """
import json, time
begin = time.process_time()
import jax, flax
bare = time.process_time() - begin
import t5x_lite.models
print(json.dumps([bare, time.process_time() - begin]))
"""
  # Both in one process, the better of two: other work on the machine adds.
  bare, models = min(
    (run(program) for _ in range(2)), key=lambda times: times[1] / times[0]
  )
  assert models <= 1.5 * bare + 0.3, f"{models:.2f} s against {bare:.2f} s"
