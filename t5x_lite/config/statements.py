"""The statements of a run's gin files, each with its place.

Names stay text here: `target` is the dotted path of a function or class, as
the imports of its file make it.  Nothing is imported.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Place:
  """Where a statement stands: a line of a file, or (line 0) a flag."""

  file: str
  line: int = 0
  comment: str = ""  # what the file says about it, above or on the line
  shipped: bool = False

  def __str__(self) -> str:
    return f"{self.file}:{self.line}" if self.line else self.file

  @property
  def is_flag(self) -> bool:
    return self.line == 0


@dataclasses.dataclass(frozen=True)
class Macro:
  """`%name` in a value."""

  name: str

  def __repr__(self) -> str:
    return f"%{self.name}"


REQUIRED = Macro("gin.REQUIRED")


@dataclasses.dataclass(frozen=True)
class Reference:
  """`@scope/name` or `@scope/name()` in a value; `target` is a dotted path."""

  target: str
  scopes: tuple[str, ...] = ()
  called: bool = False

  def __repr__(self) -> str:
    path = "/".join((*self.scopes, self.target))
    return f"@{path}()" if self.called else f"@{path}"


@dataclasses.dataclass(frozen=True, eq=False)
class Binding:
  """`scope/target.parameter = value`; of a macro, `target` is empty."""

  target: str
  parameter: str
  value: Any
  place: Place
  scope: tuple[str, ...] = ()
  written: str = ""  # the target as the file spells it

  @property
  def is_macro(self) -> bool:
    return not self.target

  @property
  def name(self) -> str:
    path = f"{self.written}.{self.parameter}" if self.target else self.parameter
    return "/".join((*self.scope, path))


@dataclasses.dataclass(frozen=True)
class Import:
  """A module that a file imports, with the alias it gives it, if any."""

  module: str
  alias: str | None
  place: Place


@dataclasses.dataclass
class Source:
  """All statements of a run, in the order in which they count."""

  bindings: list[Binding] = dataclasses.field(default_factory=list)
  imports: list[Import] = dataclasses.field(default_factory=list)
  # Every function or class that a file names: dotted path -> where first.
  named: dict[str, Place] = dataclasses.field(default_factory=dict)

  def final(self) -> dict[tuple, Binding]:
    """The bindings that count: a later one replaces an earlier one."""
    return {(b.scope, b.target, b.parameter): b for b in self.bindings}

  def macros(self) -> dict[str, Binding]:
    """The macros by name, each with the definition that counts."""
    return {b.parameter: b for b in self.bindings if b.is_macro}

  def renamed(self, aliases: Mapping[str, str]) -> "Source":
    """Returns the source with one dotted path for each function or class."""

    def rename(leaf: Any) -> Any:
      if not isinstance(leaf, Reference):
        return leaf
      return dataclasses.replace(leaf, target=aliases[leaf.target])

    bindings = [
      dataclasses.replace(
        b,
        target=aliases[b.target] if b.target else "",
        value=replace(b.value, rename),
      )
      for b in self.bindings
    ]
    named = {aliases[name]: place for name, place in self.named.items()}
    return Source(bindings, self.imports, named)


def leaves(value: Any) -> Iterator[Any]:
  """Yields what a value is made of: literals, `Macro`s and `Reference`s."""
  if isinstance(value, dict):
    for key, item in value.items():
      yield from leaves(key)
      yield from leaves(item)
  elif isinstance(value, (list, tuple)):
    for item in value:
      yield from leaves(item)
  else:
    yield value


def replace(value: Any, change: Callable[[Any], Any]) -> Any:
  """Returns the value with `change` applied to each of its leaves."""
  if isinstance(value, dict):
    return {replace(k, change): replace(v, change) for k, v in value.items()}
  if isinstance(value, (list, tuple)):
    return type(value)(replace(item, change) for item in value)
  return change(value)
