"""Reading ahead changes when batches are read, never which or what is saved."""

import threading
import time

import numpy as np
import pytest

from t5x_lite import datasets, errors, pieces, prefetch
from tests import toy_data

LIMIT = 1000


class Numbers:
  """Batches 0, 1, 2, ...; what `fail` maps a number to is raised in its place.

  Notes how many were read, and what was saved.
  """

  def __init__(self, end=LIMIT, fail=None, seconds=0.0):
    self.read, self.end, self.fail = 0, end, fail or {}
    self.seconds, self.saved = seconds, []

  def __next__(self):
    time.sleep(self.seconds)
    if self.read in self.fail:
      raise self.fail[self.read]
    if self.read == self.end:
      raise StopIteration
    self.read += 1
    return {"x": np.array([self.read - 1])}

  def save(self, directory, ahead=()):
    self.saved.append((self.read, [int(rows["x"][0]) for rows in ahead]))


def double(rows):
  return {name: value * 2 for name, value in rows.items()}


def threads():
  return [t for t in threading.enumerate() if t.name == "prefetch"]


def wait_for(condition):
  end = time.monotonic() + 10
  while not condition() and time.monotonic() < end:
    time.sleep(0.001)
  assert condition()


@pytest.fixture
def ahead():
  """A maker of `Ahead`, closed after the test, which must leave no thread."""
  made = []

  def make(source, put=double, size=2, limit=LIMIT):
    made.append(prefetch.batches(source, put, size=size, limit=limit))
    return made[-1]

  yield make
  for one in made:
    one.close()
  assert not threads()


@pytest.mark.parametrize("size", [0, 1, 4])
def test_batches_are_those_of_the_source_and_put(ahead, size):
  source = Numbers(end=9)
  found = ahead(source, size=size)
  for number in range(9):
    rows, batch = next(found)
    assert rows["x"] == number
    assert batch["x"] == 2 * number
  for _ in range(2):
    assert next(found, None) is None
  assert source.read == 9


@pytest.mark.parametrize("size", [1, 4])
def test_reads_so_many_ahead_and_no_more(ahead, size):
  source = Numbers()
  found = ahead(source, size=size)
  assert source.read == 0  # nothing before it is asked for
  next(found)
  wait_for(lambda: source.read == 1 + size)
  time.sleep(0.02)
  assert source.read == 1 + size
  next(found)
  wait_for(lambda: source.read == 2 + size)


def test_nothing_beyond_the_last_step_is_read(ahead):
  source = Numbers(fail={5: errors.DataError("not to be met")})
  found = ahead(source, size=4, limit=5)
  assert [int(next(found).rows["x"][0]) for _ in range(5)] == [0, 1, 2, 3, 4]
  found.save("anywhere")
  assert source.saved == [(5, [])]
  assert next(found, None) is None


def test_reading_goes_on_while_the_loop_is_busy(ahead):
  source = Numbers(seconds=0.02)
  found = ahead(source)
  next(found)
  wait_for(lambda: source.read == 3)
  begin = time.monotonic()
  next(found), next(found)
  assert time.monotonic() - begin < 0.02


@pytest.mark.parametrize("size", [0, 1, 4])
def test_an_error_comes_with_its_type_at_its_batch(ahead, size):
  found = ahead(Numbers(fail={3: errors.DataError("id 99")}), size=size)
  for _ in range(3):
    next(found)
  with pytest.raises(errors.DataError, match="id 99"):
    next(found)
  with pytest.raises(errors.DataError, match="id 99"):
    next(found)


@pytest.mark.parametrize("size", [0, 1, 4])
def test_an_error_in_putting_comes_at_its_batch(ahead, size):
  def put(rows):
    if rows["x"] == 2:
      raise MemoryError("no room")
    return rows

  found = ahead(Numbers(), put, size=size)
  next(found), next(found)
  with pytest.raises(MemoryError, match="no room"):
    next(found)


def test_what_waits_is_saved_and_still_given(ahead):
  source = Numbers()
  found = ahead(source, size=3)
  next(found), next(found)
  wait_for(lambda: source.read == 5)
  found.save("anywhere")
  assert source.saved == [(5, [2, 3, 4])]
  assert next(found).rows["x"] == 2


def test_the_source_stands_still_while_it_is_saved(ahead):
  class Slow(Numbers):
    def save(self, directory, ahead=()):
      before = self.read
      time.sleep(0.05)
      assert self.read == before
      super().save(directory, ahead)

  source = Slow(seconds=0.005)
  found = ahead(source, size=4)
  for given in range(1, 20):
    next(found)
    found.save("anywhere")
    read, waiting = source.saved[-1]
    assert waiting == list(range(given, read))


def test_a_source_that_failed_ahead_is_not_saved(ahead):
  source = Numbers(fail={3: errors.DataError("id 99")})
  found = ahead(source, size=4)
  next(found)
  wait_for(lambda: not threads())
  with pytest.raises(errors.DataError, match="id 99"):
    found.save("anywhere")
  assert not source.saved
  assert next(found).rows["x"] == 1


def test_the_end_met_ahead_is_saved(ahead):
  source = Numbers(end=3)
  found = ahead(source, size=4)
  next(found)
  wait_for(lambda: not threads())
  found.save("anywhere")
  assert source.saved == [(3, [1, 2])]


def test_closing_waits_for_the_read_under_way(ahead):
  source = Numbers(seconds=0.05)
  found = ahead(source)
  next(found)
  found.close()
  assert not threads()
  with pytest.raises(RuntimeError, match="after close"):
    next(found)


def test_a_source_that_hangs_does_not_keep_the_process(
  ahead, monkeypatch, caplog
):
  monkeypatch.setattr(prefetch, "_PATIENCE", 0.05)
  release = threading.Event()

  def put(rows):
    if rows["x"]:
      release.wait(10)
    return rows

  found = ahead(Numbers(), put)
  next(found)
  found.close()
  assert "not waiting" in caplog.text
  assert all(thread.daemon for thread in threads())
  release.set()
  wait_for(lambda: not threads())


def test_negative_sizes_are_refused():
  prefetch.check(0)
  with pytest.raises(errors.ConfigError, match="PREFETCH.*0 for none"):
    prefetch.check(-1)


@pytest.fixture(scope="module")
def mixture(tmp_path_factory):
  names = []
  for count, seed in ((60, 0), (40, 1)):
    folder = tmp_path_factory.mktemp("corpus")
    toy_data.write(folder, toy_data.sentences(count, seed), 5)
    names.append(toy_data.task(folder))
  return toy_data.mixture({names[0]: 0.7, names[1]: 0.3})


@pytest.fixture(scope="module")
def make(mixture):
  """Datasets by their options, each made once."""
  made = {}

  def get(**options):
    key = tuple(sorted(options.items()))
    if key not in made:
      made[key] = datasets.Dataset(
        mixture,
        toy_data.LENGTHS,
        8,
        shuffle_buffer=10,
        task_modules=(),
        **options,
      )
    return made[key]

  return get


def take(found, count):
  return [next(found).rows for _ in range(count)]


def assert_equal(batches, others):
  assert len(batches) == len(others)
  for one, other in zip(batches, others, strict=True):
    assert one.keys() == other.keys()
    for key, value in one.items():
      np.testing.assert_array_equal(value, other[key], err_msg=key)


def ready(found):
  """Waits until a batch waits, for else there is nothing to test."""
  if isinstance(found, prefetch.Ahead):
    wait_for(lambda: len(found._waiting) == found._size)


@pytest.mark.parametrize(
  ("pack", "before", "after"),
  [(True, 0, 4), (True, 1, 0), (True, 4, 1), (False, 4, 4)],
)
def test_what_follows_a_save_is_the_same(
  tmp_path, make, ahead, pack, before, after
):
  """Saved and restored twice, whatever is read ahead then and now."""
  dataset = make(pack=pack)
  wanted = [next(it) for it in [dataset.iterator()] for _ in range(20)]
  found = ahead(dataset.iterator(), size=before)
  assert_equal(take(found, 5), wanted[:5])
  ready(found)
  found.save(tmp_path / "first")
  assert_equal(take(found, 5), wanted[5:10])  # goes on undisturbed
  source = dataset.iterator()
  source.restore(tmp_path / "first")
  again = ahead(source, size=after)
  # In the middle of what was ahead, part of it is ahead still.
  assert_equal(take(again, 2), wanted[5:7])
  ready(again)
  again.save(tmp_path / "second")
  source = dataset.iterator()
  source.restore(tmp_path / "second")
  assert_equal(take(ahead(source, size=before), 13), wanted[7:])


def test_hosts_may_be_as_far_ahead_as_they_like(tmp_path, make, ahead):
  dataset = make(pack=True)
  wanted = [next(it) for it in [dataset.iterator()] for _ in range(12)]
  for index, size in enumerate((3, 1)):
    host = ahead(dataset.iterator(host_index=index, num_hosts=2), size=size)
    take(host, 6)
    ready(host)
    host.save(tmp_path)
  source = dataset.iterator()
  source.restore(tmp_path)
  assert_equal(take(ahead(source), 6), wanted[6:])


def test_the_end_of_finite_data_comes_once(tmp_path, make, ahead):
  dataset = make(num_epochs=1)
  wanted = list(dataset.iterator())
  assert len(wanted) > 3
  found = ahead(dataset.iterator(), size=4)
  take(found, len(wanted) - 2)
  wait_for(lambda: not threads())  # it has met the end
  found.save(tmp_path)
  source = dataset.iterator()
  source.restore(tmp_path)
  again = ahead(source, size=1)
  assert_equal(take(again, 2), wanted[-2:])
  assert next(again, None) is None


def test_rows_that_go_on_are_saved_ahead_too(tmp_path, mixture, ahead):
  dataset = datasets.Dataset(
    mixture,
    {"targets": 8},
    4,
    document_length=30,
    shuffle_buffer=10,
    task_modules=(),
  )
  assert isinstance(pieces.packer(dataset), pieces.Pieces)
  wanted = [next(it) for it in [dataset.iterator()] for _ in range(9)]
  found = ahead(dataset.iterator(), size=3)
  take(found, 4)
  ready(found)
  found.save(tmp_path)
  source = dataset.iterator()
  source.restore(tmp_path)
  assert_equal(take(ahead(source, size=2), 5), wanted[4:])
