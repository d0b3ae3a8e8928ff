import subprocess
import sys
import time

import pytest

from t5x_lite import errors, stopwatch, watchdog


def until(ready, seconds=5):
  deadline = time.monotonic() + seconds
  while not ready() and time.monotonic() < deadline:
    time.sleep(0.005)
  return ready()


def test_limits_by_part():
  limit = watchdog.Watchdog(minutes=2, slow_minutes=10).limit
  assert limit(stopwatch.STEP) == limit(stopwatch.DATA) == 120
  slow = (stopwatch.START, stopwatch.COMPILE, stopwatch.EVALUATION)
  assert all(limit(part) == 600 for part in (*slow, stopwatch.CHECKPOINT))
  assert watchdog.Watchdog(minutes=60, slow_minutes=10).limit("start") == 3600
  assert watchdog.Watchdog(minutes=None).limit("start") == float("inf")
  with pytest.raises(errors.ConfigError, match="minutes is 0: use more than 0"):
    watchdog.Watchdog(minutes=0)


def test_barks_when_no_part_changes(monkeypatch):
  monkeypatch.setattr(watchdog, "_PERIOD", 0.02)
  said = []
  settings = watchdog.Watchdog(minutes=0.3 / 60, slow_minutes=5)
  watch = watchdog.Watch(watchdog.Watchdog(), said.append)
  parts = stopwatch.Stopwatch()
  watch.follow(parts, settings)
  for _ in range(20):  # as long as its limit, and more
    with parts.part(stopwatch.STEP):
      time.sleep(0.03)
  assert not said
  with parts.part(stopwatch.EVALUATION):
    time.sleep(0.5)
  assert not said
  with parts.part(stopwatch.DATA):
    assert until(lambda: said)
  assert "for 0.005 minutes, in the part 'data wait'" in said[0]
  assert "WATCHDOG_MINUTES" in said[0]


def test_ends_the_process_from_its_start():
  """As `main` arms it: before there is a stopwatch."""
  program = """
import threading, time
from t5x_lite import watchdog
watchdog._PERIOD = 0.05
watchdog.Watchdog.__init__.__defaults__ = (0.1 / 60, 0.2 / 60)
watchdog.arm()
def stuck_here():
  time.sleep(60)
stuck_here()
"""
  done = subprocess.run(
    [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
  )
  assert done.returncode == errors.Hung.exit_code == 7
  assert "in stuck_here" in done.stderr
  assert "in the part 'start'" in done.stderr


def test_disarmed(monkeypatch):
  watchdog.arm()
  watch = watchdog._armed
  watchdog.disarm()
  watch._thread.join(5)
  assert not watch._thread.is_alive()
