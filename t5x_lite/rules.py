"""Rules: from logical axes of arrays to axes of a mesh.

The rules in force are ambient, so that layers can say what an activation's
dimensions are and know nothing of meshes.
"""

import contextlib
import contextvars
import math
from collections.abc import Collection, Iterator, Mapping, Sequence

import jax
from jax.sharding import PartitionSpec

MeshAxes = str | tuple[str, ...] | None
Rules = Mapping[str, MeshAxes]

_RULES: contextvars.ContextVar[Rules | None] = contextvars.ContextVar(
  "rules", default=None
)


def spec(axes: Sequence[str | None], rules: Rules, ndim: int) -> PartitionSpec:
  """Mesh axes of an array with these logical axes.

  Missing leading axes are "layers": a stack adds them in front.  A mesh axis
  that an earlier dimension took is dropped.
  """
  names = ("layers",) * (ndim - len(axes)) + tuple(axes)
  used: set[str] = set()
  entries: list[MeshAxes] = []
  for name in names:
    wanted = listed(rules.get(name) if name is not None else None)
    free = tuple(axis for axis in wanted if axis not in used)
    used.update(free)
    entries.append(free[0] if len(free) == 1 else free or None)
  return PartitionSpec(*entries)


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
  """Shards an activation by the ambient rules; the identity without any."""
  rules = _RULES.get()
  if rules is None:
    return x
  return jax.lax.with_sharding_constraint(x, spec(axes, rules, x.ndim))


def parts(name: str, size: int) -> int:
  """Into how many parts the ambient rules cut a dimension of that size.

  1 without rules, and for a size that they don't divide evenly, such as that
  of a step of decoding.
  """
  mesh = jax.sharding.get_abstract_mesh()
  count = math.prod(mesh.shape[axis] for axis in mesh_axes(name))
  return count if size % count == 0 else 1


def listed(axes: MeshAxes) -> tuple[str, ...]:
  """The mesh axes that a rule names."""
  return (axes,) if isinstance(axes, str) else tuple(axes or ())


def mesh_axes(name: str) -> tuple[str, ...]:
  """The mesh axes of a logical one by the ambient rules; none without any."""
  return listed((_RULES.get() or {}).get(name))


@contextlib.contextmanager
def ambient(rules: Rules) -> Iterator[None]:
  """Puts rules in force."""
  token = _RULES.set(rules)
  try:
    yield
  finally:
    _RULES.reset(token)


@contextlib.contextmanager
def without(axes: Collection[str]) -> Iterator[None]:
  """The ambient rules but for some mesh axes, for code in `jax.shard_map`."""
  left = {
    name: tuple(axis for axis in mesh_axes(name) if axis not in axes)
    for name in _RULES.get() or {}
  }
  with ambient(left):
    yield
