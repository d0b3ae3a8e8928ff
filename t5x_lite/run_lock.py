"""One run at a time in a workdir.

The lock is the kernel's (flock), so it ends with the process, however that
dies: there are no stale locks to clean up.  The file itself stays, and tells
who holds or held the lock.
"""

import errno
import fcntl
import json
import logging
import os
import pathlib
import socket

from t5x_lite import errors

NAME = "run.lock"
_TAKEN = {errno.EAGAIN, errno.EACCES}
_UNSUPPORTED = {errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK}
_log = logging.getLogger(__name__)


class RunLock:
  """Holds a workdir from construction to `release`.

  Raises:
    CheckpointError: another process, or this one, holds it already.
    OSError: the workdir cannot be written.
  """

  def __init__(self, workdir: pathlib.Path):
    self._path = workdir / NAME
    self._file: int | None = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
      self._acquire(self._file)
      holder = {"pid": os.getpid(), "host": socket.gethostname()}
      os.ftruncate(self._file, 0)
      os.pwrite(self._file, json.dumps(holder).encode(), 0)
    except BaseException:
      os.close(self._file)
      raise

  def _acquire(self, file: int) -> None:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
      if error.errno in _UNSUPPORTED:
        _log.warning(
          "%s: this file system has no locks, so nothing stops a second run"
          " in the same workdir; see to it that there is none",
          self._path,
        )
        return
      if error.errno not in _TAKEN:
        raise
      raise errors.CheckpointError(
        f"{self._path.parent} is in use by {self._holder(file)}: two runs in"
        " one workdir would overwrite each other's checkpoints; stop that"
        " process or use another --workdir"
      ) from None

  def _holder(self, file: int) -> str:
    try:
      holder = json.loads(os.pread(file, 4096, 0))
      return f"process {holder['pid']} on host {holder['host']}"
    except (ValueError, KeyError, TypeError):
      return "another process"

  def release(self) -> None:
    """Lets others in; harmless when repeated."""
    if self._file is not None:
      # Not by closing alone: a forked child would still hold the lock.
      fcntl.flock(self._file, fcntl.LOCK_UN)
      os.close(self._file)
      self._file = None
