"""How long single steps take: percentiles, where a mean hides the slow ones.

The p-th percentile is the least time that p in a hundred steps did not exceed
(nearest rank), so that it is the time of a step that there was.
"""

import array
from collections.abc import Sequence

import numpy as np

PERCENTS = (50, 90, 99)


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
  """{"p50": ..., "p90": ..., "p99": ...} in seconds; none of no steps."""
  if not len(seconds):
    return {}
  found = np.percentile(seconds, PERCENTS, method="inverted_cdf")
  return {f"p{p}": float(x) for p, x in zip(PERCENTS, found, strict=True)}


class StepTimes:
  """The times between the ends of steps, four bytes a step.

  A step ends where its metrics have been read.  Args:
    now: seconds on a clock of training alone, `Stopwatch.training`, when the
      first step begins.
  """

  def __init__(self, now: float):
    self._now = now
    self._seconds = array.array("f")
    self._seen = 0  # steps that `recent` has told of

  def done(self, now: float) -> None:
    """Tells that a step ended, at that time on the clock."""
    self._seconds.append(now - self._now)
    self._now = now

  def recent(self) -> dict[str, float]:
    """Percentiles of the steps since the last call."""
    seconds = self._seconds[self._seen :]
    self._seen = len(self._seconds)
    return percentiles(seconds)

  def overall(self) -> dict[str, float]:
    """Percentiles of all steps since the start."""
    return percentiles(self._seconds)


def written(seconds: float) -> str:
  """For people: 123 ms, or 4.56 s."""
  return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"
