"""Messages between processes: JSON, one a line, over a socket."""

import json
import resource
import socket
import threading
from typing import Any

from t5x_lite import errors

Message = dict[str, Any]


# Files of a process besides connections: data, checkpoints, libraries.
_OTHER_FILES = 1024


class Line:
  """A connection that carries messages."""

  def __init__(self, connection: socket.socket):
    self._socket, self._received = connection, b""
    self._writing = threading.Lock()
    self.closing = False  # has said "bye"
    _keep_alive(connection)

  def fileno(self) -> int:
    """For selectors."""
    return self._socket.fileno()

  def send(self, **message: Any) -> None:
    """Sends; a peer that is gone is noticed by who reads from it."""
    data = json.dumps(message).encode() + b"\n"
    try:
      with self._writing:
        self._socket.sendall(data)
    except OSError:
      pass

  def receive(self) -> list[Message] | None:
    """What has come, waiting for something; None at the end."""
    try:
      data = self._socket.recv(1 << 16)
    except TimeoutError:
      return []
    except OSError:
      return None
    if not data:
      return None
    *lines, self._received = (self._received + data).split(b"\n")
    try:
      found = [json.loads(line) for line in lines if line]
    except ValueError:
      return None  # not one of us
    return [m for m in found if isinstance(m, dict)]

  def settimeout(self, seconds: float) -> None:
    """How long `receive` and `send` wait."""
    self._socket.settimeout(seconds)

  def close(self) -> None:
    """Ends the connection."""
    self._socket.close()


def _keep_alive(connection: socket.socket) -> None:
  """Lets the kernel find out that the peer's host is gone, within 30 s.

  Not a thread of ours, which a long call may keep from running: loading a
  large library does, and nobody is to be taken for dead because of it.
  """
  connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
  connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
  settings = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}
  for name, value in settings.items():
    if hasattr(socket, name):  # Linux
      connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def listening(address: str) -> socket.socket:
  """A server at the port of the address, on all of this host's interfaces."""
  port = int(address.rpartition(":")[2])
  dual = socket.has_dualstack_ipv6()
  try:
    return socket.create_server(
      ("", port),
      family=socket.AF_INET6 if dual else socket.AF_INET,
      dualstack_ipv6=dual,
      backlog=1024,
    )
  except OSError as error:
    raise errors.ConfigError(
      f"process 0 cannot listen at port {port} of {address}: {error}; give"
      " another port (--coordinator_address=HOST:PORT, the same everywhere)"
    ) from None


def allow(connections: int) -> None:
  """Lets this process keep so many connections, and as many again of JAX's.

  A shell's limit is often 1,024 open files, which a process may raise.

  Raises:
    ConfigError: the host does not let it.
  """
  wanted = 2 * connections + _OTHER_FILES
  soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
  if soft == resource.RLIM_INFINITY or soft >= wanted:
    return
  if hard != resource.RLIM_INFINITY and hard < wanted:
    raise errors.ConfigError(
      f"this host lets a process open {hard:,} files, and process 0 of"
      f" {connections + 1:,} wants {wanted:,}: raise the limit (ulimit -Hn)"
    )
  resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
