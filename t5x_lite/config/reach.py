"""Which statements a run can feel, and which cannot have an effect.

Gin calls a function with its bindings only if the run gets at it through a
reference (`@name`), starting from the function of the command.  So a binding
counts if its function is referred to by another binding that counts, and if
some reference that counts enters its scope; a macro, if such a binding reads
it.  Which function is called within which scope is not followed up: doubt
speaks for a binding.
"""

import dataclasses
from collections.abc import Iterable

from t5x_lite.config import statements


@dataclasses.dataclass
class Reach:
  """What can be reached from the function of the command."""

  targets: set[str]
  scopes: set[tuple[str, ...]]
  bindings: list[statements.Binding]
  # Macros and called functions, each with the bindings that name it.
  macros: dict[str, list[statements.Binding]]
  called: dict[str, list[statements.Binding]]

  def enters(self, scope: tuple[str, ...]) -> bool:
    """Whether bindings of `scope` apply somewhere."""
    return any(entered[: len(scope)] == scope for entered in self.scopes)

  def _follow(self, binding: statements.Binding) -> None:
    self.bindings.append(binding)
    for leaf in statements.leaves(binding.value):
      if isinstance(leaf, statements.Macro):
        self.macros.setdefault(leaf.name, []).append(binding)
        self.scopes.add(tuple(leaf.name.split("/")))  # gin reads it there
      elif isinstance(leaf, statements.Reference):
        self.targets.add(leaf.target)
        self.scopes.add(leaf.scopes)
        if leaf.called:
          self.called.setdefault(leaf.target, []).append(binding)


def reach(
  source: statements.Source, roots: Iterable[str], macros: Iterable[str] = ()
) -> Reach:
  """Follows references from dotted paths and macros to all that counts."""
  found = Reach(set(roots), {()}, [], {name: [] for name in macros}, {})
  waiting = list(source.final().values())
  while True:
    counting = [b for b in waiting if _counts(b, found)]
    if not counting:
      return found
    waiting = [b for b in waiting if b not in counting]
    for binding in counting:
      found._follow(binding)


def everything(source: statements.Source) -> Reach:
  """What is named by any statement, whether it counts or not."""
  found = Reach(set(), {()}, [], {}, {})
  for binding in source.bindings:
    found._follow(binding)
  return found


def _counts(binding: statements.Binding, found: Reach) -> bool:
  if binding.is_macro:
    return binding.parameter in found.macros
  return binding.target in found.targets and found.enters(binding.scope)
