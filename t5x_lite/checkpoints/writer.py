"""Writing a step directory beside training, complete or not at all.

  1. The data iterator and the metrics are written to `staged/`, before
     training draws another batch.
  2. Orbax copies the arrays to the host, and training goes on.
  3. In a thread, Orbax writes the arrays to a temporary directory, and every
     process reads its own again for their digests (`items`); the staged files
     are moved into it and its manifest is written.
  4. The directory is renamed to its step, and steps no longer kept are
     renamed into `deleted/`.

An interruption anywhere leaves directories that are no steps, which `sweep`
removes when the next run starts.
"""

import contextlib
import logging
import math
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from t5x_lite import errors, hosts
from t5x_lite.checkpoints import items, manifest, retention, steps

ITERATOR = "iterator"


class Savable(Protocol):
  """What the source of training data must offer to be saved with the state."""

  def save(self, directory: pathlib.Path) -> None:
    """Writes the position, this host's part of it, into a directory."""


class SavableIterator(Savable, Protocol):
  """What a data iterator must offer to be restored as well."""

  def restore(self, directory: pathlib.Path) -> None:
    """Goes to the position that `save` wrote."""


class _FromOrbax(logging.Filter):
  """Drops what Orbax logs: its failures reach the user as our errors."""

  def filter(self, record: logging.LogRecord) -> bool:
    return "/orbax/" not in record.pathname


def _not_retrieved(record: logging.LogRecord) -> bool:
  """Drops asyncio's tracebacks of failures that one of us did report."""
  return "exception was never retrieved" not in record.getMessage()


class _Preserve:
  """Our retention as Orbax's PreservationPolicy."""

  def __init__(self, kept: retention.Retention):
    self._retention = kept

  def should_preserve(
    self, checkpoints: Sequence[Any], *, context: Any
  ) -> list[bool]:
    del context
    found = [info.step for info in checkpoints]
    kept = self._retention.kept(found)
    return [step in kept for step in found]


class Writer:
  """Writes steps into a directory, one at a time.

  Args:
    directory: of the steps; it exists.
    keeping: which of them to keep.
    timeout: seconds after which a step that is not written has failed.
  """

  def __init__(
    self,
    directory: pathlib.Path,
    keeping: retention.Retention,
    timeout: float,
  ):
    self._directory, self._retention = directory, keeping
    self._staged, self._timeout = directory / steps.STAGED, timeout
    self._orbax: Any = None
    self._step: int | None = None  # being written
    self._items: tuple[str, ...] = ()  # of it
    self._quiet = _FromOrbax()
    logging.getLogger("absl").addFilter(self._quiet)

  def begin(
    self,
    step: int,
    trees: Mapping[str, dict[str, Any]],
    iterator: Savable | None,
    metrics: Mapping[str, float],
  ) -> None:
    """Begins to write a step; `wait` before beginning another.

    Raises:
      CheckpointError: it failed; nothing of it is left.
    """
    self._step = step
    self._retention.note(step, metrics)
    with self._explained():
      hosts.on_first(lambda: self._stage(iterator is not None, metrics))
      if iterator is not None:
        iterator.save(self._staged / ITERATOR)
      self._start(step, trees)

  def _stage(self, iterator: bool, metrics: Mapping[str, float]) -> None:
    self._staged.mkdir()
    retention.write_metrics(self._staged, metrics)
    if iterator:
      (self._staged / ITERATOR).mkdir()

  def _start(self, step: int, trees: Mapping[str, dict[str, Any]]) -> None:
    import orbax.checkpoint as ocp

    self._items = tuple(trees)
    if self._orbax is None:
      self._orbax = ocp.CheckpointManager(
        self._directory,
        options=ocp.CheckpointManagerOptions(
          preservation_policy=_Preserve(self._retention),
          todelete_subdir=steps.DELETED,
          lightweight_initialize=True,
          async_options=ocp.AsyncOptions(
            timeout_secs=math.ceil(self._timeout),
            post_finalization_callback=self._complete,
          ),
        ),
      )
    save = items.save_args()
    saves = {name: save(tree) for name, tree in trees.items()}
    self._orbax.save(step, args=ocp.args.Composite(**saves), force=True)

  def _complete(self) -> None:
    """Adds what is ours to the temporary directory, and seals it.

    Orbax calls this in its thread, on the first process, when all processes
    have written; only the rename follows.
    """
    (temporary,) = self._directory.glob(f"{self._step}{steps.TEMPORARY}*")
    for path in self._staged.iterdir():
      path.rename(temporary / path.name)
    self._staged.rmdir()
    known = {
      f"{item}/{name}": digest
      for item in self._items
      for name, digest in items.collect(temporary / item).items()
    }
    manifest.seal(temporary, known)

  def wait(self) -> None:
    """Waits until the step being written is complete on disk.

    Raises:
      CheckpointError: it failed; nothing of it is left.
    """
    if self._step is None:
      return
    with self._explained():
      self._orbax.wait_until_finished()
      self._orbax.check_for_errors()
      if not self._sealed():
        raise FileNotFoundError(f"step {self._step} did not appear")
    self._step = None
    if hosts.is_first():
      steps.empty_trash(self._directory)

  def _sealed(self) -> bool:
    return (self._directory / str(self._step) / manifest.NAME).exists()

  @contextlib.contextmanager
  def _explained(self) -> Iterator[None]:
    """Turns whatever fails in a save into one clear error, and cleans up."""
    step = self._step
    try:
      yield
    except Exception as error:
      saved = self._sealed()
      self._abandon()
      if isinstance(error, errors.UserError):
        raise
      what = "was saved but cleaning up failed" if saved else "is not saved"
      found = steps.steps(self._directory)
      newest = f"step {found[-1]}" if found else "none"
      raise errors.CheckpointError(
        f"step {step} {what}, in {self._directory}: {steps.reason(error)}\n"
        f"The newest complete checkpoint is {newest}; nothing half-written is"
        f" left. Remedy: {steps.remedy(error)}"
      ) from error

  def _abandon(self) -> None:
    self._step = None
    logging.getLogger("asyncio").addFilter(_not_retrieved)
    # One failure can be reported by several threads, one at a time; only
    # closing waits for them all.  The next save makes a new manager.
    for _ in range(3):
      if self._orbax is not None:
        with contextlib.suppress(Exception):
          self._orbax.close()
          self._orbax = None
    self._orbax = None
    if hosts.is_first():
      steps.sweep(self._directory)

  def close(self) -> None:
    """As `wait`, and frees what belongs to the writer."""
    try:
      self.wait()
      if self._orbax is not None:
        self._orbax.close()
        self._orbax = None
    finally:
      logging.getLogger("absl").removeFilter(self._quiet)
