"""Reading the arrays of a checkpoint, and checking those to be written.

A step directory has two items that Orbax wrote: "model", the parameters, and
"optimizer", everything else of the state.  They are apart so that inference
neither reads nor checks the optimizer's.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite import errors, sizes
from t5x_lite.checkpoints import steps, tree

MODEL = "model"
OPTIMIZER = "optimizer"


def split(state: Any) -> dict[str, dict[str, Any]]:
  """The items of a state (a pytree with a field `model`), as nested dicts."""
  rest = tree.to_dict(state)
  return {MODEL: rest.pop("model"), OPTIMIZER: rest}


def join(items: Mapping[str, dict[str, Any]], like: Any) -> Any:
  """The inverse of `split`."""
  return tree.from_dict({"model": items[MODEL], **items[OPTIMIZER]}, like)


def restore(directory: pathlib.Path, abstract: Any) -> Any:
  """The state saved in a step directory, bit for bit.

  Args:
    directory: of the step.
    abstract: a state of ShapeDtypeStructs with shardings.

  Raises:
    CheckpointError: other names, shapes or dtypes were saved, or parameters
      alone, of which a run can start but not go on.
  """
  if not (directory / OPTIMIZER).is_dir():
    raise errors.CheckpointError(
      f"{directory} holds parameters alone, as a conversion writes them: start"
      " a run in another --workdir with INITIAL_CHECKPOINT="
      f"{directory.parent.parent}"
    )
  wanted = split(abstract)
  saved = {
    f"{item}/{name}": spec
    for item in wanted
    for name, spec in saved_specs(directory / item).items()
  }
  tree.check_same(saved, tree.specs(wanted), where=str(directory))
  items = {name: load(directory / name, wanted[name]) for name in wanted}
  return join(items, abstract)


def restore_model(directory: pathlib.Path, abstract: Any) -> Any:
  """As `restore`, of the model alone."""
  wanted = tree.to_dict(abstract)
  saved = saved_specs(directory / MODEL)
  tree.check_same(saved, tree.specs(wanted), where=str(directory))
  return tree.from_dict(load(directory / MODEL, wanted), abstract)


def saved_specs(item: pathlib.Path) -> dict[str, tree.Spec]:
  """Shape and dtype by name of the arrays in an item's directory."""
  import orbax.checkpoint as ocp

  metadata = ocp.PyTreeCheckpointHandler().metadata(_path(item))
  return tree.specs(metadata.tree)


def load(item: pathlib.Path, abstract: dict[str, Any]) -> dict[str, Any]:
  """The arrays named in `abstract`, straight into its shardings.

  Args:
    item: directory of the item.
    abstract: nested dicts of ShapeDtypeStructs, a part of the saved ones.
      Leaves without a sharding go to the first local device.  A dtype other
      than the saved one is a cast; other shapes are errors.

  Raises:
    CheckpointError: Orbax could not read them.
  """
  import orbax.checkpoint as ocp

  abstract = jax.tree.map(_placed, abstract)
  try:
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
      return checkpointer.restore(
        _path(item),
        args=ocp.args.PyTreeRestore(
          item=abstract,
          restore_args=ocp.checkpoint_utils.construct_restore_args(abstract),
          partial_restore=True,
        ),
      )
  except Exception as error:
    raise errors.CheckpointError(
      f"the arrays in {item} cannot be read: {steps.reason(error)}"
    ) from error


def _path(item: pathlib.Path) -> Any:
  from etils import epath  # What Orbax's handlers take; it comes with Orbax.

  return epath.Path(item)


def _placed(x: Any) -> jax.ShapeDtypeStruct:
  sharding = getattr(x, "sharding", None)
  if sharding is None:
    device = jax.local_devices()[0]
    sharding = jax.sharding.SingleDeviceSharding(device)
  return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)


@jax.jit
def _finite(leaves: list[jax.Array]) -> jax.Array:
  return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves])


def not_finite(state: Any) -> list[str]:
  """Names of the floating-point leaves with a NaN or infinity in them.

  One fused reduction on the devices; waits for the arrays to be computed.
  """
  leaves = {
    name: leaf
    for name, leaf in tree.flatten(state).items()
    if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
  }
  bad = []
  for name in [name for name, leaf in leaves.items() if _elsewhere(leaf)]:
    # One at a time: they are elsewhere because devices have no room for all.
    leaf = leaves.pop(name)
    there = leaf.sharding.with_memory_kind("device")
    if not np.asarray(_finite([jax.device_put(leaf, there)])).all():
      bad.append(name)
  if leaves:
    finite = np.asarray(_finite(list(leaves.values())))
    bad += [name for name, ok in zip(leaves, finite, strict=True) if not ok]
  return bad


def _elsewhere(leaf: Any) -> bool:
  """Whether an array lies in the host's memory."""
  sharding = getattr(leaf, "sharding", None)
  return getattr(sharding, "memory_kind", None) == sizes.HOST
