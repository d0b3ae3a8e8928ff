"""What one process does on behalf of all of a run."""

from collections.abc import Callable

import jax
import numpy as np

from t5x_lite import errors


def is_first() -> bool:
  """Whether this process writes what is written once a run."""
  return jax.process_index() == 0


def on_first(work: Callable[[], int | None]) -> int | None:
  """Runs `work` on the first process; every process returns its result.

  Raises:
    CheckpointError: `work` raised; on the first process, its own exception.
      Without this the others would wait for it at the next barrier.
  """
  if jax.process_count() == 1:
    return work()
  from jax.experimental import multihost_utils

  result, error = None, None
  if is_first():
    try:
      result = work()
    except Exception as caught:
      error = caught
  report = [error is not None, result is not None, result or 0]
  failed, given, value = multihost_utils.broadcast_one_to_all(
    np.asarray(report, np.int32)
  )
  if error is not None:
    raise error
  if failed:
    raise errors.CheckpointError(
      "the first process could not go on; its message says why"
    )
  return int(value) if given else None
