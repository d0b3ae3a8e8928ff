"""Several processes train as one does, and go on with what others saved."""

import shutil
import signal

import numpy as np
import pytest

from tests.e2e import commands, resume_test
from tests.multiprocess import processes

pytestmark = pytest.mark.slow

# Collectives between processes may add in another order than within one.
_CLOSE = 1e-6


def _assert_close(ours, theirs):
  assert ours.keys() == theirs.keys()
  for step, row in theirs.items():
    assert ours[step].keys() == row.keys()
    for name, value in row.items():
      np.testing.assert_allclose(
        ours[step][name], value, rtol=_CLOSE, err_msg=f"{step} {name}"
      )


def _ids(workdir, count):
  folder = workdir.with_name(f"{workdir.name}-ids")
  return processes.ids(folder, count)


def _assert_same_arrays(ours, theirs):
  ours, theirs = (
    resume_test._arrays(workdir, processes.STEPS) for workdir in (ours, theirs)
  )
  assert ours.keys() == theirs.keys()
  for name, value in theirs.items():
    np.testing.assert_array_equal(ours[name], value, err_msg=name)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
  return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def one(runs, train):
  """One process on four devices."""
  train(1, runs / "one")
  return runs / "one"


@pytest.fixture(scope="module")
def four(runs, train):
  """Four processes with a device each."""
  train(4, runs / "four")
  return runs / "four"


@pytest.mark.parametrize("count", [2, 4])
def test_computes_what_one_process_computes(runs, train, one, count, request):
  if count == 4:
    workdir = request.getfixturevalue("four")
  else:
    workdir = runs / "two"
    train(count, workdir)
  _assert_close(commands.history(workdir), commands.history(one))
  assert len(commands.history(one)) == processes.STEPS + 1
  batches = _ids(one, 1)[: processes.STEPS]
  assert len(batches) == processes.STEPS
  assert _ids(workdir, count)[: processes.STEPS] == batches


@pytest.fixture(scope="module")
def preempted(runs, user, cache):
  """Four processes, of which number 2 got SIGTERM; and the step it saved."""
  workdir, ids = runs / "preempted", runs / "preempted-ids"
  ids.mkdir()
  command = commands.command("train", f"--workdir={workdir}", *processes.TRAIN)
  slow = {"IDS": str(ids), "SLOWLY": "0.7"}
  with processes.start(4, command, user, **cache, **slow) as group:
    log = workdir / "metrics.jsonl"
    group.until(lambda: log.exists() and len(log.read_text().splitlines()) > 2)
    group.children[2].send_signal(signal.SIGTERM)
    assert group.wait() == [75] * 4, group.everything()
  names = [path.name for path in (workdir / "checkpoints").iterdir()]
  step = max(int(name) for name in names if name.isdigit())
  for index in range(4):
    assert f"stopped by SIGTERM after saving step {step}" in group.said(index)
  return workdir, step


@pytest.mark.parametrize("count", [4, 2, 1])
def test_others_go_on(runs, train, preempted, four, one, count):
  """With what four processes saved; to the bit if they are four, too."""
  saved, step = preempted
  assert 2 <= step < processes.STEPS
  workdir = runs / f"resumed-{count}"
  shutil.copytree(saved, workdir)
  train(count, workdir)
  _assert_close(commands.history(workdir), commands.history(one))
  rest = _ids(one, 1)[step : processes.STEPS]
  assert _ids(workdir, count)[: len(rest)] == rest
  if count == 4:  # and so runs are the same to the bit, one by one
    assert commands.history(workdir) == commands.history(four)
    _assert_same_arrays(workdir, four)
