"""Runs that are killed while they save."""

import contextlib
import multiprocessing
import random
import signal
import time

import pytest

from t5x_lite import checkpoints, errors
from t5x_lite.checkpoints import manifest, steps
from tests.checkpoints import crash_child, toy


@pytest.fixture(scope="module")
def processes():
  """Processes forked from one that has the libraries loaded."""
  context = multiprocessing.get_context("forkserver")
  context.set_forkserver_preload(["tests.checkpoints.crash_child"])
  return context


@contextlib.contextmanager
def training(processes, workdir):
  """A process that trains, killed at the end of the `with`."""
  child = processes.Process(target=crash_child.main, args=(workdir,))
  child.start()
  try:
    yield child
  finally:
    child.kill()
    child.join()
  assert child.exitcode == -signal.SIGKILL


def wait_for_step_after(last, workdir, child):
  while True:
    newest = max(steps.steps(workdir / "checkpoints"), default=0)
    if newest > last:
      return newest
    assert child.is_alive()
    time.sleep(0.005)


def recorded(workdir):
  """Digest by step; a step trained again must have the same one."""
  digests = {}
  for line in (workdir / "digests.txt").read_text().splitlines():
    step, _, digest = line.partition(" ")
    if len(digest) == 64:  # The last line may be cut.
      assert digests.setdefault(int(step), digest) == digest
  return digests


def check(workdir):
  """The newest step is as it was in memory; nothing else is left."""
  directory = workdir / "checkpoints"
  before = steps.steps(directory)
  assert before, "killed before the first save was complete"
  for step in before:
    assert not manifest.problems(directory / str(step))
  iterator = toy.Counter()
  with checkpoints.Checkpointer().open(workdir) as session:
    state = session.restore(toy.abstract(crash_child.fresh()), iterator)
  digests = recorded(workdir)
  assert int(state.step) == iterator.next == before[-1]
  assert crash_child.digest(state) == digests[before[-1]]
  # Of the steps begun, the last may be lost, and one that was being written.
  assert max(digests) - before[-1] <= 2
  left = {path.name for path in directory.iterdir()}
  assert left == set(map(str, before))
  return before[-1]


def trial(processes, workdir, generator, kills):
  last = 0
  for _ in range(kills):
    with training(processes, workdir) as child:
      newest = wait_for_step_after(last, workdir, child)
      with pytest.raises(errors.CheckpointError, match=f"process {child.pid}"):
        checkpoints.Checkpointer().open(workdir)
      time.sleep(generator.uniform(0, 0.3))
    last = check(workdir)
    assert last >= newest


def test_sigkill_while_saving(processes, tmp_path):
  trial(processes, tmp_path, random.Random(0), kills=5)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 11))
def test_sigkill_while_saving_often(processes, tmp_path, seed):
  trial(processes, tmp_path, random.Random(seed), kills=10)
