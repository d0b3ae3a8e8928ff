import errno
import fcntl
import os

import pytest

from t5x_lite import errors, run_lock


def test_the_second_is_refused_until_the_first_lets_go(tmp_path):
  lock = run_lock.RunLock(tmp_path)
  with pytest.raises(errors.CheckpointError) as error:
    run_lock.RunLock(tmp_path)
  assert f"in use by process {os.getpid()} on host" in str(error.value)
  assert "another --workdir" in str(error.value)
  lock.release()
  lock.release()
  run_lock.RunLock(tmp_path).release()


def test_a_stale_file_locks_nobody_out(tmp_path):
  (tmp_path / run_lock.NAME).write_text('{"pid": 1, "host": "elsewhere"}')
  lock = run_lock.RunLock(tmp_path)
  assert f'"pid": {os.getpid()}' in (tmp_path / run_lock.NAME).read_text()
  lock.release()


def test_a_file_without_a_holder_is_no_riddle(tmp_path):
  lock = run_lock.RunLock(tmp_path)
  (tmp_path / run_lock.NAME).write_text("")
  with pytest.raises(errors.CheckpointError, match="in use by another process"):
    run_lock.RunLock(tmp_path)
  lock.release()


def test_warns_where_there_are_no_locks(tmp_path, monkeypatch, caplog):
  def refuse(file, operation):
    if operation != fcntl.LOCK_UN:
      raise OSError(errno.ENOLCK, "No locks available")

  monkeypatch.setattr(fcntl, "flock", refuse)
  run_lock.RunLock(tmp_path).release()
  assert "this file system has no locks" in caplog.text


def test_other_errors_pass_and_leak_nothing(tmp_path, monkeypatch):
  def fail(*args):
    raise OSError(errno.ENOSPC, "No space left on device")

  before = len(os.listdir("/proc/self/fd"))
  with monkeypatch.context() as patch:
    patch.setattr(os, "pwrite", fail)
    with pytest.raises(OSError, match="No space"):
      run_lock.RunLock(tmp_path)
  assert len(os.listdir("/proc/self/fd")) == before
  run_lock.RunLock(tmp_path).release()
