"""The history has every step exactly once, whatever happens to the process."""

import errno
import json
import os
import random
import subprocess
import sys
import textwrap

import pytest

from t5x_lite import errors, history, summaries


def write(path, steps, resume_step=None):
  log = history.History(path, resume_step)
  for step in steps:
    log.add(step, {"train/loss": 1 / step})
  log.close()


def expected(steps):
  return [{"step": step, "train/loss": 1 / step} for step in steps]


@pytest.fixture
def path(tmp_path):
  return tmp_path / "metrics.jsonl"


def test_a_line_is_a_json_object(path):
  write(path, [1, 2])
  assert path.read_text() == (
    '{"step": 1, "train/loss": 1.0}\n{"step": 2, "train/loss": 0.5}\n'
  )


@pytest.mark.parametrize("resume", [0, 1, 3, 5])
def test_resuming_removes_what_comes_again(path, resume):
  write(path, range(1, 6))
  write(path, range(resume + 1, 9), resume_step=resume)
  assert history.read(path) == expected(range(1, 9))


def test_none_keeps_everything(path):
  write(path, range(1, 6))
  write(path, [6])
  assert history.read(path) == expected(range(1, 7))


def test_any_crash_at_any_byte_loses_only_the_last_row(path):
  write(path, range(1, 6))
  data = path.read_bytes()
  for size in range(len(data)):
    path.write_bytes(data[:size])
    whole = data[:size].count(b"\n")
    assert history.read(path) == expected(range(1, whole + 1))
    write(path, range(whole + 1, 6), resume_step=whole)
    assert path.read_bytes() == data


def test_zeros_left_by_a_power_failure_are_dropped(path):
  write(path, [1, 2])
  for end in (b"\0" * 50, b"\0" * 50 + b"\n"):
    path.write_bytes(path.read_bytes() + end)
    write(path, [3], resume_step=2)
    assert history.read(path) == expected([1, 2, 3])


def test_a_damaged_line_is_named(path):
  write(path, [1, 2, 3])
  path.write_text(path.read_text().replace('{"step": 2', '{"stop": 2'))
  with pytest.raises(errors.DataError, match=r"metrics.jsonl, line 2 .*stop"):
    history.History(path, resume_step=3)


def test_numbers_of_one_step_share_a_line(path):
  log = history.History(path)
  log.add(1, {"train/loss": 3.0})
  log.add(2, {"train/loss": 2.0})
  log.add(2, {"eval/loss": 2.5})
  log.add(2, {"eval/loss": 9})  # shorter than what it replaces
  log.add(1, {"eval/loss": 3.5})  # late
  log.add(4, {"train/loss": 1.0})
  log.add(3, {"train/loss": 1.5})
  log.add(4, {"eval/loss": 1.25})
  log.close()
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  assert rows == [
    {"step": 1, "train/loss": 3.0, "eval/loss": 3.5},
    {"step": 2, "train/loss": 2.0, "eval/loss": 9.0},
    {"step": 3, "train/loss": 1.5},
    {"step": 4, "train/loss": 1.0, "eval/loss": 1.25},
  ]


def test_evaluating_again_at_the_restored_step_replaces(path):
  log = history.History(path)
  log.add(5, {"train/loss": 3.0, "eval/loss": 2.0})
  log.close()
  log = history.History(path, resume_step=5)
  log.add(5, {"eval/loss": 1.0})
  log.close()
  assert history.read(path) == [{"step": 5, "train/loss": 3.0, "eval/loss": 1}]


def test_numbers_that_are_not_finite_are_null(path):
  log = history.History(path)
  log.add(1, {"nan": float("nan"), "inf": float("inf"), "one": 1})
  log.close()
  assert path.read_text() == (
    '{"step": 1, "nan": null, "inf": null, "one": 1.0}\n'
  )


def test_rows_are_in_the_file_as_soon_as_added(path):
  log = history.History(path)
  for step in range(1, 4):
    log.add(step, {"train/loss": 1 / step})
    assert history.read(path) == expected(range(1, step + 1))


@pytest.mark.parametrize("seed", range(20))
def test_a_disk_that_fills_up_now_and_then_loses_nothing(
  path, monkeypatch, caplog, seed
):
  """Against a model of the file: a dict of rows."""
  rng = random.Random(seed)
  pwrite = os.pwrite
  space = True

  def limited(file, data, offset):
    if space or offset + len(data) <= path.stat().st_size:
      return pwrite(file, data, offset)
    if rng.random() < 0.5:
      raise OSError(errno.ENOSPC, "No space left on device")
    return pwrite(file, data[: rng.randrange(len(data))], offset)

  monkeypatch.setattr(os, "pwrite", limited)
  log = history.History(path)
  rows = {}
  for i in range(60):
    space = rng.random() < 0.5
    step = max(1, i // 2 - rng.choice([0, 0, 0, 1]))
    values = {rng.choice("abc"): rng.random() * 10 ** rng.randrange(9)}
    rows.setdefault(step, {"step": step}).update(values)
    log.add(step, values)
    assert {row["step"] for row in history.read(path)} <= set(rows)
    if space:
      assert history.read(path) == [rows[step] for step in sorted(rows)]
  space = True
  log.close()
  assert history.read(path) == [rows[step] for step in sorted(rows)]
  warnings = [r for r in caplog.records if "No space left" in r.getMessage()]
  assert len(warnings) == 1  # once, however often it happened


def test_rows_lost_at_the_end_are_told(path, monkeypatch, caplog):
  log = history.History(path)
  log.add(1, {"a": 1})
  before = path.read_bytes()
  monkeypatch.setattr(os, "pwrite", _full)
  log.add(2, {"a": 2})
  log.add(3, {"a": 3})
  log.close()
  assert path.read_bytes() == before
  assert "2 rows could not be written and are lost" in caplog.text


def _full(file, data, offset):
  if data:
    raise OSError(errno.ENOSPC, "No space left on device")
  return 0


def test_a_killed_process_leaves_whole_lines(tmp_path):
  """SIGKILL at arbitrary moments, in the midst of rewriting a row."""
  script = textwrap.dedent("""
    import sys
    from t5x_lite import history
    log = history.History(sys.argv[1], resume_step=0)
    print("go", flush=True)
    for step in range(1, 10**9):
      for name in "abcdefgh":
        log.add(step, {name: step})
  """)
  path = tmp_path / "metrics.jsonl"
  for wait in (0.01, 0.03, 0.05):
    process = subprocess.Popen(
      [sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE
    )
    process.stdout.readline()
    try:
      process.wait(wait)
    except subprocess.TimeoutExpired:
      process.kill()
    process.wait()
    process.stdout.close()
    lines = path.read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) > 1


def events(workdir):
  """What TensorBoard shows: {tag: [(step, value)]} and the texts."""
  from tensorboard.backend.event_processing import event_accumulator
  from tensorboard.util import tensor_util

  log = event_accumulator.EventAccumulator(
    str(workdir / summaries.DIRECTORY), size_guidance={"tensors": 0}
  )
  log.Reload()
  found = {}
  for tag in log.Tags()["tensors"]:
    for event in log.Tensors(tag):
      value = tensor_util.make_ndarray(event.tensor_proto)
      found.setdefault(tag, []).append((event.step, value.ravel()[0]))
  return found


def test_tensorboard_has_each_step_once_after_a_crash(tmp_path):
  first = summaries.Summaries(tmp_path, resume_step=0)
  first.text("config", "DIM = 4\n# note")
  for step in range(1, 8):
    first.scalars(step, {"train/loss": float(step)})
  first.flush()  # and then it crashes, with a torn record
  (old,) = (tmp_path / summaries.DIRECTORY).iterdir()
  first.close()
  old.write_bytes(old.read_bytes()[:-3])
  with summaries.Summaries(tmp_path, resume_step=4) as second:
    for step in range(5, 10):
      second.scalars(step, {"train/loss": 10.0 * step})
  shown = events(tmp_path)
  once = [(s, float(s) if s <= 4 else 10.0 * s) for s in range(1, 10)]
  assert shown["train/loss"] == once
  assert shown["config"] == [(0, b"    DIM = 4\n    # note")]
  rows = history.read(tmp_path / history.FILENAME)
  assert [(row["step"], row["train/loss"]) for row in rows] == once


def test_a_broken_tensorboard_warns_once_and_training_goes_on(tmp_path, caplog):
  (tmp_path / summaries.DIRECTORY).write_text("a file in the way")
  with summaries.Summaries(tmp_path, resume_step=0) as log:
    for step in range(1, 4):
      log.scalars(step, {"train/loss": 1 / step})
      log.flush()
  warnings = [r for r in caplog.records if "TensorBoard" in r.getMessage()]
  assert len(warnings) == 1
  assert history.read(tmp_path / history.FILENAME) == expected([1, 2, 3])


def test_other_hosts_write_nothing(tmp_path):
  with summaries.Summaries(tmp_path / "run", enabled=False) as log:
    log.scalars(1, {"a": 1})
    log.text("config", "x")
    log.flush()
  assert not list(tmp_path.iterdir())


def test_tensorflow_is_loaded_only_to_write_for_tensorboard(tmp_path):
  script = textwrap.dedent("""
    import sys
    from t5x_lite import summaries
    with summaries.Summaries(sys.argv[1], tensorboard=False) as log:
      log.scalars(1, {"a": 1})
      log.text("config", "x")
    sys.exit("tensorflow" in sys.modules)
  """)
  command = [sys.executable, "-c", script, str(tmp_path)]
  assert subprocess.run(command, check=False).returncode == 0
