"""A host whose cable is pulled: two network namespaces of Linux."""

import os
import subprocess
import sys
import time

import pytest

from tests.multiprocess import processes

pytestmark = pytest.mark.slow

MEMBER = """
import sys, threading
from t5x_lite import roll_call

def lost(reason):
  print(reason, flush=True)
  over.set()

over = threading.Event()
address, index = sys.argv[1], int(sys.argv[2])
call = roll_call.RollCall(address, 3, index, lost)
call.meet(60, "the same")
print("met", flush=True)
over.wait(120)
"""


def ip(*arguments, check=True):
  return subprocess.run(
    ["ip", *arguments], check=check, capture_output=True, text=True
  )


@pytest.fixture
def other_host():
  """Names of a namespace and of our end of the cable to it."""
  own = f"t5{os.getpid()}"
  try:
    made = ip("netns", "add", own, check=False)
  except FileNotFoundError:
    pytest.skip("there is no `ip` here")
  if made.returncode:
    pytest.skip(f"no network namespace can be made: {made.stderr.strip()}")
  cable = (f"{own}a", f"{own}b")
  try:
    ip("link", "add", cable[0], "type", "veth", "peer", "name", cable[1])
    ip("link", "set", cable[1], "netns", own)
    ip("addr", "add", "10.77.0.1/24", "dev", cable[0])
    ip("link", "set", cable[0], "up")
    ip("-n", own, "addr", "add", "10.77.0.2/24", "dev", cable[1])
    ip("-n", own, "link", "set", cable[1], "up")
    yield own, cable[0]
  except subprocess.CalledProcessError as error:
    pytest.skip(f"no network can be made: {error.stderr.strip()}")
  finally:
    ip("netns", "delete", own, check=False)
    ip("link", "delete", cable[0], check=False)


def test_a_host_that_is_cut_off_is_named(tmp_path, other_host):
  namespace, cable = other_host
  address = f"10.77.0.1:{processes.free_port()}"
  logs = [tmp_path / f"{index}.txt" for index in range(3)]
  group = processes.Group([], logs)
  for index, log in enumerate(logs):
    inside = ["ip", "netns", "exec", namespace] if index == 1 else []
    member = [sys.executable, "-c", MEMBER, address, str(index)]
    command = [*inside, *member]
    env = processes.environment(1)
    group.children.append(processes.spawn(command, log, cwd=None, env=env))
  with group:
    group.until(lambda: all("met" in log.read_text() for log in logs), 60)
    ip("link", "set", cable, "down")
    began = time.monotonic()
    assert group.wait(60) == [0, 0, 0]
    assert 5 < time.monotonic() - began < 40  # 30 is what docs say
  for index, gone in enumerate((1, 0, 1)):
    said = f"process {gone} on "
    assert said in group.said(index), group.everything()
    assert "its host is cut off" in group.said(index)
