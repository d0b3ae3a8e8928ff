"""What Progress and Stopwatch promise, on a clock that the tests turn."""

import io
import logging

import numpy as np
import pytest

from t5x_lite import progress, stopwatch


class Clock:
  """A clock that stands still until told."""

  def __init__(self):
    self.now = 100.0

  def __call__(self):
    return self.now

  def sleep(self, seconds):
    self.now += seconds


class Terminal(io.StringIO):
  def isatty(self):
    return True


@pytest.fixture
def clock():
  return Clock()


@pytest.fixture
def watch(clock):
  return stopwatch.Stopwatch(clock)


def test_parts_sum_to_the_total_and_nest_without_overlap(clock, watch):
  clock.sleep(1)
  with watch.part(stopwatch.STEP):
    clock.sleep(2)
    assert watch.active == stopwatch.STEP
    with watch.part(stopwatch.COMPILE):
      clock.sleep(5)
    clock.sleep(3)
  with watch.part(stopwatch.DATA):
    clock.sleep(0.5)
    assert watch.seconds()[stopwatch.DATA] == 0.5  # under way
  assert watch.seconds() == {
    stopwatch.OTHER: 1,
    stopwatch.STEP: 5,
    stopwatch.COMPILE: 5,
    stopwatch.DATA: 0.5,
  }
  assert sum(watch.seconds().values()) == watch.total() == 11.5
  assert watch.training() == 6.5
  assert stopwatch.goodput(watch.seconds()) == 5 / 11.5


def test_a_part_ends_when_its_body_raises(clock, watch):
  with pytest.raises(RuntimeError), watch.part(stopwatch.EVALUATION):
    clock.sleep(1)
    raise RuntimeError
  clock.sleep(1)
  assert watch.active == stopwatch.OTHER
  assert watch.seconds() == {stopwatch.OTHER: 1, stopwatch.EVALUATION: 1}


@pytest.mark.parametrize(
  "seconds, text",
  [
    (0, "0.0 s"),
    (4.24, "4.2 s"),
    (59.99, "1:00"),
    (187, "3:07"),
    (3600 * 2 + 187, "2:03:07"),
    (86400 * 3 + 61, "3 d 0:01:01"),
  ],
)
def test_durations_are_written_for_people(seconds, text):
  assert stopwatch.duration(seconds) == text


def test_summary_lists_parts_by_size_and_drops_the_negligible(clock, watch):
  with watch.part(stopwatch.COMPILE):
    clock.sleep(24.9)
  with watch.part(stopwatch.STEP):
    clock.sleep(75)
  clock.sleep(0.1)
  assert stopwatch.summary(watch.seconds()) == (
    "1:40 in all: step 1:15 (75%), compile 24.9 s (25%)"
  )


def test_summary_of_no_time_at_all(watch):
  assert stopwatch.summary(watch.seconds()) == "0.0 s in all"
  assert stopwatch.goodput(watch.seconds()) == 0.0


def run(clock, watch, stream, **kwargs):
  """Ten steps with every kind of pause; returns what each update returned."""
  speeds = []
  with progress.Progress(
    10, stopwatch=watch, stream=stream, num_devices=2, **kwargs
  ) as shown:
    with shown.part(stopwatch.COMPILE):
      clock.sleep(30)
    for step in range(1, 11):
      with shown.part(stopwatch.DATA):
        clock.sleep(0.1)
      with shown.part(stopwatch.STEP):
        clock.sleep(0.4)
      shown.advance(step)
      if step % 5 == 0:
        metrics = {"loss": 10 / step, "learning_rate": 1e-3}
        speeds.append(shown.update(step, metrics, tokens=500))
        with shown.part(stopwatch.EVALUATION):
          clock.sleep(7)
        with shown.part(stopwatch.CHECKPOINT):
          clock.sleep(3)
  return speeds


def test_plain_lines_and_speeds_without_the_pauses(clock, watch):
  stream = io.StringIO()
  speeds = run(clock, watch, stream)
  expected = {
    "steps_per_second": 2.0,
    "seconds_per_step": 0.5,
    "tokens_per_second": 200.0,
    "tokens_per_second_per_device": 100.0,
  }
  assert [pytest.approx(s) for s in speeds] == [expected, expected]
  assert stream.getvalue().splitlines() == [
    "step 5/10  50%  loss 2  lr 0.001  200 tokens/s  MFU unknown  ETA 0:00:02",
    "step 10/10 100%  loss 1  lr 0.001  200 tokens/s  MFU unknown  ETA 0:00:00",
    "time: 55.0 s in all: compile 30.0 s (55%), evaluation 14.0 s (25%),"
    " checkpoint 6.0 s (11%), step 4.0 s (7%), data wait 1.0 s (2%);"
    " goodput 7% (speeds exclude start, restore, compile, evaluation,"
    " checkpoint)",
  ]


def test_eta_counts_evaluation_and_checkpoints_to_come(clock, watch):
  stream = io.StringIO()
  with progress.Progress(100, stopwatch=watch, stream=stream) as shown:
    clock.sleep(10)
    shown.update(10, {})
    with shown.part(stopwatch.EVALUATION):
      clock.sleep(5)
    clock.sleep(10)
    shown.update(20, {})
  etas = [line.rpartition("ETA ")[2] for line in stream.getvalue().split("\n")]
  assert etas[0] == "0:01:30"  # 90 steps of 1 s
  assert etas[1] == "0:01:40"  # 80 steps of 1 s + 5 s / 20 steps


def test_a_resumed_run_counts_from_its_first_step(clock, watch):
  stream = io.StringIO()
  with progress.Progress(
    1000, start_step=900, stopwatch=watch, stream=stream
  ) as shown:
    clock.sleep(10)
    speeds = shown.update(910, {}, tokens=10)
  assert speeds["steps_per_second"] == pytest.approx(1.0)
  assert stream.getvalue().splitlines()[0] == (
    "step 910/1000  91%  loss -  lr -  1 tokens/s  MFU unknown  ETA 0:01:30"
  )


def test_the_shown_speed_forgets_a_slow_start(clock, watch):
  stream = io.StringIO()
  with progress.Progress(1000, stopwatch=watch, stream=stream) as shown:
    clock.sleep(1000)
    shown.update(1, {}, tokens=100)
    for step in range(2, 40):
      clock.sleep(1)
      shown.update(step, {}, tokens=100)
  assert "  100 tokens/s" in stream.getvalue().splitlines()[-2]


def test_utilization_is_shown_and_returned(clock, watch):
  stream = io.StringIO()
  speeds = run(
    clock, watch, stream, utilization=lambda seconds: {"mfu": 0.2 / seconds}
  )
  assert speeds[-1]["mfu"] == pytest.approx(0.4)
  assert "MFU 40.0%" in stream.getvalue()


def test_utilization_may_come_late(clock, watch):
  with progress.Progress(9, stopwatch=watch, stream=io.StringIO()) as shown:
    clock.sleep(1)
    assert "mfu" not in shown.update(1, {})
    shown.set_utilization(lambda seconds: {"mfu": 0.5})
    clock.sleep(1)
    assert shown.update(2, {})["mfu"] == 0.5


def test_no_step_gives_no_speed_and_no_division_by_zero(clock, watch):
  with progress.Progress(0, stopwatch=watch, stream=io.StringIO()) as shown:
    assert shown.update(0, {}) == {}


def test_other_hosts_are_silent_but_know_the_speed(clock, watch):
  stream = io.StringIO()
  assert run(clock, watch, stream, enabled=False)[0]["steps_per_second"]
  assert stream.getvalue() == ""


def test_terminal_has_one_live_line(clock, watch, monkeypatch):
  monkeypatch.setenv("COLUMNS", "120")
  monkeypatch.setenv("TERM", "xterm")
  stream = Terminal()
  run(clock, watch, stream)
  text = stream.getvalue()
  final = text.split("\r")[-1]
  assert "\x1b[2K" in text  # redrawn in place
  assert "step 10/10 100%  ━━━━━━━━" in final
  assert "goodput" in final
  # The live line ends once, and the summary follows it.
  assert text.count("\n") == 2, text


def test_dumb_terminal_gets_plain_lines(clock, watch, monkeypatch):
  monkeypatch.setenv("TERM", "dumb")
  stream = Terminal()
  run(clock, watch, stream)
  assert "\x1b" not in stream.getvalue()
  assert len(stream.getvalue().splitlines()) == 3


@pytest.mark.parametrize("width", [40, 80, 100, 200])
def test_live_line_never_wraps(clock, watch, monkeypatch, width):
  monkeypatch.setenv("COLUMNS", str(width))
  monkeypatch.setenv("TERM", "xterm")
  stream = Terminal()
  with progress.Progress(10**9, stopwatch=watch, stream=stream) as shown:
    clock.sleep(1)
    shown.update(10**8, {"loss": 3.21, "learning_rate": 1e-5}, tokens=123_456)
    lines = stream.getvalue().split("\n")
    assert len(lines) == 1


def test_log_messages_go_above_the_line_and_the_handler_is_given_back(
  clock, watch, monkeypatch
):
  monkeypatch.setenv("COLUMNS", "100")
  monkeypatch.setenv("TERM", "xterm")
  stream = Terminal()
  monkeypatch.setattr("sys.stderr", stream)
  handler = logging.StreamHandler(stream)
  logging.getLogger().addHandler(handler)
  try:
    with progress.Progress(10, stopwatch=watch) as shown:
      logging.getLogger().warning("look out")
      shown.note("[just] text")
    assert handler.stream is stream
  finally:
    logging.getLogger().removeHandler(handler)
  lines = stream.getvalue().split("\n")
  assert any(line.endswith("look out") for line in lines)
  assert any(line.endswith("[just] text") for line in lines)


def test_large_numbers_are_short():
  counts = {0: "0", 999: "999", 45_230: "45.2k", 1_234_567: "1.23M"}
  assert {n: progress._count(n) for n in counts} == counts
  assert progress._count(float("nan")) == "-"


def test_tokens_are_counted_without_padding():
  batch = {
    "inputs": np.ones((2, 4), np.int32),
    "inputs_segment_ids": np.array([[1, 1, 2, 0], [1, 0, 0, 0]]),
    "targets_segment_ids": np.array([[1, 2], [1, 0]]),
  }
  assert progress.count_tokens(batch) == 4 + 3
