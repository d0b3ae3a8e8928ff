"""Where the wall time of a run goes: named parts, measured without overlap.

Accelerators run behind the host, so a part is honest only if the host waits
for its result inside it: read the metrics of a step within `STEP`.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping

START = "start"
RESTORE = "restore"
COMPILE = "compile"
STEP = "step"
DATA = "data wait"
EVALUATION = "evaluation"
CHECKPOINT = "checkpoint"
OTHER = "other"

# What does not count when the speed of training is stated.
EXCLUDED = (START, RESTORE, COMPILE, EVALUATION, CHECKPOINT)


class Stopwatch:
  """Divides the time since its construction into named parts.

  Parts may nest: the time of an inner part is taken from the outer one, so
  that the parts sum to the total.  Time in no part is `OTHER`.

  Attributes:
    changes: how often a part began or ended.
  """

  def __init__(self, clock: Callable[[], float] = time.monotonic):
    self._clock = clock
    self._begin = self._mark = clock()
    self._seconds: dict[str, float] = {}
    self._active: list[str] = [OTHER]
    self.changes = 0  # of the part; see `watchdog`

  @property
  def active(self) -> str:
    """The name of the innermost part being timed now."""
    return self._active[-1]

  @contextlib.contextmanager
  def part(self, name: str) -> Iterator[None]:
    """Counts the time of its body to `name`, also when it raises."""
    self._charge()
    self._active.append(name)
    self.changes += 1
    try:
      yield
    finally:
      self._charge()
      self._active.pop()
      self.changes += 1

  def seconds(self) -> dict[str, float]:
    """Seconds of each part so far, parts under way included."""
    self._charge()
    return dict(self._seconds)

  def total(self) -> float:
    """Seconds since construction."""
    return self._clock() - self._begin

  def training(self) -> float:
    """Seconds of everything but the `EXCLUDED` parts."""
    seconds = self.seconds()
    return sum(s for name, s in seconds.items() if name not in EXCLUDED)

  def _charge(self) -> None:
    now = self._clock()
    name = self._active[-1]
    self._seconds[name] = self._seconds.get(name, 0.0) + now - self._mark
    self._mark = now


def goodput(seconds: Mapping[str, float]) -> float:
  """The share of the time that was spent in steps; 0 if there was none."""
  total = sum(seconds.values())
  return seconds.get(STEP, 0.0) / total if total > 0 else 0.0


def summary(seconds: Mapping[str, float]) -> str:
  """One line: the total, then each part with its share, largest first."""
  total = sum(seconds.values())
  ordered = sorted(seconds.items(), key=lambda item: -item[1])
  parts = [
    f"{name} {duration(s)} ({s / total:.0%})"
    for name, s in ordered
    if total > 0 and s / total >= 0.005
  ]
  return (
    f"{duration(total)} in all" + (": " if parts else "") + ", ".join(parts)
  )


def duration(seconds: float) -> str:
  """Formats seconds for people: 4.2 s, 3:07, 2:03:07, 1 d 2:03:07."""
  if seconds < 59.95:
    return f"{seconds:.1f} s"
  minutes, second = divmod(round(seconds), 60)
  hours, minute = divmod(minutes, 60)
  days, hour = divmod(hours, 24)
  if not hours:
    return f"{minute}:{second:02d}"
  prefix = f"{days} d " if days else ""
  return f"{prefix}{hour}:{minute:02d}:{second:02d}"
