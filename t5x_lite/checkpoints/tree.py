"""The tree of a checkpoint: nested dicts of arrays keyed by attribute names.

  state.model.encoder.layers.attention.query.kernel  ->
  {"model": {"encoder": {"layers": {"attention": {"query": {"kernel": ...}}}}}}

Named tuples give the names of their fields, tuples and lists their indices
("opt_state/0/mu/..."), so a checkpoint holds no node type of any library and
stays readable when those change.
"""

import functools
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from t5x_lite import compat, errors

_SHOWN = 10  # differing leaves printed before "and n more"


class Spec(NamedTuple):
  """Shape and dtype of a leaf."""

  shape: tuple[int, ...]
  dtype: str

  def __str__(self) -> str:
    return f"{self.dtype}[{' '.join(map(str, self.shape))}]"


def _name(key: Any) -> str:
  """The name of one step of a jax key path."""
  for attribute in ("name", "key", "idx"):
    if hasattr(key, attribute):
      name = str(getattr(key, attribute))
      if "/" in name:
        raise ValueError(f"the name of an array may not hold a slash: {name}")
      return name
  raise ValueError(f"a key path entry without a name: {key!r}")


def names(tree: Any) -> list[tuple[str, ...]]:
  """Names of the leaves, in the order of `jax.tree.leaves`.

  A Param counts as its array: flattening it further would add "value" to the
  path, which an attention layer also has as an attribute.
  """
  paths = jax.tree_util.tree_leaves_with_path(tree, is_leaf=compat.is_variable)
  found = [tuple(_name(key) for key in path) for path, _ in paths]
  if len(found) != len(jax.tree.leaves(tree)):
    raise ValueError("a Variable of this tree does not hold exactly one array")
  return found


def to_dict(tree: Any) -> dict[str, Any]:
  """Nested dicts of the leaves of any pytree, keyed by attribute names."""
  out: dict[str, Any] = {}
  for path, leaf in zip(names(tree), jax.tree.leaves(tree), strict=True):
    node = out
    for name in path[:-1]:
      node = node.setdefault(name, {})
      if not isinstance(node, dict):
        raise ValueError(f"{'/'.join(path)} lies below another leaf")
    if path[-1] in node:
      raise ValueError(f"two leaves are called {'/'.join(path)}")
    node[path[-1]] = leaf
  return out


def from_dict(saved: Mapping[str, Any], like: Any) -> Any:
  """The inverse of `to_dict`: a tree with the structure of `like`.

  Raises:
    KeyError: a name of `like` is not in `saved`.
  """
  leaves = [
    functools.reduce(lambda node, name: node[name], path, saved)
    for path in names(like)
  ]
  return jax.tree.unflatten(jax.tree.structure(like), leaves)


def flatten(tree: Any) -> dict[str, Any]:
  """Leaves by name, "encoder/layers/attention/query/kernel"."""
  found = ("/".join(path) for path in names(tree))
  return dict(zip(found, jax.tree.leaves(tree), strict=True))


def unflatten(leaves: Mapping[str, Any]) -> dict[str, Any]:
  """Nested dicts from leaves by name."""
  out: dict[str, Any] = {}
  for name, leaf in leaves.items():
    *parents, last = name.split("/")
    node = out
    for parent in parents:
      node = node.setdefault(parent, {})
    node[last] = leaf
  return out


def specs(tree: Any) -> dict[str, Spec]:
  """Shape and dtype of every leaf by name; also of ShapeDtypeStructs."""
  return {name: spec(leaf) for name, leaf in flatten(tree).items()}


def spec(leaf: Any) -> Spec:
  """Shape and dtype of a leaf, also of a ShapeDtypeStruct."""
  dtype = leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype
  return Spec(tuple(np.shape(leaf)), str(dtype))


def differences(
  saved: Mapping[str, Spec], wanted: Mapping[str, Spec]
) -> list[tuple[str, str, str]]:
  """Rows (name, saved, wanted) for the leaves that are not the same."""
  absent = "-"
  rows = [
    (name, str(saved.get(name, absent)), str(wanted.get(name, absent)))
    for name in [*wanted, *(name for name in saved if name not in wanted)]
  ]
  return [row for row in rows if row[1] != row[2]]


def table(rows: Iterable[tuple[str, ...]], header: tuple[str, ...]) -> str:
  """Aligned columns: the header, ten rows at most, and how many are left."""
  rows = list(rows)
  shown = [header, *rows[:_SHOWN]]
  widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
  lines = [
    "  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in shown
  ]
  if len(rows) > _SHOWN:
    lines.append(f"  and {len(rows) - _SHOWN} more")
  return "\n".join(lines)


def check_same(
  saved: Mapping[str, Spec], wanted: Mapping[str, Spec], *, where: str
) -> None:
  """Raises CheckpointError with a table, unless names and specs agree."""
  rows = differences(saved, wanted)
  if not rows:
    return
  missing = sum(name not in saved for name, _, _ in rows)
  unexpected = sum(name not in wanted for name, _, _ in rows)
  counts = {
    "missing from the checkpoint": missing,
    "not in this model": unexpected,
    "of another shape or dtype": len(rows) - missing - unexpected,
  }
  summary = ", ".join(f"{n} {what}" for what, n in counts.items() if n)
  raise errors.CheckpointError(
    f"{where} does not fit this model and optimizer: of {len(wanted)} arrays,"
    f" {summary}\n"
    + table(rows, ("array", "saved", "wanted"))
    + "\nUse the gin files and macros of the run that wrote it (its"
    " operative config lies in its --workdir), another --workdir, or"
    " checkpoints.InitializeFrom to take over only the parameters that fit."
  )
