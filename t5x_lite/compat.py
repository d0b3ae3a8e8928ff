"""The one place that knows how jax 0.10-0.12 and flax 0.12 differ."""

import os
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from flax import nnx


def mesh_of(array: np.ndarray, names: Iterable[str]) -> jax.sharding.Mesh:
  """A mesh of devices in its shape; jax now makes axes explicit by default."""
  axes = tuple(names)
  return jax.sharding.Mesh(
    array, axes, axis_types=(jax.sharding.AxisType.Auto,) * len(axes)
  )


def is_variable(x: Any) -> bool:
  """Whether x is a Flax variable (a Param, say): a leaf with metadata."""
  return isinstance(x, nnx.Variable)


def axes_of(variable: nnx.Variable) -> tuple[str | None, ...]:
  """The logical axes that `layers.linear.param` gave the variable."""
  return tuple(variable.get_metadata("axes"))


def cluster_environment() -> Any | None:
  """What JAX detects of the launcher of this process; None if nothing.

  It has get_process_count, get_process_id, and get_coordinator_address.
  """
  from jax._src import clusters

  for kind in clusters.ClusterEnv._cluster_types:
    # Asking Kubernetes makes sense in a job of numbered pods only.
    is_pod = kind.__name__ == "K8sCluster"
    if is_pod and "JOB_COMPLETION_INDEX" not in os.environ:
      continue
    if not kind.opt_in_only_method and kind.is_env_present():
      return kind
  return None


def own_gpus(environment: Any) -> tuple[int, ...] | None:
  """Which of its host's GPUs JAX gives a process; None is all."""
  given = os.environ.get("JAX_LOCAL_DEVICE_IDS")
  if given:
    return tuple(int(number) for number in given.split(","))
  if "Tpu" in environment.__name__:
    return None
  local = environment.get_local_process_id()
  return None if local is None else (local,)


def initialize_distributed(
  coordinator: str,
  count: int,
  index: int,
  *,
  local_devices: tuple[int, ...] | None,
  preemption: bool,
) -> None:
  """jax.distributed, for processes that are known to be there.

  Args:
    coordinator: HOST:PORT of process 0.
    count: number of processes.
    index: of this one.
    local_devices: numbers of the GPUs that are this process's; None is all.
    preemption: whether SIGTERM is to be agreed on (see `preemption`); else it
      ends the process.
  """
  jax.config.update("jax_cpu_collectives_implementation", "gloo")
  jax.config.update("jax_enable_preemption_service", preemption)
  jax.distributed.initialize(
    coordinator,
    count,
    index,
    local_device_ids=local_devices,
    cluster_detection_method="deactivate",
  )


def distributed_client() -> Any:
  """The client of JAX's key-value store; None if there is one process."""
  from jax._src import distributed

  return distributed.global_state.client
