"""A profiler trace of a few steps, to see where their time goes."""

import contextlib
import dataclasses
import logging
import pathlib
from collections.abc import Iterator, Sequence
from os import PathLike
from types import TracebackType
from typing import Any

import jax

from t5x_lite import errors

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

  def open(self, workdir: str | PathLike[str]) -> "Session":
    """Traces into `workdir/profile`; for use in a `with` statement."""
    return Session(pathlib.Path(workdir) / DIRECTORY, self.steps)


class Session:
  """Traces the chosen steps of a loop, each of which `step` surrounds.

  A run resumed among the steps traces what is left of them.  Failure to trace
  is a warning: training goes on.
  """

  def __init__(self, directory: pathlib.Path, steps: Sequence[int] | None):
    self._directory = directory
    self._steps = range(*steps) if steps is not None else range(0)
    self._tracing = self._failed = False
    self._last: Any = None

  def __enter__(self) -> "Session":
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    self._stop(wait=error is None)

  @contextlib.contextmanager
  def step(self, number: int) -> Iterator[None]:
    """Surrounds a step, counted from 1, on all hosts."""
    if number in self._steps and not self._tracing:
      self._start()
    elif number not in self._steps:
      self._stop(wait=True)
    with jax.profiler.StepTraceAnnotation("train", step_num=number):
      yield

  def result(self, arrays: Any) -> None:
    """Tells what a step computed: the trace ends when it is there."""
    if self._tracing:
      self._last = arrays

  def _start(self) -> None:
    if self._failed:
      return
    try:
      jax.profiler.start_trace(self._directory)
      self._tracing = True
    except Exception as error:
      self._fail(error)

  def _stop(self, *, wait: bool) -> None:
    if not self._tracing:
      return
    self._tracing, last, self._last = False, self._last, None
    try:
      if wait:  # devices run behind the host
        jax.block_until_ready(last)
      jax.profiler.stop_trace()
      logging.info("profile of the steps is in %s", self._directory)
    except Exception as error:
      self._fail(error)

  def _fail(self, error: Exception) -> None:
    self._failed = True
    logging.warning("no profile in %s: %s", self._directory, error)
