"""A run's checkpoints while it trains."""

import logging
import pathlib
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from t5x_lite import errors, hosts, run_lock
from t5x_lite.checkpoints import arrays, initialize, retention, steps, writer

_SLOW = 1.0  # seconds of waiting for the previous save worth a warning
_log = logging.getLogger(__name__)


class Session:
  """Saves and restores in one workdir, which it locks until `close`.

  Made by `checkpoints.Checkpointer.open`; a context manager.

  Args:
    directory: of the steps, in the workdir.
    every: save at the steps that this number divides.
    keeping: which steps to keep.
    timeout: seconds that writing a step may take.
    initialize_from: what to begin with if there is no step.

  Raises:
    CheckpointError: the workdir is in use, or cannot be written.
  """

  def __init__(
    self,
    directory: pathlib.Path,
    *,
    every: int,
    keeping: retention.Retention,
    timeout: float,
    initialize_from: initialize.InitializeFrom | None = None,
  ):
    self._directory, self._every = directory, every
    self._retention, self._initialize_from = keeping, initialize_from
    self._lock: run_lock.RunLock | None = None
    self._current: int | None = None  # last saved or restored
    hosts.on_first(self._prepare)
    self._writer = writer.Writer(directory, keeping, timeout)

  def _prepare(self) -> None:
    try:
      self._directory.mkdir(parents=True, exist_ok=True)
      self._lock = run_lock.RunLock(self._directory.parent)
    except OSError as error:
      raise errors.CheckpointError(
        f"no checkpoints can be written to {self._directory}: {error}."
        f" Remedy: {steps.remedy(error)}"
      ) from error
    steps.sweep(self._directory)

  def __enter__(self) -> "Session":
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    traceback: TracebackType | None,
  ) -> None:
    if error is None:
      return self.close()
    try:
      self.close()
    except errors.CheckpointError as second:  # Must not hide the first.
      _log.error("%s", second)

  def latest_step(self) -> int | None:
    """The newest complete step; not one that is still being written."""
    return max(steps.steps(self._directory), default=None)

  def best_step(self) -> int | None:
    """The complete step with the best `best_metric`."""
    return self._retention.best(steps.steps(self._directory))

  def save(
    self,
    step: int,
    state: Any,
    iterator: writer.Savable | None = None,
    metrics: Mapping[str, float] | None = None,
    force: bool = False,
  ) -> bool:
    """Begins to save, if the step is due; returns whether it did.

    Waits for the previous save, and reports its errors, but not for this one.
    The state may be donated to the next training step at once.

    Args:
      step: number of updates done.
      state: a TrainState.
      iterator: of the training data, at the batch after this step.
      metrics: of this step, kept with it; `best_metric` is one of them.
      force: save also when `every` does not divide the step.

    Raises:
      NonFiniteError: the state holds NaN or infinity; nothing is saved.
      CheckpointError: this or the previous save failed, or the workdir holds
        a later step of another course of training.
    """
    due = force or step % self._every == 0
    if not due or step == self._current:
      return False
    self._wait_for_previous(step)
    self._check_history(step)
    self._check_finite(step, state)
    values = {name: float(x) for name, x in (metrics or {}).items()}
    self._writer.begin(step, arrays.split(state), iterator, values)
    self._current = step
    return True

  def _wait_for_previous(self, step: int) -> None:
    started = time.monotonic()
    self.wait()
    waited = time.monotonic() - started
    if waited > _SLOW:
      _log.warning(
        "Step %d: training waited %.0f s for the previous checkpoint to be"
        " written; save less often (Checkpointer.every) or to a faster disk.",
        step,
        waited,
      )

  def _check_history(self, step: int) -> None:
    newest = self.latest_step()
    if newest is not None and step <= newest:
      raise errors.CheckpointError(
        f"step {step} is not saved: {self._directory} already holds step"
        f" {newest}, of another course of training. Use another --workdir,"
        f" with InitializeFrom({str(self._directory.parent)!r}, step=...,"
        " optimizer=True), or move the newer steps away"
      )

  def _check_finite(self, step: int, state: Any) -> None:
    bad = arrays.not_finite(state)
    if not bad:
      return
    last = self.latest_step()
    more = f" (and {len(bad) - 1} more arrays)" if len(bad) > 1 else ""
    raise errors.NonFiniteError(
      f"step {step} is not saved: NaN or infinity in {bad[0]}{more}.\n"
      + (
        "No checkpoint was saved before"
        if last is None
        else f"The last good checkpoint is step {last} in {self._directory}"
      )
      + ". Lower the learning rate, clip gradients, or leave out the data of"
      " the steps since"
    )

  def wait(self) -> None:
    """Waits until the running save is complete on disk.

    Raises:
      CheckpointError: it failed; the steps before it are untouched.
    """
    try:
      self._writer.wait()
    except errors.CheckpointError:
      self._current = None
      raise

  def close(self) -> None:
    """As `wait`, then lets go of the workdir."""
    try:
      self._writer.close()
    finally:
      if self._lock is not None:
        self._lock.release()

  def restore(
    self,
    abstract: Any,
    iterator: writer.SavableIterator | None = None,
    step: int | None = None,
    *,
    init: Callable[[], Any] | None = None,
  ) -> Any | None:
    """The newest state in the workdir; else the initial one; else None.

    Damaged steps are passed over with a warning (`steps.newest_good`).

    Args:
      abstract: a TrainState of ShapeDtypeStructs with shardings; the result
        has its structure, dtypes and shardings.
      iterator: goes to where it was at that step.
      step: another step than the newest.
      init: makes a fresh state, of which `initialize_from` replaces parts.

    Raises:
      CheckpointError: arrays differ in name, shape or dtype (with a table),
        there is no good step, or no iterator state to go with it.
    """
    self.wait()
    if step is None:
      chosen = steps.newest_good(self._directory)
    else:
      chosen = step
      steps.verify(steps.resolve(self._directory, step))
    if chosen is None:
      if self._initialize_from is None:
        return None
      return self._initialize_from.load(abstract, init)
    directory = self._directory / str(chosen)
    state = arrays.restore(directory, abstract)
    if iterator is not None:
      _restore_iterator(directory, iterator)
    self._current = chosen
    return state


def _restore_iterator(
  directory: pathlib.Path, iterator: writer.SavableIterator
) -> None:
  saved = directory / writer.ITERATOR
  if not saved.is_dir():
    raise errors.CheckpointError(
      f"{directory} holds no position in the training data, so going on from"
      " it would repeat data: start a new --workdir with InitializeFrom"
    )
  iterator.restore(saved)
