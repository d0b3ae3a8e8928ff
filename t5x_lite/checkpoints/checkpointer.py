"""The settings of a run's checkpoints, and reading those of other runs."""

import dataclasses
import os
import pathlib
from typing import Any

from t5x_lite import errors
from t5x_lite.checkpoints import arrays, initialize, retention, session, steps


@dataclasses.dataclass(frozen=True)
class Checkpointer:
  """How often to save, what to keep, and what to start from.

  Attributes:
    every: save at the steps that this number divides.
    keep: how many of the newest steps to keep; None keeps all.
    keep_every: keep also all steps that this number divides.
    best_metric: keep also the step where this metric is best.
    best_mode: "max" or "min": which values of it are good.
    timeout_minutes: writing a step fails, and so does the run, if it takes
      longer.
    initialize_from: where a run without checkpoints takes parameters from.
  """

  every: int = 1000
  keep: int | None = 3
  keep_every: int | None = None
  best_metric: str | None = None
  best_mode: str = "max"
  timeout_minutes: float = 60.0
  initialize_from: initialize.InitializeFrom | None = None

  def __post_init__(self) -> None:
    for name in ("every", "keep", "keep_every"):
      value = getattr(self, name)
      if value is not None and value < 1:
        raise errors.ConfigError(
          f"Checkpointer.{name} is {value}: use 1 or more"
          + ("" if name == "every" else ", or None")
        )
    if self.timeout_minutes <= 0:
      raise errors.ConfigError(
        f"Checkpointer.timeout_minutes is {self.timeout_minutes}: use more"
        " than 0"
      )
    if self.best_mode not in ("max", "min"):
      raise errors.ConfigError(
        f"Checkpointer.best_mode is {self.best_mode!r}: use 'max' or 'min'"
      )

  def open(self, workdir: str | os.PathLike[str]) -> session.Session:
    """Locks the workdir and returns the session; use it with `with`.

    Raises:
      CheckpointError: another run uses the workdir, or it is not writable.
    """
    if "://" in os.fspath(workdir):
      raise errors.ConfigError(
        f"the workdir {os.fspath(workdir)!r} is a URL: mount the bucket (with"
        " gcsfuse, say) and give the path"
      )
    directory = pathlib.Path(workdir).absolute() / steps.SUBDIRECTORY
    return session.Session(
      directory,
      every=self.every,
      keeping=retention.Retention(
        directory,
        keep=self.keep,
        keep_every=self.keep_every,
        best_metric=self.best_metric,
        best_mode=self.best_mode,
      ),
      timeout=60.0 * self.timeout_minutes,
      initialize_from=self.initialize_from,
    )


def restore_params(
  path: str | os.PathLike[str], abstract_model: Any, step: int | None = None
) -> Any:
  """The parameters of a checkpoint; the optimizer's state is not read.

  Takes no lock, so that it can read the workdir of a run that is training.

  Args:
    path: a workdir, its checkpoints directory, or a directory of a step.
    abstract_model: a model of ShapeDtypeStructs; leaves without a sharding go
      to the first local device.
    step: which step; by default the newest.

  Raises:
    CheckpointError: there is no such step, it is damaged (the message names
      the newest good one), or the parameters differ in name, shape or dtype.
  """
  directory = steps.resolve(path, step)
  steps.verify(directory, [arrays.MODEL])
  return arrays.restore_model(directory, abstract_model)
