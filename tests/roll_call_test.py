"""The roll call, by threads of one process over real sockets."""

import resource
import socket
import subprocess
import sys
import threading
import time

import pytest

from t5x_lite import errors, roll_call, wires
from tests.multiprocess import processes

pytestmark = pytest.mark.filterwarnings(
  "error::pytest.PytestUnhandledThreadExceptionWarning"
)


class Met:
  """Roll calls that have met, and what they were told of losses."""

  def __init__(self, count, facts=None, counts=None, indices=None, seconds=5):
    address = f"localhost:{processes.free_port()}"
    self.lost, self.errors = [None] * count, [None] * count
    self.calls = [
      roll_call.RollCall(
        address,
        (counts or {}).get(i, count),
        (indices or {}).get(i, i),
        lambda reason, i=i: self.lost.__setitem__(i, reason),
      )
      for i in range(count)
    ]

    def meet(i):
      try:
        self.calls[i].meet(seconds, (facts or {}).get(i, "jax 1"))
      except errors.UserError as error:
        self.errors[i] = error

    threads = [threading.Thread(target=meet, args=(i,)) for i in range(count)]
    for thread in threads:
      thread.start()
    for thread in threads:
      thread.join()

  def die(self, index):
    self.calls[index]._left.set()
    for line in self.calls[index]._lines.values():
      line._socket.shutdown(2)
      line.close()

  def until(self, ready):
    deadline = time.monotonic() + 10
    while not ready():
      assert time.monotonic() < deadline, (self.lost, self.errors)
      time.sleep(0.01)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
  monkeypatch.setattr(roll_call, "_PERIOD", 0.05)
  monkeypatch.setattr(roll_call, "GRACE", 0.5)


def test_all_are_known_to_all():
  met = Met(3)
  assert met.errors == [None] * 3
  assert all(sorted(call.members) == [0, 1, 2] for call in met.calls)
  for index in (1, 2, 0):
    met.calls[index].leave(0)
  assert met.lost == [None] * 3


def test_leaving_at_once():
  for _ in range(20):
    met = Met(3)
    for index in (1, 2, 0):
      met.calls[index].leave(0)
    assert met.lost == met.errors == [None] * 3


MANY = """
import resource
from tests import roll_call_test

resource.setrlimit(resource.RLIMIT_NOFILE, (200, 4096))
met = roll_call_test.Met(300, seconds=60)
print(len(met.calls[299].members), *(e for e in met.errors if e is not None))
"""


def test_process_0_may_open_as_many_files_as_it_needs():
  done = subprocess.run(
    [sys.executable, "-c", MANY], capture_output=True, text=True, timeout=240
  )
  assert done.stdout == "300\n", done.stdout + done.stderr


def test_a_host_with_too_few_files(monkeypatch):
  monkeypatch.setattr(resource, "getrlimit", lambda what: (256, 1024))
  with pytest.raises(errors.ConfigError, match="wants 1,622: raise the limit"):
    wires.allow(299)


@pytest.mark.parametrize("gone", [0, 1, 2])
def test_one_dies(gone):
  met = Met(3)
  met.die(gone)
  others = [i for i in range(3) if i != gone]
  met.until(lambda: all(met.lost[i] for i in others))
  for i in others:
    assert met.lost[i].startswith(f"process {gone} on ")
    assert "is gone: it died, or its host is cut off" in met.lost[i]


def test_the_kernel_looks_whether_hosts_are_there():
  met = Met(2)
  for call in met.calls:
    for line in call._lines.values():
      option = line._socket.getsockopt
      assert option(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
      idle, interval, count = (
        option(socket.IPPROTO_TCP, getattr(socket, f"TCP_KEEP{name}"))
        for name in ("IDLE", "INTVL", "CNT")
      )
      assert idle + interval * count == 30
    call.leave(0)


def test_one_fails_and_says_why():
  met = Met(3)
  met.calls[2].tell(3, "bad data")
  met.until(lambda: met.calls[0].trouble and met.calls[1].trouble)
  assert met.lost[1] is None  # it may end by itself
  met.until(lambda: met.lost[0] and met.lost[1])
  assert met.lost[1].endswith("ended with exit code 3: bad data")


def test_preempted_processes_are_not_lost():
  met = Met(2)
  met.calls[1].leave(75, "stopped")
  time.sleep(0.8)
  assert met.lost == [None, None]


def test_one_does_not_come():
  met = Met(3, indices={2: 1}, seconds=1)
  assert "two processes say that they are number 1" in str(met.errors[0])
  met = Met(2, counts={0: 3, 1: 3}, seconds=1)
  for error in met.errors:
    assert isinstance(error, errors.ProcessLost)
    assert "1 of 3 processes did not come" in str(error)
    assert "within 1 s: 2." in str(error)


def test_process_0_does_not_come():
  met = Met(1, counts={0: 2}, indices={0: 1}, seconds=0.5)
  assert "process 1 of 2 finds no process 0 at localhost:" in str(met.errors[0])


def test_they_do_not_fit():
  met = Met(2, facts={1: "jax 2"})
  assert "has jax 2, process 0 has jax 1" in str(met.errors[0])
  assert str(met.errors[1]) == str(met.errors[0])
  met = Met(2, counts={1: 4})
  assert "one of 4 processes, process 0 as one of 2" in str(met.errors[1])


def test_strangers_are_ignored(monkeypatch):
  address = f"localhost:{processes.free_port()}"
  call = roll_call.RollCall(address, 2, 0, lambda reason: None)
  thread = threading.Thread(target=call.meet, args=(10, "x"))
  thread.start()
  host, port = address.split(":")
  deadline = time.monotonic() + 5
  while True:
    try:
      stranger = socket.create_connection((host, int(port)))
      break
    except OSError:
      assert time.monotonic() < deadline
  stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
  other = roll_call.RollCall(address, 2, 1, lambda reason: None)
  other.meet(10, "x")
  thread.join()
  assert sorted(call.members) == [0, 1]
  other.leave(0)
  call.leave(0)
