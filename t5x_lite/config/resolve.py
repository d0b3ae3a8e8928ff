"""From the names in gin files to the modules, functions and classes."""

import importlib
import pkgutil
import re
import sys
import traceback
from typing import Any

from t5x_lite import errors
from t5x_lite.config import statements


def resolve(source: statements.Source) -> dict[str, Any]:
  """Imports what the files import; returns what the dotted paths stand for.

  Raises:
    errors.ConfigError: an import that fails, or names that do not exist.
  """
  for imported in source.imports:
    _import(imported)
  found: dict[str, Any] = {}
  problems = []
  for name, place in source.named.items():
    try:
      found[name] = _look_up(name)
    except errors.ConfigError as problem:
      problems.append(f"{place}: {problem}")
  if problems:
    raise errors.ConfigError("\n".join(problems))
  return found


def aliases(objects: dict[str, Any]) -> dict[str, str]:
  """Maps each path to the first path that names the same thing."""
  first: dict[int, str] = {}
  return {name: first.setdefault(id(o), name) for name, o in objects.items()}


def _import(imported: statements.Import) -> None:
  name, place = imported.module, imported.place
  try:
    importlib.import_module(name)
  except ModuleNotFoundError as exception:
    missing = exception.name or ""
    if name != missing and not name.startswith(f"{missing}."):
      raise _failed(imported, exception) from exception  # within the module
    if exception.msg.endswith("is not a package"):
      hint = f"; gin imports modules only: import {missing.rpartition('.')[0]}"
    else:
      hint = errors.suggest(missing, _siblings(missing))
      hint = hint or "; is it installed, or in the working directory?"
    raise errors.ConfigError(
      f"{place}: there is no module {missing!r}{hint}"
    ) from exception
  except (Exception, SystemExit) as exception:
    raise _failed(imported, exception) from exception


def _failed(
  imported: statements.Import, exception: BaseException
) -> errors.ConfigError:
  """One line for an exception that a module raised while being imported."""
  if isinstance(exception, SyntaxError):
    where = f"{exception.filename}:{exception.lineno}"
  else:
    frames = traceback.extract_tb(exception.__traceback__)
    own = [f for f in frames if not re.search("<|site-packages", f.filename)]
    frame = (own or frames)[-1]
    where = f"{frame.filename}:{frame.lineno}"
  return errors.ConfigError(
    f"{imported.place}: importing {imported.module!r} failed: "
    f"{type(exception).__name__}: {exception} ({where}); for the traceback, "
    f"python -c 'import {imported.module}'"
  )


def _siblings(module: str) -> list[str]:
  parent = module.rpartition(".")[0]
  paths = getattr(sys.modules.get(parent), "__path__", None)
  prefix = f"{parent}." if parent else ""
  if parent and paths is None:
    return []
  return [m.name for m in pkgutil.iter_modules(paths, prefix)]


def _look_up(name: str) -> Any:
  """Returns what a dotted path stands for, which must be callable."""
  if name == "gin.singleton":
    return importlib.import_module("gin.config").singleton
  parts = name.split(".")
  start = next(
    i for i in range(len(parts), 0, -1) if ".".join(parts[:i]) in sys.modules
  )
  value: Any = sys.modules[".".join(parts[:start])]
  for i, part in enumerate(parts[start:], start):
    if not hasattr(value, part):
      names = [n for n in dir(value) if n[0] != "_"]
      if part == parts[-1]:  # not the module `stack` for the class `Stack`
        names = [n for n in names if callable(getattr(value, n, None))]
      near = errors.suggest(part, names)
      raise errors.ConfigError(
        f"{'.'.join(parts[:i])} has no {part!r}{near or '; is it imported?'}"
      )
    value = getattr(value, part)
  if not callable(value) or not hasattr(value, "__name__"):
    raise errors.ConfigError(
      f"{name} is a {type(value).__name__}; gin can name functions and "
      "classes only"
    )
  return value
