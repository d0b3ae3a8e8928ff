"""A profiler trace of a few steps, to see where their time goes."""

import contextlib
import dataclasses
import logging
import pathlib
from collections.abc import Iterator, Sequence
from os import PathLike

import jax
import jax.numpy as jnp

from t5x_lite import errors

_log = logging.getLogger(__name__)

DIRECTORY = "profile"


@dataclasses.dataclass(frozen=True)
class Profile:
  """Which steps to trace; by default none.

  Attributes:
    steps: (first, end), counted from 1: (10, 15) traces the steps 10 to 14.
      Not the first step, which compiles; some later ones are typical.
  """

  steps: Sequence[int] | None = None

  def __post_init__(self) -> None:
    if self.steps is None:
      return
    try:
      first, end = self.steps
    except (TypeError, ValueError):
      raise errors.ConfigError(
        f"profile steps {self.steps!r} are not a pair (first, end), such as"
        " (10, 15)"
      ) from None
    if not all(type(step) is int for step in (first, end)):
      raise errors.ConfigError(
        f"profile steps {self.steps!r} are not whole numbers"
      )
    if not 1 <= first < end:
      raise errors.ConfigError(
        f"profile steps ({first}, {end}) hold no step: steps count from 1, and"
        " the end, which is not traced, comes after the first"
      )

  def check(self, num_steps: int) -> None:
    """Raises ConfigError if the run ends before the steps."""
    if self.steps is not None and self.steps[1] > num_steps + 1:
      raise errors.ConfigError(
        f"profile steps {tuple(self.steps)} go beyond the {num_steps} steps of"
        f" the run; the end may be {num_steps + 1} at most"
      )


@contextlib.contextmanager
def tracing(
  profile: Profile | None, workdir: str | PathLike[str]
) -> Iterator["Trace"]:
  """Traces the chosen steps of the loop in its body into workdir/profile.

  A run resumed among the steps traces what is left of them.  Failure to trace
  is a warning: training goes on.
  """
  steps = None if profile is None else profile.steps
  trace = Trace(pathlib.Path(workdir) / DIRECTORY, steps)
  try:
    yield trace
  finally:
    trace.stop()


class Trace:
  """Starts and stops the profiler; to be called before every step."""

  def __init__(self, directory: pathlib.Path, steps: Sequence[int] | None):
    self._directory = directory
    self._steps = range(*steps) if steps is not None else range(0)
    self._failed = False
    self._open: contextlib.ExitStack | None = None  # while tracing

  def __call__(self, step: int) -> None:
    """Tells that the step, counted from 1, is about to begin."""
    if step not in self._steps:
      self.stop()
    elif not self._failed:
      self._begin(step)

  def _begin(self, step: int) -> None:
    try:
      if self._open is None:
        jax.profiler.start_trace(self._directory)
        self._open = contextlib.ExitStack()
      self._open.close()  # the step before
      self._open.enter_context(
        jax.profiler.StepTraceAnnotation("train", step_num=step)
      )
    except Exception as error:
      self._fail(error)

  def stop(self) -> None:
    """Ends the trace, if one is under way, when the devices are done."""
    if self._open is None:
      return
    try:
      _wait_for_devices()
      self._open.close()
      jax.profiler.stop_trace()
      _log.info("the profile is in %s", self._directory)
    except Exception as error:
      self._fail(error)
    self._open = None

  def _fail(self, error: Exception) -> None:
    self._failed = True
    _log.warning("no profile in %s: %s", self._directory, error)


def _wait_for_devices() -> None:
  """Devices run behind the host, each in the order it was given work."""
  for device in jax.local_devices():
    jax.block_until_ready(jnp.zeros((), device=device) + 1)
