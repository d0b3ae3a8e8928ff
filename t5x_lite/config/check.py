"""What is wrong with a configuration, said before anything of it runs.

A setting that has no effect is an error, not a silence.  The rules:

* A macro must be read by something.  One set by a flag must be read by
  something that counts in this run (see `reach`); one set in a file, by any
  statement of the files read, or of the files that come with t5x_lite: so a
  file that sets LEARNING_RATE serves `eval` too, which does not read it, and
  a file for an optimizer that a later file replaces does no harm.  The files
  that come with t5x_lite are held to this by its tests.
* A binding needs a function that some statement refers to, and a scope that
  some reference enters; one set by a flag must count in this run.
* A statement that a later one replaces is never an error.

Each check returns problems as lines of text, the culprit's place first.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import gin

from t5x_lite import errors
from t5x_lite.config import annotations, shipped, statements
from t5x_lite.config.reach import Reach, everything

Objects = Mapping[str, Callable[..., Any]]


def unread_macros(source: statements.Source, reached: Reach) -> list[str]:
  """Macros that nothing reads: misspelt, most often.  Looks at text only."""
  read = everything(source).macros
  problems = []
  for name, binding in source.macros().items():
    place = binding.place
    if name in read or place.shipped:
      continue
    if not place.is_flag and name in shipped.macros_read():
      continue
    near = errors.suggest(name, reached.macros or read)
    known = ", ".join(sorted(reached.macros))
    near = near or (f"; this run reads {known}" if known else "")
    problems.append(f"{place}: nothing reads a macro {name}{near}")
  return problems


def unconfigured(source: statements.Source, root: str) -> list[str]:
  """Whether the run file is missing.  Looks at text only."""
  if any(binding.target == root for binding in source.bindings):
    return []
  return [_no_run_file(root)]


def cycles(source: statements.Source) -> list[str]:
  """Macros that are defined by themselves."""
  macros = source.macros()

  def read_by(name: str) -> list[str]:
    binding = macros.get(name)
    values = statements.leaves(binding.value) if binding else ()
    return [leaf.name for leaf in values if isinstance(leaf, statements.Macro)]

  for name, binding in macros.items():
    seen, waiting = set[str](), read_by(name)
    while waiting:
      other = waiting.pop()
      if other == name:
        return [f"{binding.place}: the macro {name} is defined by itself"]
      if other not in seen:
        seen.add(other)
        waiting += read_by(other)
  return []


def missing(source: statements.Source, reached: Reach) -> list[str]:
  """Settings marked `%gin.REQUIRED`, and macros that nobody defines."""
  problems = []
  for binding in filter(reached.bindings.__contains__, source.bindings):
    if statements.REQUIRED in statements.leaves(binding.value):
      meaning = binding.place.comment.rstrip(".")
      meaning = f" ({meaning})" if meaning else ""
      problems.append(
        f"{binding.place}: {binding.name} is not set{meaning}; "
        f"set it with --gin.{binding.name}=..."
      )
  macros = source.macros()
  for name, readers in reached.macros.items():
    if name in macros or _is_constant(name):
      continue
    problems.append(
      f"{readers[0].place}: {readers[0].name} reads a macro {name} that no "
      f"file defines{_remedy(name, macros)}"
    )
  return problems


def unknown_parameters(
  source: statements.Source, objects: Objects
) -> list[str]:
  """Parameters that their function does not have."""
  problems = []
  for binding in source.bindings:
    if binding.is_macro:
      continue
    known = annotations.parameters(objects[binding.target])
    if binding.parameter in known.hints or known.anything:
      continue
    near = errors.suggest(binding.parameter, known.hints)
    takes = ", ".join(known.hints) or "none"
    problems.append(
      f"{binding.place}: {binding.written} has no parameter "
      f"{binding.parameter!r}{near} (it has: {takes})"
    )
  return problems


def without_effect(
  source: statements.Source,
  reached: Reach,
  roots: Collection[str],
  objects: Objects,
) -> list[str]:
  """Bindings that no run, and flags that this run, cannot feel."""
  named = everything(source)
  problems = []
  for binding in source.final().values():
    place = binding.place
    within = reached if place.is_flag else named
    if binding.is_macro:
      if place.is_flag and binding.parameter not in reached.macros:
        other = named.macros[binding.parameter][0]
        problems.append(
          f"{place}: no effect: it is read by {other.name} ({other.place}) "
          "only, which this run does not use"
        )
    elif not within.enters(binding.scope):
      scope = "/".join(binding.scope)
      entered = [s for s in within.scopes if s and s[0] not in named.macros]
      scopes = ["/".join(s) for s in entered]
      problems.append(
        f"{place}: no effect: no reference enters the scope {scope!r}"
        f"{errors.suggest(scope, scopes)}"
      )
    elif binding.target not in {*within.targets, *roots}:
      problems.append(
        f"{place}: no effect: nothing refers to @{binding.written}"
        f"{_whose_default(binding, within, objects)}"
      )
  return problems


def wrong_types(source: statements.Source, objects: Objects) -> list[str]:
  """Values that do not fit the annotation of their parameter."""
  macros = source.macros()

  def known(leaf: Any) -> Any:
    if isinstance(leaf, statements.Macro):
      binding = macros.get(leaf.name)
      unknown = annotations.UNKNOWN
      return statements.replace(binding.value, known) if binding else unknown
    if isinstance(leaf, statements.Reference):
      target = objects[leaf.target]
      written = f"@{leaf.target.rpartition('.')[2]}"
      return annotations.Object(target, leaf.called, written)
    return leaf

  problems: dict[tuple, str] = {}  # one for a macro, whoever reads it
  for binding in source.final().values():
    if binding.is_macro:
      continue
    takes = annotations.parameters(objects[binding.target])
    hint = takes.hints.get(binding.parameter, Any)
    value = statements.replace(binding.value, known)
    wrong = annotations.misfit(value, hint)
    default = takes.defaults.get(binding.parameter)
    if not wrong or (type(value) is type(default) and value == default):
      continue
    culprit, name = binding, binding.name
    while isinstance(culprit.value, statements.Macro):
      culprit = macros[culprit.value.name]
      name = f"{culprit.name} (read by {binding.name})"
    space = "" if wrong.startswith("[") else " "
    problem = f"{culprit.place}: {name}{space}{wrong}"
    problems.setdefault((culprit.place, wrong), problem)
  return list(problems.values())


def given_twice(
  root: str, arguments: Iterable[str], reached: Reach
) -> list[str]:
  """Flags for a parameter that the command line gives by another flag."""
  return [
    f"{binding.place}: no effect: --{binding.parameter} sets this"
    for binding in reached.bindings
    if binding.target == root and binding.place.is_flag
    if binding.parameter in set(arguments)
  ]


def unbound(
  root: str, arguments: Iterable[str], reached: Reach, objects: Objects
) -> list[str]:
  """Parameters without a default that nobody gives a value."""
  bound = {(b.target, b.parameter) for b in reached.bindings}

  def lacking(name: str) -> list[str]:
    if hasattr(objects[name], "__wrapped__"):  # who knows what is passed on
      return []
    takes = annotations.parameters(objects[name])
    optional = {k for k, v in takes.defaults.items() if v is not gin.REQUIRED}
    return [
      p for p in takes.hints if p not in optional and (name, p) not in bound
    ]

  problems = []
  wanted = [p for p in lacking(root) if p not in set(arguments)]
  if "workdir" in wanted:
    wanted.remove("workdir")
    problems.append("--workdir=DIR is missing: where the run keeps its files")
  if wanted and not any(b.target == root for b in reached.bindings):
    problems.append(_no_run_file(root))
  elif wanted:
    problems.append(f"{root} has no value for {', '.join(wanted)}")
  for name, bindings in reached.called.items():
    if name == root or not lacking(name):
      continue
    problems.append(
      f"{bindings[0].place}: @{name}() is called without "
      f"{', '.join(lacking(name))}; bind it, or leave out the () to hand over "
      "the function or class itself"
    )
  return problems


def _is_constant(name: str) -> bool:
  """A constant made by `gin.constant` in a module: `%module.NAME`."""
  return "." in name


def _remedy(name: str, known: Iterable[str]) -> str:
  near = errors.suggest(name, known) or shipped.who_defines(name)
  return near or f"; set it with --gin.{name}=..."


def _no_run_file(root: str) -> str:
  return f"no gin file says how to run {root}{shipped.who_runs(root)}"


def _whose_default(
  binding: statements.Binding, within: Reach, objects: Objects
) -> str:
  """Says where Python's default, which gin does not see, must be named."""
  for name in within.targets & objects.keys():
    defaults = annotations.parameters(objects[name]).defaults
    for parameter, default in defaults.items():
      if default is objects[binding.target]:
        return (
          f"; to configure the default of {name}.{parameter}, bind it: "
          f"{parameter} = @{binding.written}"
        )
  short = {".".join(t.split(".")[-2:]) for t in within.targets}
  return errors.suggest(binding.written, short - {binding.written})
