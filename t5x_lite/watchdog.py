"""Ends a process in which nothing moves, and shows where it stands.

A collective that waits for a peer, a file system that does not answer or a
compiler in a loop would hold the machines of a run until someone looks.  The
watchdog is a thread.  `arm` starts it with the process; a run then hands it
its stopwatch, where every change of part is a sign of life, and its limits.
A call that never lets Python's threads run stops the watchdog too.
"""

import dataclasses
import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable

from t5x_lite import errors, stopwatch

_PERIOD = 1.0  # seconds between two looks


@dataclasses.dataclass(frozen=True)
class Watchdog:
  """How long nothing may move.

  Attributes:
    minutes: of a step, or of waiting for data; None is without end, anywhere.
    slow_minutes: of a part that takes longer: restoring, compiling, an
      evaluation, writing a checkpoint.
  """

  minutes: float | None = 30.0
  slow_minutes: float = 120.0

  def __post_init__(self) -> None:
    for name in ("minutes", "slow_minutes"):
      value = getattr(self, name)
      if value is not None and value <= 0:
        raise errors.ConfigError(
          f"Watchdog.{name} is {value}: use more than 0"
          + (", or None for no limit" if name == "minutes" else "")
        )

  def limit(self, part: str) -> float:
    """Seconds that a part may take."""
    if self.minutes is None:
      return float("inf")
    slow = max(self.minutes, self.slow_minutes)
    return 60.0 * (slow if part in stopwatch.EXCLUDED else self.minutes)


class Watch:
  """A watchdog at work; see `arm`.

  Args:
    settings: limits, until `follow`.
    on_hang: gets the message; it is expected to end the process.
  """

  def __init__(self, settings: Watchdog, on_hang: Callable[[str], None]):
    self._settings, self._on_hang = settings, on_hang
    self._followed: stopwatch.Stopwatch | None = None
    self._seen: tuple[str, int] = (stopwatch.START, 0)
    self._since = time.monotonic()
    self._stopped = threading.Event()
    self._thread = threading.Thread(
      target=self._look, name="watchdog", daemon=True
    )
    self._thread.start()

  def follow(self, watch: stopwatch.Stopwatch, settings: Watchdog) -> None:
    """From now on, changes of parts are signs of life."""
    self._settings, self._followed = settings, watch

  def stop(self) -> None:
    """Nothing is watched any more."""
    self._stopped.set()

  def _look(self) -> None:
    last = time.monotonic()
    while not self._stopped.wait(_PERIOD):
      now, (part, _) = time.monotonic(), (current := self._current())
      # After Ctrl-Z, or where the machine slept, nothing could move.
      if current != self._seen or now - last > 10 * _PERIOD:
        self._seen, self._since = current, now
      last, limit = now, self._settings.limit(part)
      if now - self._since > limit:
        self._on_hang(
          f"nothing has moved for {limit / 60:.3g} minutes, in the part"
          f" {part!r}; if that is as it should be, set WATCHDOG_MINUTES or"
          " WATCHDOG_SLOW_MINUTES higher (None is no limit)"
        )
        return

  def _current(self) -> tuple[str, int]:
    watch = self._followed
    return (
      (stopwatch.START, 0) if watch is None else (watch.active, watch.changes)
    )


_armed: Watch | None = None


def arm() -> None:
  """Watches this process, from its start on, for the default limits."""
  global _armed  # as of signal handlers, there is one in a process
  disarm()
  _armed = Watch(Watchdog(), _end)


def follow(watch: stopwatch.Stopwatch, settings: Watchdog) -> None:
  """Gives a run's stopwatch and limits to the watchdog, if it is armed."""
  if _armed is not None:
    _armed.follow(watch, settings)


def disarm() -> None:
  """Watches no more."""
  global _armed
  if _armed is not None:
    _armed.stop()
    _armed = None


def _end(message: str) -> None:
  """Shows the stacks of all threads, and ends the process."""
  faulthandler.dump_traceback(file=sys.__stderr__ or 2, all_threads=True)
  os.write(2, f"\nt5x_lite: error: {message}\n".encode())
  os._exit(errors.Hung.exit_code)
