"""What the processes of a run do together, and one on behalf of all."""

import itertools
import json
from collections.abc import Callable
from typing import Any, TypeVar

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


def share() -> tuple[int, int]:
  """This process's part of what all divide: its number, and how many.

  Alone it is (0, 1), and no device is asked for it.
  """
  if compat.distributed_client() is None:
    return 0, 1
  return jax.process_index(), jax.process_count()


def barrier(what: str, seconds: float = TIMEOUT) -> None:
  """Waits until all processes are here.

  Args:
    what: they do, for the message.
    seconds: to wait.

  Raises:
    ProcessLost: some did not come; the message names them.
  """
  if compat.distributed_client() is not None:
    _meet(next(_meetings), what, seconds)


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
  if compat.distributed_client() is None:
    return work()
  report = _reports(work, is_first(), seconds)[0]
  if report["failed"]:
    raise errors.CheckpointError(
      "the first process could not go on; its message says why"
    )
  return report["result"]


def on_all(work: Callable[[], T], seconds: float = TIMEOUT) -> list[T]:
  """Runs `work` on every process; all return the results of all, in order.

  Args:
    work: returns what JSON can hold; the same kind of work everywhere.
    seconds: to wait for the slowest.

  Raises:
    CheckpointError: `work` raised on another process; here, its own exception.
    ProcessLost: a process did not come.
  """
  if compat.distributed_client() is None:
    return [work()]
  reports = _reports(work, True, seconds)
  for index, report in reports.items():
    if report["failed"]:
      raise errors.CheckpointError(
        f"process {index} could not go on; its message says why"
      )
  return [report["result"] for report in reports.values()]


def _reports(
  work: Callable[[], Any], takes_part: bool, seconds: float
) -> dict[int, Any]:
  """Lets all meet once `work` is done; returns what came of it, in order.

  Args:
    work: to do.
    takes_part: whether this process does it.
    seconds: to wait for those that do.

  Returns:
    By process: whether it "failed", and else its "result", from JSON on that
    process, too, so that all have the same object.
  """
  number, error, result = next(_meetings), None, None
  client, folder = compat.distributed_client(), f"{_key(number)}/reports"
  if takes_part:
    try:
      result = work()
    except Exception as caught:
      error = caught
    report = json.dumps({"failed": error is not None, "result": result})
    client.key_value_set(f"{folder}/{jax.process_index()}", report)
  name = getattr(work, "__qualname__", "what the others do")
  _meet(number, name.removesuffix(".<lambda>"), seconds)
  if error is not None:
    raise error
  found = {
    int(name.rpartition("/")[2]): json.loads(text)
    for name, text in client.key_value_dir_get(folder)
  }
  return dict(sorted(found.items()))


def _key(number: int) -> str:
  """Where a meeting keeps what is said at it."""
  return f"t5x_lite/{number}"


def _meet(number: int, what: str, seconds: float) -> None:
  """A barrier of JAX's coordination service."""
  client, own = compat.distributed_client(), jax.process_index()
  key = _key(number)
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
  if is_first():
    # Who came to this one has read all that was said at the one before.
    client.key_value_delete(_key(number - 1))
