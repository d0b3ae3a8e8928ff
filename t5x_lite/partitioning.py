"""From logical axes to devices: meshes, rules, shardings, constraints.

A parameter carries logical axes ("embed", "mlp"); rules map each to a mesh
axis ("data", "model") or to none.  Data parallelism, FSDP, tensor parallelism
and their product are the same program under other rules:

  batch -> data                       data parallel
  batch -> data, embed -> data        FSDP (ZeRO-3): parameters sharded too
  heads, mlp, vocab -> model          tensor parallel

A mesh axis shards one dimension of an array only, the first that asks for it,
so "embed -> data" shards parameters but not activations, whose batch is first.
"""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from t5x_lite import compat, errors, meshes, rules, sizes

MEMORIES = ("device", sizes.HOST)


@dataclasses.dataclass(frozen=True)
class Partitioner:
  """A mesh and the rules that lay arrays out on it.

  Attributes:
    mesh_shape: axis name -> size; one size may be -1, the remaining devices.
    rules: logical axis -> mesh axis, a tuple of them, or None.
    num_devices: how many devices to use, the first ones; None is all.
    optimizer_rules: as `rules`, of the optimizer's state and of the gradients
      that it reads; None is as the parameters.
    across: mesh axes that cross slices, whose product is their number; see
      `meshes`.
    optimizer_memory: where the optimizer's state lies, "device" or, to come
      to the device only for the update, "pinned_host".
  """

  mesh_shape: Mapping[str, int]
  rules: Mapping[str, str | tuple[str, ...] | None]
  num_devices: int | None = None
  optimizer_rules: Mapping[str, str | tuple[str, ...] | None] | None = None
  across: tuple[str, ...] = ()
  optimizer_memory: str = "device"

  def __post_init__(self) -> None:
    named = [*self.rules.items(), *(self.optimizer_rules or {}).items()]
    for name, axes in (*named, *(("across", axis) for axis in self.across)):
      for axis in rules.listed(axes):
        if axis not in self.mesh_shape:
          raise errors.ConfigError(
            f"rule ('{name}', '{axis}') names a mesh axis that does not exist:"
            f" the mesh has {', '.join(self.mesh_shape)}"
            f"{errors.suggest(axis, self.mesh_shape)}"
          )
    if self.optimizer_memory not in MEMORIES:
      raise errors.ConfigError(
        f"optimizer_memory {self.optimizer_memory!r} is not one of"
        f" {', '.join(MEMORIES)}"
      )
    unknown = [size for size in self.mesh_shape.values() if size < 1]
    if len(unknown) > 1 or any(size != -1 for size in unknown):
      raise errors.ConfigError(
        f"mesh {dict(self.mesh_shape)}: sizes are positive, and one at most is"
        " -1 (the remaining devices)"
      )

  def resolved_shape(self, num_devices: int) -> dict[str, int]:
    """The mesh shape for so many devices, -1 filled in."""
    return meshes.resolved(self.mesh_shape, num_devices)

  @functools.cached_property
  def mesh(self) -> jax.sharding.Mesh:
    """The mesh over the devices of the run."""
    devices = meshes.devices(self.num_devices)
    shape = self.resolved_shape(len(devices))
    return meshes.make(shape, devices, self.across)

  @functools.cached_property
  def optimizer(self) -> "Partitioner":
    """What lays out the optimizer's state, on the same mesh."""
    if self.optimizer_rules is None:
      return self
    return dataclasses.replace(
      self, rules=self.optimizer_rules, optimizer_rules=None
    )

  def kept(self, opt_state: Any) -> Any:
    """The abstract state of the optimizer, where it lies between updates.

    Raises:
      ConfigError: the devices have no memory of that kind.
    """
    laid_out = self.optimizer.laid_out(opt_state)
    if self.optimizer_memory == "device":
      return laid_out
    device = self.mesh.devices.flat[0]
    found = [memory.kind for memory in device.addressable_memories()]
    if self.optimizer_memory not in found:
      raise errors.ConfigError(
        f"optimizer_memory (OPTIMIZER_MEMORY) is {self.optimizer_memory!r} but"
        f" a {device.device_kind!r} has {', '.join(found)}: use 'device'"
      )

    def one(x: Any) -> jax.ShapeDtypeStruct:
      # Numbers that steps are counted in stay where they are read.
      kind = self.optimizer_memory if x.ndim else "device"
      sharding = x.sharding.with_memory_kind(kind)
      return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    return jax.tree.map(one, laid_out)

  @contextlib.contextmanager
  def activate(self) -> Iterator[None]:
    """Makes mesh and rules ambient, for `constrain`."""
    with rules.ambient(self.rules), jax.set_mesh(self.mesh):
      yield

  def spec_of(self, variable: Any) -> PartitionSpec:
    """The spec of a leaf; replicated where no logical axes describe it.

    The statistics of a factored optimizer carry their parameter's axes but
    have fewer dimensions: they are small, and replicated.
    """
    if not compat.is_variable(variable):
      return PartitionSpec()
    axes = compat.axes_of(variable)
    if len(variable.shape) < len(axes):
      return PartitionSpec()
    return rules.spec(axes, self.rules, len(variable.shape))

  def shardings(self, tree: Any) -> Any:
    """The tree with a NamedSharding for every leaf, Param nodes kept."""

    def one(x: Any) -> Any:
      sharding = NamedSharding(self.mesh, self.spec_of(x))
      return x.replace(sharding) if compat.is_variable(x) else sharding

    return jax.tree.map(one, tree, is_leaf=compat.is_variable)

  def abstract(self, function: Callable[..., Any], *args: Any) -> Any:
    """eval_shape of `function`, with the sharding of every leaf."""
    return self.laid_out(jax.eval_shape(function, *args))

  def laid_out(self, tree: Any) -> Any:
    """Abstract arrays with the sharding of every leaf."""
    return jax.tree.map(
      lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
      tree,
      self.shardings(tree),
    )

  def by_rows(self, tree: Any, axis: int) -> Any:
    """Abstract arrays [... B ...] with their rows, at `axis`, divided."""

    def one(x: Any) -> jax.ShapeDtypeStruct:
      axes = (*(None,) * axis, "batch", *(None,) * (x.ndim - axis - 1))
      sharding = NamedSharding(self.mesh, rules.spec(axes, self.rules, x.ndim))
      return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    return jax.tree.map(one, tree)

  def batch_sharding(self) -> NamedSharding:
    """Sharding of arrays whose first dimension is the batch."""
    return NamedSharding(self.mesh, rules.spec(("batch",), self.rules, 1))

  def rows(self, size: int) -> list[list[int]]:
    """Which rows of a batch each process's devices hold, in rising order.

    A mesh may give a process rows that are not neighbours, and several
    processes the same ones.
    """
    if jax.process_count() == 1:
      return [list(range(size))]
    held: list[set[int]] = [set() for _ in range(jax.process_count())]
    places: Any = self.batch_sharding().devices_indices_map((size,))
    for device, (part,) in places.items():
      held[device.process_index].update(range(*part.indices(size)))
    return [sorted(rows) for rows in held]

  def put(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """Global arrays from this host's rows of the batch, those of `rows`."""
    sharding = self.batch_sharding()
    if jax.process_count() == 1:
      return {k: jax.device_put(rows, sharding) for k, rows in batch.items()}
    return {name: self._global(rows, sharding) for name, rows in batch.items()}

  def _global(self, rows: np.ndarray, sharding: NamedSharding) -> jax.Array:
    parts = self.axis_size("batch", self.mesh.shape)
    held = self._held_parts
    length = len(rows) // len(held)  # of a part
    shape = (length * parts, *rows.shape[1:])

    def data(index: Any) -> np.ndarray:
      first = held.index((index[0].start or 0) // length) * length
      return rows[(slice(first, first + length), *index[1:])]

    return jax.make_array_from_callback(shape, sharding, data)

  @functools.cached_property
  def _held_parts(self) -> list[int]:
    """Of a batch cut into one part for each data-parallel shard."""
    parts = self.axis_size("batch", self.mesh.shape)
    return self.rows(parts)[jax.process_index()]

  def axis_size(self, name: str, mesh_shape: Mapping[str, int]) -> int:
    """Into how many parts a logical axis is cut on such a mesh."""
    axes = rules.listed(self.rules.get(name))
    return math.prod(mesh_shape[axis] for axis in axes)

  def check_batch(self, batch_size: int, num_microbatches: int) -> None:
    """Raises ConfigError if a microbatch doesn't divide among the devices."""
    parts = self.axis_size("batch", self.mesh.shape) * num_microbatches
    if batch_size % parts:
      nearest = max(parts, batch_size // parts * parts)
      raise errors.ConfigError(
        f"batch size {batch_size} does not divide into {num_microbatches}"
        f" microbatches on {parts // num_microbatches} data-parallel shards"
        f" (mesh {dict(self.mesh.shape)}): use a multiple of {parts}, such as"
        f" {nearest}"
      )

  def check(self, tree: Any) -> None:
    """Raises ConfigError if a parameter's dimension doesn't divide.

    That of the optimizer's state for it neither.

    Args:
      tree: a (possibly abstract) module or any tree of Params.
    """
    if self.optimizer is not self:
      self.optimizer.check(tree)
    shape = self.mesh.shape
    leaves, _ = jax.tree_util.tree_flatten_with_path(
      tree, is_leaf=compat.is_variable
    )
    for path, leaf in leaves:
      if not compat.is_variable(leaf):
        continue
      names = compat.axes_of(leaf)
      names = ("layers",) * (len(leaf.shape) - len(names)) + names
      for name, size, axes in zip(
        names, leaf.shape, self.spec_of(leaf), strict=True
      ):
        axes = rules.listed(axes)
        parts = math.prod(shape[axis] for axis in axes)
        if size % parts:
          raise errors.ConfigError(_indivisible(path, name, size, axes, parts))


def _indivisible(
  path: Any, name: str | None, size: int, axes: tuple[str, ...], parts: int
) -> str:
  fitting = [n for n in range(1, parts) if size % n == 0][-1:] or [1]
  return (
    f"mesh axis {' x '.join(map(repr, axes))} has size {parts} but the model"
    f" has {size} {name} in {jax.tree_util.keystr(path)}: {name} must divide"
    f" evenly; use {fitting[0]}, or the rule ('{name}', None)"
  )
