"""Folders of the cache: made once, complete, or not there at all."""

import pytest

from t5x_lite import errors
from tasks import cache


@pytest.fixture(autouse=True)
def directory(tmp_path, monkeypatch):
  monkeypatch.setenv("T5X_LITE_CACHE", str(tmp_path / "cache"))
  return tmp_path / "cache"


def test_a_folder_is_made_once_for_its_parts(directory, caplog):
  caplog.set_level("INFO", "t5x_lite")
  calls = []

  def fill(folder):
    calls.append(folder)
    (folder / "file").write_text(str(len(calls)))

  first = cache.folder("corpus", {"files": ["a"]}, fill)
  again = cache.folder("corpus", {"files": ["a"]}, fill)
  other = cache.folder("corpus", {"files": ["b"]}, fill)
  assert first == again != other
  assert (first / "file").read_text() == "1"
  assert sorted(directory.iterdir()) == sorted([first, other])
  assert len([m for m in caplog.messages if "preparing" in m]) == 2


def test_of_a_failure_nothing_remains(directory):
  def fill(folder):
    (folder / "part").write_text("half")
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    cache.folder("corpus", 1, fill)
  assert list(directory.iterdir()) == []


def test_who_comes_second_takes_what_is_there(directory):
  def fill_first(folder):
    (folder / "file").write_text("first")

  def fill_second(folder):
    cache.folder("corpus", 1, fill_first)  # Another process, meanwhile.
    (folder / "file").write_text("second")

  path = cache.folder("corpus", 1, fill_second)
  assert (path / "file").read_text() == "first"
  assert list(directory.iterdir()) == [path]


def test_a_full_disk_is_told_with_a_remedy(directory):
  def fill(folder):
    raise OSError(28, "No space left on device")

  with pytest.raises(errors.DataError, match="No space .* T5X_LITE_CACHE"):
    cache.folder("corpus", 1, fill)
  assert list(directory.iterdir()) == []


def test_a_cache_that_cannot_be_made_is_told(directory):
  directory.write_text("a file is in the way")
  with pytest.raises(errors.DataError, match="cannot be written"):
    cache.folder("corpus", 1, lambda folder: None)
