"""Processes meet, compute together, and notice who is lost."""

import re
import signal
import sys

import pytest

from tests.e2e import commands
from tests.multiprocess import processes

CHILD = (sys.executable, "-m", "tests.multiprocess.child")
DATA_ERROR = 3


def _sum() -> list[float]:
  return [sum(float(i) ** 2 for i in range(c, 36, 3)) for c in range(3)]


def test_one_of_two_is_killed(tmp_path):
  """They compute together; the other then ends, and names the one."""
  with processes.start(2, (*CHILD, "kill"), tmp_path, devices=2) as group:
    assert group.wait() == [6, -signal.SIGKILL], group.everything()
  said = [
    re.search(r"rows (\[.*?\]) sum (\[.*?\]) first (\d+)", group.said(i))
    for i in range(2)
  ]
  assert [eval(found[1]) for found in said] == [
    [0, 1, 2, 3, 4, 5],
    [6, 7, 8, 9, 10, 11],
  ]
  assert [eval(found[2]) for found in said] == [_sum(), _sum()]
  assert said[0][3] == said[1][3] == str(group.children[0].pid)
  killed = group.children[1].pid
  assert re.search(
    rf"error: process 0: process 1 on \S+ \(pid {killed}\) is gone",
    group.said(0),
  )
  assert "Traceback" not in group.said(0)


@pytest.mark.slow
def test_the_first_of_three_is_killed(tmp_path):
  command = (*CHILD, "kill first")
  with processes.start(3, command, tmp_path, devices=3) as group:
    assert group.wait() == [-signal.SIGKILL, 6, 6], group.everything()
  for index in (1, 2):
    assert re.search("process 0 on .* is gone", group.said(index))


@pytest.mark.slow
def test_one_of_three_fails(tmp_path):
  command = (*CHILD, "fail")
  with processes.start(3, command, tmp_path, devices=3) as group:
    assert group.wait() == [6, DATA_ERROR, 6], group.everything()
  for index in (0, 2):
    assert re.search(
      "process 1 on .* ended with exit code 3: .*the data of process 1 are bad",
      group.said(index),
    )


@pytest.mark.slow
def test_one_of_three_comes_late(tmp_path):
  command = (*CHILD, "late")
  with processes.start(3, command, tmp_path, devices=3) as group:
    assert group.wait() == [6, 6, 6], group.everything()
  text = "waited 3 s for process 1 at 'the late one'"
  assert any(text in group.said(index) for index in (0, 2))


@pytest.mark.slow
def test_one_of_two_never_comes(tmp_path):
  """Process 0 waits for process 1, and process 1 of another run for it."""
  for index in (0, 1):
    port, place = processes.free_port(), processes.place
    command = (*CHILD, "sum", *place(2, index, port))
    with processes.start(1, command, tmp_path, WAIT="4") as group:
      assert group.wait() == [6], group.everything()
    expected = (
      "1 of 2 processes did not come to localhost:",
      "process 1 of 2 finds no process 0 at localhost:",
    )
    assert expected[index] in group.said(0)


@pytest.mark.slow
def test_launch(tmp_path):
  """Lines have the number of their process; errors come once, and early."""
  train = ("train", "--workdir=x", "--gin_file=no.gin")
  launched = ("launch", "--processes=2", "--")
  done = commands.run(*launched, *train, cwd=tmp_path, code=2)
  lines = done.stdout.splitlines()
  assert {line[:4] for line in lines} == {"[0] ", "[1] "}
  assert any("no.gin" in line for line in lines)
