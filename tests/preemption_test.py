import os
import pathlib
import signal
import subprocess
import sys
import threading

import pytest

from t5x_lite import checkpoints, preemption
from t5x_lite.checkpoints import steps
from tests.checkpoints import toy

ROOT = pathlib.Path(__file__).parents[1]


def start(workdir, last, mode="plain"):
  arguments = [str(workdir), str(last), mode]
  return subprocess.Popen(
    [sys.executable, "-m", "tests.preemption_child", *arguments],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def test_tells_whether_the_signal_came(capfd):
  before = signal.getsignal(signal.SIGTERM)
  with preemption.watch() as preempted:
    assert not preempted(1)
    os.kill(os.getpid(), signal.SIGTERM)
    assert preempted(1)
    os.kill(os.getpid(), signal.SIGTERM)
    assert preempted(2)
  assert signal.getsignal(signal.SIGTERM) is before
  assert capfd.readouterr().err.count("SIGTERM: saving") == 1


def test_puts_the_previous_handler_back_after_an_error():
  calls = []
  before = signal.signal(signal.SIGTERM, lambda *_: calls.append(1))
  try:
    with pytest.raises(ZeroDivisionError), preemption.watch():
      raise ZeroDivisionError
    os.kill(os.getpid(), signal.SIGTERM)
    assert calls == [1]
  finally:
    signal.signal(signal.SIGTERM, before)


def test_refuses_other_threads():
  caught = []

  def work():
    try:
      with preemption.watch():
        pass
    except RuntimeError as error:
      caught.append(str(error))

  thread = threading.Thread(target=work)
  thread.start()
  thread.join()
  assert caught == ["preemption.watch() works in the main thread only"]


def test_saves_leaves_and_resumes_exactly(tmp_path):
  """Two SIGTERMs: at a step, and while the checkpoint is being written."""
  child = start(tmp_path, 10**9, "slow")
  assert child.stdout.readline() == "training\n"
  child.terminate()
  assert child.stdout.readline() == "sealing\n"
  child.terminate()
  _, message = child.communicate(timeout=60)
  assert child.returncode == 75, message
  (step,) = steps.steps(tmp_path / "checkpoints")
  assert message.splitlines() == [
    "SIGTERM: saving after this step, then leaving (exit code 75)",
    preemption.MESSAGE.format(step=step),
  ]
  again = start(tmp_path, step + 3)
  _, message = again.communicate(timeout=60)
  assert again.returncode == 0, message
  iterator = toy.Counter()
  with checkpoints.Checkpointer().open(tmp_path) as session:
    state = session.restore(toy.abstract(toy.at(0)), iterator)
  toy.assert_same(state, toy.at(step + 3))
  assert iterator.next == step + 3
