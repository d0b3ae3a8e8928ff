"""Disks that are full or read-only, and errors in Orbax's threads."""

import errno
import os
import pathlib
import shutil
import subprocess

import jax
import jax.numpy as jnp
import pytest

from t5x_lite import checkpoints, errors
from t5x_lite.checkpoints import manifest
from tests.checkpoints import toy


@pytest.fixture
def mount(tmp_path):
  """Mounts file systems of a given size, where that is permitted."""
  mounted = []

  def mount(options):
    path = tmp_path / "disk"
    path.mkdir(exist_ok=True)
    done = subprocess.run(
      ["mount", "-t", "tmpfs", "-o", options, "tmpfs", path],
      capture_output=True,
      text=True,
    )
    if done.returncode:
      pytest.skip(f"mounting is not permitted here: {done.stderr.strip()}")
    mounted.append(path)
    return path

  yield mount
  for path in mounted:
    subprocess.run(["umount", path], check=True)


def big(value):
  """About 1.8 MB on disk: random numbers do not compress much."""
  kernel = jax.random.normal(jax.random.key(value), (500_000,))
  return toy.State(jnp.int32(value), {"w": kernel}, {})


def assert_clean(directory, numbers):
  """Only whole steps, and no trace of the save that failed."""
  assert sorted(os.listdir(directory)) == sorted(map(str, numbers))
  assert not any(manifest.problems(directory / str(n)) for n in numbers)


def test_full_disk(mount):
  workdir = mount("size=3m") / "run"
  directory = workdir / "checkpoints"
  with checkpoints.Checkpointer(every=1).open(workdir) as session:
    session.save(1, big(1))
    session.wait()
    session.save(2, big(2))
    with pytest.raises(errors.CheckpointError) as error:
      session.wait()
    assert "No space left on device" in str(error.value)
    assert "newest complete checkpoint is step 1" in str(error.value)
    assert "free some space" in str(error.value)
    assert len(str(error.value).splitlines()) < 5
    assert_clean(directory, [1])
    # The error surfaces at the next save too, and at the end.
    session.save(2, big(2))
    with pytest.raises(errors.CheckpointError, match="step 2 is not saved"):
      session.save(3, big(3))
    toy.assert_same(session.restore(toy.abstract(big(1))), big(1))
    session.save(3, big(3))
    with pytest.raises(errors.CheckpointError, match="step 3 is not saved"):
      session.close()
  assert_clean(directory, [1])


def test_goes_on_when_there_is_space_again(mount):
  workdir = mount("size=6m") / "run"
  directory = workdir / "checkpoints"
  ballast = workdir.parent / "ballast"
  with checkpoints.Checkpointer(every=1).open(workdir) as session:
    session.save(1, big(1))
    session.wait()
    free = shutil.disk_usage(workdir).free
    ballast.write_bytes(b"x" * (free - 8192))
    with pytest.raises(errors.CheckpointError, match="No space left"):
      session.save(2, big(2))
      session.wait()
    assert_clean(directory, [1])
    ballast.unlink()
    session.save(2, big(2))
    session.wait()
    toy.assert_same(session.restore(toy.abstract(big(2))), big(2))
  assert_clean(directory, [1, 2])


def test_no_byte_is_free(mount):
  disk = mount("size=64k")
  with pytest.raises(OSError, match="No space left"):
    (disk / "ballast").write_bytes(b"x" * 2**17)
  with (
    pytest.raises(errors.CheckpointError, match="No space left"),
    checkpoints.Checkpointer(every=1).open(disk / "run") as session,
  ):
    session.save(1, big(1))
    session.wait()


def test_read_only_disk(mount):
  disk = mount("size=1m")
  subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
  with pytest.raises(errors.CheckpointError) as error:
    checkpoints.Checkpointer().open(disk / "run")
  assert "Read-only file system" in str(error.value)
  assert "make the directory writable" in str(error.value)


def test_a_file_in_the_way(tmp_path):
  (tmp_path / "run").write_text("")
  with pytest.raises(errors.CheckpointError, match="Not a directory"):
    checkpoints.Checkpointer().open(tmp_path / "run")


def test_no_permission(tmp_path, monkeypatch):
  def refuse(self, *args, **kwargs):
    raise PermissionError(errno.EACCES, "Permission denied", str(self))

  monkeypatch.setattr(pathlib.Path, "mkdir", refuse)
  with pytest.raises(errors.CheckpointError) as error:
    checkpoints.Checkpointer().open(tmp_path / "run")
  assert "Permission denied" in str(error.value)
  assert "make the directory writable" in str(error.value)


@pytest.mark.parametrize(
  "error, remedy",
  [
    (OSError(errno.ENOSPC, "No space left on device"), "free some space"),
    (OSError(errno.EIO, "Input/output error"), "file system answers"),
    (TimeoutError("of Orbax"), "Checkpointer.timeout_minutes"),
    (RuntimeError("anything"), "file system answers"),
  ],
)
def test_errors_of_the_thread_surface(tmp_path, monkeypatch, error, remedy):
  with checkpoints.Checkpointer(every=1).open(tmp_path) as session:
    session.save(1, toy.at(1))
    session.wait()
    with monkeypatch.context() as patch:

      def fail(*args):
        raise error

      patch.setattr(manifest, "seal", fail)
      session.save(2, toy.at(2))
      with pytest.raises(errors.CheckpointError) as caught:
        session.wait()
    assert remedy in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert_clean(tmp_path / "checkpoints", [1])
    session.save(2, toy.at(2))
    session.wait()
    assert_clean(tmp_path / "checkpoints", [1, 2])


def test_errors_of_the_iterator_are_its_own(tmp_path):
  class Broken(toy.Counter):
    def save(self, directory):
      raise errors.DataError("the iterator cannot be saved")

  with checkpoints.Checkpointer(every=1).open(tmp_path) as session:
    with pytest.raises(errors.DataError):
      session.save(1, toy.at(1), Broken())
    assert_clean(tmp_path / "checkpoints", [])
    session.save(1, toy.at(1), toy.Counter())


def test_a_failing_save_prints_no_tracebacks(tmp_path, monkeypatch, capfd):
  def fail(*args):
    raise OSError(errno.ENOSPC, "No space left on device")

  monkeypatch.setattr(manifest, "seal", fail)
  with checkpoints.Checkpointer(every=1).open(tmp_path) as session:
    session.save(1, toy.at(1))
    with pytest.raises(errors.CheckpointError):
      session.wait()
  assert "Traceback" not in capfd.readouterr().err
