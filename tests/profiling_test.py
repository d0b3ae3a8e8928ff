"""Which steps are traced, and what is refused."""

import jax
import jax.numpy as jnp
import pytest

from t5x_lite import errors, profiling


def loop(trace, steps, calls=None):
  for step in steps:
    trace(step)
    jnp.ones((4, 4)) @ jnp.ones((4, 4))
    if calls is not None:
      calls.append(step)


@pytest.fixture
def calls(monkeypatch):
  """Records starts, stops and steps instead of tracing."""
  made = []
  start = lambda directory: made.append("start")  # noqa: E731
  monkeypatch.setattr(jax.profiler, "start_trace", start)
  monkeypatch.setattr(jax.profiler, "stop_trace", lambda: made.append("stop"))
  return made


@pytest.mark.parametrize(
  "steps, run, expected",
  [
    ((3, 5), range(1, 7), [1, 2, "start", 3, 4, "stop", 5, 6]),
    ((1, 2), range(1, 3), ["start", 1, "stop", 2]),
    ((3, 5), range(1, 5), [1, 2, "start", 3, 4, "stop"]),  # at the end
    ((3, 6), range(4, 8), ["start", 4, 5, "stop", 6, 7]),  # resumed within
    ((3, 5), range(6, 8), [6, 7]),  # resumed beyond
    (None, range(1, 3), [1, 2]),
    ([2, 3], range(1, 4), [1, "start", 2, "stop", 3]),
  ],
)
def test_exactly_the_chosen_steps(tmp_path, calls, steps, run, expected):
  with profiling.tracing(profiling.Profile(steps), tmp_path) as trace:
    loop(trace, run, calls)
  assert calls == expected


def test_an_error_in_the_loop_ends_the_trace_and_comes_through(tmp_path, calls):
  profile = profiling.Profile((1, 9))
  with (
    pytest.raises(RuntimeError, match="of the loop"),
    profiling.tracing(profile, tmp_path) as trace,
  ):
    loop(trace, [1, 2], calls)
    raise RuntimeError("of the loop")
  assert calls == ["start", 1, 2, "stop"]


def test_a_trace_is_written_for_tensorboard(tmp_path):
  with profiling.tracing(profiling.Profile((2, 4)), tmp_path) as trace:
    loop(trace, range(1, 6))
  (written,) = (tmp_path / "profile").rglob("*.xplane.pb")
  data = jax.profiler.ProfileData.from_file(str(written))
  steps = [
    dict(event.stats)["step_num"]
    for plane in data.planes
    for line in plane.lines
    for event in line.events
    if event.name == "train"
  ]
  assert steps == [2, 3]


def test_without_a_profile_nothing_is_traced(tmp_path, calls):
  with profiling.tracing(None, tmp_path) as trace:
    loop(trace, range(1, 4), calls)
  assert calls == [1, 2, 3]


def test_failure_to_trace_warns_once_and_training_goes_on(tmp_path, caplog):
  (tmp_path / "profile").write_text("a file in the way")
  ran = []
  with profiling.tracing(profiling.Profile((1, 4)), tmp_path) as trace:
    loop(trace, range(1, 6), ran)
  assert ran == [1, 2, 3, 4, 5]
  warnings = [r for r in caplog.records if "no profile in" in r.getMessage()]
  assert len(warnings) == 1


@pytest.mark.parametrize(
  "steps, message",
  [
    ((0, 5), "steps count from 1"),
    ((-3, 5), "steps count from 1"),
    ((5, 5), "hold no step"),
    ((7, 5), "hold no step"),
    ((5,), "not a pair"),
    ((1, 2, 3), "not a pair"),
    (10, "not a pair"),
    ("ab", "whole numbers"),
    ((1.0, 5), "whole numbers"),
    ((True, 5), "whole numbers"),
  ],
)
def test_bad_ranges_are_refused(steps, message):
  with pytest.raises(errors.ConfigError, match=message):
    profiling.Profile(steps)


def test_steps_beyond_the_run_are_refused():
  profiling.Profile((10, 15)).check(14)
  profiling.Profile().check(0)
  with pytest.raises(errors.ConfigError, match=r"\(10, 15\) go beyond the 13"):
    profiling.Profile((10, 15)).check(13)
