"""The statements of a run as one gin text: what runs is what is recorded.

The text holds what counts, each setting with the place it came from, and as
comments the defaults of everything the run can reach.  Read again, it gives
the same run, whatever becomes of the files it was made from.
"""

import pprint
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from t5x_lite.config import annotations, statements
from t5x_lite.config.reach import Reach


def write(
  source: statements.Source,
  reached: Reach,
  objects: Mapping[str, Callable[..., Any]],
) -> str:
  """Returns the bindings that count as a gin file of their own."""
  targets = sorted(reached.targets & objects.keys())
  lines, short = _imports(source.imports, targets)
  order = sorted(reached.bindings, key=lambda b: (b.scope, b.parameter))
  macros = [b for b in order if b.is_macro]
  lines += _section("Macros", [_line(b, b.name, short) for b in macros])
  for target in targets:
    own = [b for b in order if b.target == target]
    written = [_line(b, _name(b, short), short) for b in own]
    defaults = annotations.parameters(objects[target]).defaults
    bound = {b.parameter for b in own}
    for parameter, default in defaults.items():
      if parameter not in bound and _is_literal(default):
        written.append(f"# {short[target]}.{parameter} = {default!r}")
    lines += _section(short[target], written)
  return "\n".join(lines).rstrip() + "\n"


def _imports(
  imports: Iterable[statements.Import], targets: Iterable[str]
) -> tuple[list[str], dict[str, str]]:
  """Import lines under distinct symbols, and the targets by these symbols."""
  modules = {i.module: i.alias for i in imports}
  homes: dict[str, str] = {}
  for target in targets:
    parts = target.split(".")
    above = [".".join(parts[:i]) for i in range(len(parts) - 1, 0, -1)]
    homes[target] = next((m for m in above if m in modules), above[-1])
    modules.setdefault(homes[target], None)
  modules.pop("gin", None)
  symbols: dict[str, str] = {"gin": "gin"}
  lines = ["from __gin__ import dynamic_registration"]
  for module, alias in modules.items():  # in the order of the files
    package, _, last = module.rpartition(".")
    symbol, number = alias or last, 1
    while symbol in symbols.values():
      number += 1
      symbol = f"{alias or last}_{number}"
    symbols[module] = symbol
    line = f"from {package} import {last}" if package else f"import {last}"
    lines.append(line if symbol == last else f"{line} as {symbol}")
  short = {t: symbols[h] + t[len(h) :] for t, h in homes.items()}
  return lines, short


def _section(title: str, lines: list[str]) -> list[str]:
  return ["", f"# {title}", *lines] if lines else []


def _name(binding: statements.Binding, short: Mapping[str, str]) -> str:
  path = f"{short[binding.target]}.{binding.parameter}"
  return "/".join((*binding.scope, path))


def _line(
  binding: statements.Binding, name: str, short: Mapping[str, str]
) -> str:
  def rename(leaf: Any) -> Any:
    if not isinstance(leaf, statements.Reference):
      return leaf
    target = short.get(leaf.target, leaf.target)
    return statements.Reference(target, leaf.scopes, leaf.called)

  value = statements.replace(binding.value, rename)
  text = pprint.pformat(value, width=72, sort_dicts=False)
  return f"{name} = {text}  # {binding.place}"


def _is_literal(value: Any) -> bool:
  plain = (bool, int, float, str, type(None))
  return all(type(leaf) in plain for leaf in statements.leaves(value))
