"""Step times, memory and shares of a run, on a clock that the tests turn."""

import pytest

from t5x_lite import device_memory, step_times, stopwatch, telemetry


class Clock:
  def __init__(self):
    self.now = 100.0

  def __call__(self):
    return self.now

  def sleep(self, seconds):
    self.now += seconds


class Device:
  """A device whose allocator tells `stats`."""

  def __init__(self, stats):
    self.stats = stats

  def memory_stats(self):
    return self.stats


FULL = {"bytes_in_use": 2**30, "peak_bytes_in_use": 3 * 2**30}


@pytest.fixture
def clock():
  return Clock()


@pytest.fixture
def watch(clock):
  return stopwatch.Stopwatch(clock)


def test_percentiles_are_times_of_steps():
  seconds = [float(i) for i in range(1, 101)]
  assert step_times.percentiles(seconds[::-1]) == {
    "p50": 50,
    "p90": 90,
    "p99": 99,
  }
  assert step_times.percentiles([3.0]) == {"p50": 3, "p90": 3, "p99": 3}
  assert step_times.percentiles([]) == {}


def test_step_times_are_told_once_and_kept():
  times = step_times.StepTimes(10.0)
  for now in (11.0, 12.0, 15.0):
    times.done(now)
  assert times.recent() == {"p50": 1, "p90": 3, "p99": 3}
  times.done(17.0)
  assert times.recent() == {"p50": 2, "p90": 2, "p99": 2}
  assert times.recent() == {}
  assert times.overall() == {"p50": 1, "p90": 3, "p99": 3}


def test_times_are_written_for_people():
  assert [step_times.written(s) for s in (0.0123, 0.9999, 1.2345, 123.4)] == [
    "12.3 ms",
    "1e+03 ms",
    "1.23 s",
    "123.40 s",
  ]


def test_memory_is_that_of_the_fullest_device():
  devices = [
    Device(FULL | {"bytes_limit": 16 * 2**30}),
    Device({k: 2 * v for k, v in FULL.items()} | {"bytes_limit": 15 * 2**30}),
  ]
  assert device_memory.measure(devices) == {
    "in_use_gib": 2,
    "peak_gib": 6,
    "limit_gib": 15,
  }


@pytest.mark.parametrize("stats", [None, {}])
def test_a_platform_that_tells_nothing_is_not_said_to_use_nothing(stats):
  assert device_memory.measure([Device(stats)]) == {}
  # Nor is one device taken for all.
  assert device_memory.measure([Device(stats), Device(FULL)]) == {}
  assert device_memory.measure([]) == {}
  assert set(device_memory.measure([Device(FULL)])) == {
    "in_use_gib",
    "peak_gib",
  }


def test_cpus_tell_nothing():
  assert device_memory.measure() == {}


def steps(clock, watch, told, waits):
  """A step of 2 s for each wait before it."""
  for wait in waits:
    with watch.part(stopwatch.DATA):
      clock.sleep(wait)
    with watch.part(stopwatch.STEP):
      clock.sleep(2)
    told.step_done()


def test_a_log_point_tells_of_the_steps_since_the_last(clock, watch):
  with watch.part(stopwatch.START):
    clock.sleep(4)
    with watch.part(stopwatch.RESTORE):
      clock.sleep(6)
  told = telemetry.Telemetry(watch)
  with watch.part(stopwatch.COMPILE):
    clock.sleep(10)
  steps(clock, watch, told, [1, 0, 2])
  found = told.log_point(3)
  assert found == {
    "speed/step_seconds_p50": 3,
    "speed/step_seconds_p90": 4,
    "speed/step_seconds_p99": 4,
    "speed/input_wait_seconds": 1,
    "time/goodput": pytest.approx(6 / 29),
    "time/input_wait_share": pytest.approx(3 / 29),
    "time/compile_share": pytest.approx(10 / 29),
    "time/start_share": pytest.approx(4 / 29),
    "time/restore_share": pytest.approx(6 / 29),
    "time/evaluation_share": 0,
    "time/checkpoint_share": 0,
    "time/other_share": 0,
  }
  with watch.part(stopwatch.EVALUATION):  # no part of any step's time
    clock.sleep(30)
  steps(clock, watch, told, [0.5])
  found = told.log_point(1)
  assert found["speed/step_seconds_p99"] == 2.5
  assert found["speed/input_wait_seconds"] == 0.5
  shares = [v for k, v in found.items() if k.startswith("time/")]
  assert sum(shares) == pytest.approx(1)
  assert stopwatch.goodput(watch.seconds()) == found["time/goodput"]


def test_facts_are_of_all_steps(clock, watch, monkeypatch):
  told = telemetry.Telemetry(watch)
  assert told.facts() == {}
  steps(clock, watch, told, [0] * 9 + [8])
  told.log_point(10)
  assert told.facts() == {"step time": "p50 2.00 s, p90 2.00 s, p99 10.00 s"}
  memory = {"peak_gib": 6.0, "limit_gib": 15.0}
  monkeypatch.setattr(device_memory, "measure", lambda: memory)
  assert told.facts()["device memory, peak"] == "6.00 of 15.00 GiB"
