"""Who is there: the processes of a run meet, and notice who is gone.

JAX's own services abort the whole process when a peer is late or lost, and do
not say which.  So before they start, the processes meet at the coordinator's
address: process 0 listens there until all have come, tells everyone who they
are, and lets go of the port, which JAX's service then takes.  The connections
stay.  The kernel closes those of a process that dies, and soon of a host that
is cut off; then process 0 tells all others whom they lost.

Messages are JSON, one a line.  A process sends "hello", and "bye" with its exit
code; process 0 answers with "members" or "refused", then "bye", "failed" of
another's bye, and "lost".
"""

import os
import selectors
import socket
import threading
import time
from collections.abc import Callable, Mapping

from t5x_lite import errors, wires

_PERIOD = 0.5  # seconds between two looks at the clock
# Seconds in which others may end by themselves when one has failed: mostly
# all have the same reason, and their own message tells more.
GRACE = 15.0
_SHOWN = 8  # missing processes that are named


def named(index: int, members: Mapping[int, str]) -> str:
  """How messages call a process."""
  host = members.get(index)
  return f"process {index}" + (f" on {host}" if host else "")


def listed(indices: list[int]) -> str:
  """Numbers of processes, the first few."""
  shown = ", ".join(map(str, indices[:_SHOWN]))
  more = len(indices) - _SHOWN
  return shown + (f" and {more} more" if more > 0 else "")


class RollCall:
  """One process's part in it, from meeting to leaving.

  Args:
    address: HOST:PORT of process 0.
    count: number of processes.
    index: of this one.
    on_lost: called once, in a thread, with a text that names the lost process;
      it is expected to end this process.

  Attributes:
    members: host and process id by number, once all have met.
  """

  def __init__(
    self,
    address: str,
    count: int,
    index: int,
    on_lost: Callable[[str], None],
  ):
    self.address, self.count, self.index = address, count, index
    self.members: dict[int, str] = {}
    self._on_lost, self._lines = on_lost, dict[int, wires.Line]()
    self._failed: list[tuple[float, str]] = []  # when it counts, and what
    self._left = threading.Event()

  @property
  def trouble(self) -> str:
    """Which process has failed, if one has said so."""
    return self._failed[0][1] if self._failed else ""

  def meet(self, seconds: float, facts: str) -> None:
    """Waits until all are there, then watches over them.

    Args:
      seconds: to wait.
      facts: what must be the same in all processes, such as versions.

    Raises:
      ProcessLost: some did not come; the message names them.
      ConfigError: numbers or facts of the processes do not fit.
    """
    own = f"{socket.gethostname()} (pid {os.getpid()})"
    if self.index == 0:
      self._gather(seconds, facts, own)
    else:
      self._report(seconds, facts, own)
    selector = selectors.DefaultSelector()
    for other, line in self._lines.items():  # here, for the run may be short
      line.settimeout(GRACE)
      selector.register(line, selectors.EVENT_READ, other)
    threading.Thread(
      target=self._watch, args=(selector,), name="roll call", daemon=True
    ).start()

  def tell(self, code: int, reason: str) -> None:
    """Says why this process ends; it is about to."""
    self._left.set()
    for line in self._lines.values():
      line.send(bye=code, why=reason)

  def leave(self, code: int, reason: str = "") -> None:
    """Says that this process ends, and why.

    Process 0 stays until the others have gone or `GRACE` is over: JAX's
    service is in it, and its end would abort them before they can say why
    they end.
    """
    self.tell(code, reason)
    deadline = time.monotonic() + GRACE
    staying = dict(self._lines)  # the thread reads the other one
    while self.index == 0 and staying and time.monotonic() < deadline:
      for index, line in list(staying.items()):
        line.settimeout(0.1)
        if line.receive() is None:
          del staying[index]
    for line in self._lines.values():
      line.close()

  def _gather(self, seconds: float, facts: str, own: str) -> None:
    """Process 0: takes names until all have come."""
    wires.allow(self.count - 1)
    self.members = {0: own}
    deadline = time.monotonic() + seconds
    with wires.listening(self.address) as server:
      while missing := [i for i in range(self.count) if i not in self.members]:
        if time.monotonic() > deadline:
          raise errors.ProcessLost(
            self._refuse(
              f"{len(missing)} of {self.count} processes did not come to"
              f" {self.address} within {seconds:.0f} s: {listed(missing)}."
              " See whether they were started and what they say; a run of one"
              " process needs --num_processes=1"
            )
          )
        server.settimeout(min(1.0, seconds))
        try:
          connection, _ = server.accept()
        except TimeoutError:
          continue
        wrong = self._welcome(wires.Line(connection), facts)
        if wrong:
          raise errors.ConfigError(self._refuse(wrong))
    for line in self._lines.values():
      line.send(members=self.members)

  def _welcome(self, line: wires.Line, facts: str) -> str:
    """Takes one name; returns what is wrong with it."""
    line.settimeout(5.0)
    hello = (line.receive() or [{}])[0].get("hello")
    if not isinstance(hello, dict):
      line.close()  # a port scan or a health check
      return ""
    index, count, host = hello["index"], hello["count"], hello["host"]
    if index in self.members:
      other = named(index, self.members)
      line.send(refused=f"there is a {other} already")
      return f"two processes say that they are number {index}: {other}, {host}"
    self._lines[index], self.members[index] = line, host
    if count != self.count:
      return (
        f"{named(index, self.members)} was started as one of {count}"
        f" processes, process 0 as one of {self.count}"
      )
    if hello["facts"] != facts:
      return (
        f"{named(index, self.members)} has {hello['facts']}, process 0"
        f" has {facts}: all must have the same"
      )
    return ""

  def _refuse(self, reason: str) -> str:
    for line in self._lines.values():
      line.send(refused=reason)
      line.close()
    return reason

  def _report(self, seconds: float, facts: str, own: str) -> None:
    """Another process: gives its name, and waits for the others'."""
    deadline = time.monotonic() + seconds
    host, _, port = self.address.rpartition(":")
    while True:
      left = deadline - time.monotonic()
      try:
        connection = socket.create_connection(
          (host.strip("[]"), int(port)), timeout=min(max(left, 0.1), 10.0)
        )
        break
      except OSError as error:
        if left <= 0:
          raise errors.ProcessLost(
            f"process {self.index} of {self.count} finds no process 0 at"
            f" {self.address} within {seconds:.0f} s ({error}): see whether it"
            " was started and whether this host reaches it; a run of one"
            " process needs --num_processes=1"
          ) from None
        time.sleep(0.2)
    line = self._lines[0] = wires.Line(connection)
    line.settimeout(1.0)
    hello = {"index": self.index, "count": self.count, "host": own}
    line.send(hello=hello | {"facts": facts})
    # Process 0 may have come first, and gives up by its own clock.
    while time.monotonic() < deadline + GRACE:
      messages = line.receive()
      for message in messages or ():
        if "refused" in message:
          raise errors.ProcessLost(message["refused"])
        if "members" in message:
          self.members = {int(k): v for k, v in message["members"].items()}
          return
      if messages is None:
        break
    raise errors.ProcessLost(
      f"process 0 at {self.address} was there, and went before all processes"
      " had come: its message says why"
    )

  def _watch(self, selector: selectors.BaseSelector) -> None:
    """The thread: hears what others say, and that they are gone."""
    with selector:
      while not self._left.is_set():
        for key, _ in selector.select(_PERIOD):
          if self._left.is_set():
            return
          index = key.data
          messages = self._lines[index].receive()
          if not self._heard(index, messages):
            selector.unregister(key.fileobj)
        for deadline, reason in self._failed:
          if time.monotonic() > deadline:
            self._lose(reason)

  def _heard(self, index: int, messages: list[wires.Message] | None) -> bool:
    """Notes what a process says; whether there can be more."""
    line, name = self._lines[index], named(index, self.members)
    for message in messages or ():
      if "lost" in message:
        self._lose(message["lost"])
      elif "failed" in message:
        deadline = time.monotonic() + GRACE
        self._failed.append((deadline, message["failed"]))
      elif "bye" in message:
        line.closing, code = True, message["bye"]
        if code == errors.ProcessLost.exit_code:
          self._lose(message["why"])  # it knows of the loss of a third
        elif code not in (0, errors.Preempted.exit_code):
          reason = f"{name} ended with exit code {code}: {message['why']}"
          self._failed.append((time.monotonic() + GRACE, reason))
          for other in self._lines.values():
            if self.index == 0 and other is not line:
              other.send(failed=reason)
    if messages is None and not line.closing:
      self._lose(f"{name} is gone: it died, or its host is cut off")
    return messages is not None

  def _lose(self, reason: str) -> None:
    if self._left.is_set():
      return
    self._left.set()
    if self.index == 0:
      for line in self._lines.values():
        line.send(lost=reason)
    self._on_lost(reason)
