"""What the processes of a run do together, and one on behalf of all."""

import itertools
import json
from collections.abc import Callable
from typing import TypeVar

import jax

from t5x_lite import compat, errors

T = TypeVar("T")

# Seconds to wait for others, who may be reading or checking much.  That one is
# dead is known long before (see `roll_call`).
TIMEOUT = 1800.0
_meetings = itertools.count()  # all processes meet in the same order


def is_first() -> bool:
  """Whether this process writes what is written once a run."""
  return jax.process_index() == 0


def barrier(what: str, seconds: float = TIMEOUT) -> None:
  """Waits until all processes are here.

  Args:
    what: they do, for the message.
    seconds: to wait.

  Raises:
    ProcessLost: some did not come; the message names them.
  """
  if jax.process_count() > 1:
    _meet(f"t5x_lite/{next(_meetings)}", what, seconds)


def on_first(work: Callable[[], T], seconds: float = TIMEOUT) -> T:
  """Runs `work` on the first process; every process returns its result.

  Args:
    work: returns what JSON can hold.
    seconds: that the others wait for it.

  Raises:
    CheckpointError: `work` raised; on the first process, its own exception.
      Without this the others would wait for it at the next barrier.
    ProcessLost: the first process, or another, did not come.
  """
  if jax.process_count() == 1:
    return work()
  key, error, result = f"t5x_lite/{next(_meetings)}", None, None
  client = compat.distributed_client()
  if is_first():
    try:
      result = work()
    except Exception as caught:
      error = caught
    report = {"failed": error is not None, "result": result}
    client.key_value_set(f"{key}/report", json.dumps(report))
  name = getattr(work, "__qualname__", "what the first process does")
  _meet(key, name.removesuffix(".<lambda>"), seconds)
  if error is not None:
    raise error
  # The same object for all: tuples have become lists on the first, too.
  told = json.loads(client.blocking_key_value_get(f"{key}/report", 60_000))
  if told["failed"]:
    raise errors.CheckpointError(
      "the first process could not go on; its message says why"
    )
  return told["result"]


def _meet(key: str, what: str, seconds: float) -> None:
  """A barrier of JAX's coordination service."""
  client, own = compat.distributed_client(), jax.process_index()
  client.key_value_set(f"{key}/here/{own}", "")
  try:
    client.wait_at_barrier(key, round(seconds * 1000))
  except jax.errors.JaxRuntimeError as error:
    if "DEADLINE_EXCEEDED" not in str(error):
      raise
    here = {
      int(name.rpartition("/")[2])
      for name, _ in client.key_value_dir_get(f"{key}/here")
    }
    missing = sorted(set(range(jax.process_count())) - here)
    raise errors.ProcessLost(
      f"waited {seconds:.0f} s for process {', '.join(map(str, missing))} at"
      f" {what!r}: see what it does or says"
      if missing
      else f"came too late to {what!r}: the others had waited {seconds:.0f} s"
    ) from error
