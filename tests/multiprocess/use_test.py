"""Two processes evaluate and predict as one does; one is killed in training."""

import json
import re
import signal
import time

import pytest

from tests.e2e import commands
from tests.multiprocess import processes

pytestmark = pytest.mark.slow

_RECORD = "--gin_file=run/config.gin"


def _rows(path):
  return [json.loads(line) for line in path.open()]


def test_eval(folder):
  """The loss of finite data in one shard, and metrics of what is decoded."""
  found = {}
  for count in (1, 2):
    processes.run(
      count,
      "eval",
      f"--workdir=by-{count}",
      "--gin_file=runs/evaluate.gin",
      _RECORD,
      cwd=folder,
    )
    workdir = folder / f"by-{count}"
    (path,) = (workdir / "eval").iterdir()
    (predictions,) = (workdir / "predictions").iterdir()
    metrics = json.loads(path.read_text())["metrics"]
    found[count] = metrics, _rows(predictions)
  assert found[1][0]["validation/loss"] > 1
  assert found[2][0] == pytest.approx(found[1][0], rel=1e-6)
  assert found[2][1] == found[1][1]


def test_infer(folder):
  """Two by `t5x_lite launch`, which says whose lines are whose."""
  flags = (
    "--gin_file=runs/infer.gin",
    _RECORD,
    "--gin.INPUTS=questions.jsonl",
    "--gin.CHUNK_SIZE=8",
  )
  processes.run(1, "infer", "--workdir=by-1", *flags, cwd=folder)
  launched = ("launch", "--processes=2", f"--devices={processes.DEVICES}")
  command = (*launched, "--", "infer", "--workdir=by-2", *flags)
  done = commands.run(*command, cwd=folder, XLA_FLAGS=processes.FLAGS)
  said = done.stdout.splitlines()
  assert any(line.startswith("[0] ") for line in said)
  assert all(line[:4] in ("[0] ", "[1] ") for line in said)
  one, two = (
    _rows(folder / f"by-{count}" / "infer" / "questions-2.jsonl")
    for count in (1, 2)
  )
  assert [row["id"] for row in two] == list(range(13))
  assert [row.pop("score") for row in two] == pytest.approx(
    [row.pop("score") for row in one], abs=2e-6
  )
  assert two == one


@pytest.mark.parametrize("killed", [0, 1])
def test_one_of_two_is_killed_while_they_train(tmp_path, user, cache, killed):
  command = commands.command(
    "train", f"--workdir={tmp_path}/run", *processes.TRAIN,
    "--gin.TRAIN_STEPS=100000", "--gin.EVALUATE_FIRST=False",
  )  # fmt: skip
  with processes.start(2, command, user, **cache) as group:
    log = tmp_path / "run" / "metrics.jsonl"
    group.until(lambda: log.exists() and len(log.read_text().splitlines()) > 7)
    group.children[killed].send_signal(signal.SIGKILL)
    started = time.monotonic()
    codes = group.wait(60)  # what was promised
    print(f"ended after {time.monotonic() - started:.1f} s")
  other = 1 - killed
  assert codes[killed] == -signal.SIGKILL
  assert codes[other] == 6, group.everything()
  pid = group.children[killed].pid
  assert re.search(
    rf"error: process {other}: process {killed} on \S+ \(pid {pid}\) is gone",
    group.said(other),
  )
