"""Tests of datasets: the same batches always, and errors that name culprits."""

import collections
import functools
import itertools
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from t5x_lite import datasets, errors, vocabularies
from tests import toy_data

LENGTHS = toy_data.LENGTHS


def make(mixture, **options):
  """Returns a dataset made anew."""
  options = {
    "feature_lengths": LENGTHS,
    "batch_size": 8,
    "shuffle_buffer": 10,
    "task_modules": (),
  } | options
  return datasets.Dataset(mixture, **options)


# Building a pipeline takes far longer than reading some of it.
share = functools.cache(make)


def take(iterator, count):
  return [next(iterator) for _ in range(count)]


def assert_equal(batches, others):
  assert len(batches) == len(others)
  for one, other in zip(batches, others, strict=True):
    assert one.keys() == other.keys()
    for key, value in one.items():
      assert np.array_equal(value, other[key]), key


def texts(batches):
  return [text for batch in batches for text in toy_data.texts(batch)]


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
  """Two folders: 60 texts in 5 files and 40 texts in 8."""
  folders = []
  for count, files, seed in ((60, 5, 0), (40, 8, 1)):
    folder = tmp_path_factory.mktemp("corpus")
    toy_data.write(folder, toy_data.sentences(count, seed), files)
    folders.append(folder)
  return folders


@pytest.fixture(scope="module")
def task(corpora):
  return toy_data.task(corpora[0])


@pytest.fixture(scope="module")
def mixture(corpora):
  names = [toy_data.task(folder) for folder in corpora]
  return toy_data.mixture({names[0]: 0.7, names[1]: 0.3})


@pytest.mark.parametrize("pack", [True, False])
def test_batches_have_one_layout(task, pack):
  for batch in take(share(task, pack=pack).iterator(), 3):
    assert set(batch) == {
      name + suffix
      for name in LENGTHS
      for suffix in ("", "_segment_ids", "_positions")
    }
    for key, value in batch.items():
      assert value.shape == (8, LENGTHS[key.partition("_")[0]])
      assert value.dtype == np.int32


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("num_shards", [1, 2, 4, 8])
def test_an_epoch_holds_every_example_once(task, num_shards, pack):
  # 5 files: shards divide files, or examples where these do not go up.
  dataset = share(task, num_epochs=1, num_shards=num_shards, pack=pack)
  batches = list(dataset.iterator())
  expected = [text[:16] for text in toy_data.sentences(60)]
  assert sorted(texts(batches)) == sorted(expected)
  for batch in batches:
    assert batch["inputs"].shape == (8, 24)


@pytest.mark.parametrize("batch_size", [8, 16, 64])
def test_rows_that_fill_up_the_last_batch_are_padding(task, batch_size):
  dataset = make(task, num_epochs=1, pack=False, batch_size=batch_size)
  rows = [
    batch["targets_segment_ids"].max(axis=1) for batch in dataset.iterator()
  ]
  assert sum(int(used.sum()) for used in rows) == 60
  assert len(rows) == -(-15 // (batch_size // 4))  # 15 rows in each shard.
  last = dataset.iterator()
  for batch in last:
    for key, value in batch.items():
      padding = batch["targets_segment_ids"].max(axis=1) == 0
      assert not value[padding].any(), key


def test_two_epochs_hold_every_example_twice(task):
  batches = list(make(task, num_epochs=2).iterator())
  counts = collections.Counter(texts(batches))
  assert len(counts) == 60
  assert set(counts.values()) == {2}


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("num_hosts", [2, 4])
@pytest.mark.parametrize("num_epochs", [None, 1])
def test_hosts_together_read_the_batches_of_one(
  mixture, num_hosts, pack, num_epochs
):
  dataset = share(mixture, pack=pack, num_epochs=num_epochs)
  alone = list(itertools.islice(dataset.iterator(), 60))
  hosts = [
    dataset.iterator(host_index=index, num_hosts=num_hosts)
    for index in range(num_hosts)
  ]
  for batch in alone:
    parts = [next(host) for host in hosts]
    assert all(len(part["inputs"]) == 8 // num_hosts for part in parts)
    whole = {
      key: np.concatenate([part[key] for part in parts]) for key in batch
    }
    assert_equal([batch], [whole])
  if num_epochs:
    for host in hosts:
      assert next(host, None) is None


def test_order_is_of_the_seed_alone(mixture):
  dataset = share(mixture)
  first = take(dataset.iterator(), 10)
  assert_equal(first, take(make(mixture).iterator(), 10))
  assert_equal(first, take(dataset.iterator(), 10))  # Not where it ended.
  other = take(make(mixture, seed=1).iterator(), 10)
  assert texts(first) != texts(other)


def test_epochs_and_shards_differ_in_order_and_noise(tmp_path):
  toy_data.write(tmp_path, ["abcdefghijkl"] * 40, 1)
  name = toy_data.task(tmp_path)
  dataset = make(name, pack=False, batch_size=20)
  rotations = [
    tuple(row[:12])
    for batch in take(dataset.iterator(), 4)
    for row in batch["inputs"].tolist()
  ]
  epochs = [rotations[:40], rotations[40:]]
  assert epochs[0] != epochs[1]
  by_shard = [rotations[start : start + 5] for start in range(0, 20, 5)]
  assert len(set(map(tuple, by_shard))) == 4


def test_every_epoch_is_shuffled_otherwise(corpora):
  dataset = make(
    toy_data.task(corpora[0]),
    pack=False,
    batch_size=60,
    num_shards=1,
    shuffle_buffer=1,  # What is left are the files.
  )
  first, second, third = (
    toy_data.texts(batch) for batch in take(dataset.iterator(), 3)
  )
  assert sorted(first) == sorted(second) == sorted(third)
  assert first != second != third
  assert first != third


def test_without_shuffling_the_order_is_that_of_the_files(corpora):
  dataset = make(
    toy_data.task(corpora[0]),
    shuffle=False,
    pack=False,
    num_shards=1,
    batch_size=60,
  )
  files = sorted(corpora[0].glob("*.txt"))
  lines = [line for file in files for line in file.read_text().split()]
  batch = next(dataset.iterator())
  assert toy_data.texts(batch) == [line[:16] for line in lines]


def test_mixtures_keep_their_rates(corpora):
  names = []
  for folder, prefix in zip(corpora, "xy", strict=True):

    def mark(ds, prefix=prefix):
      import tensorflow as tf

      return ds.map(lambda e: e | {"targets": tf.fill([3], ord(prefix) + 3)})

    names.append(toy_data.task(folder, preprocessors=[mark]))
  name = toy_data.mixture({names[0]: 3, names[1]: 1})
  found = texts(take(make(name, pack=False).iterator(), 200))
  assert 0.7 < found.count("xxx") / len(found) < 0.8
  # Once through: all of both, whatever the rates.
  once = texts(make(name, num_epochs=1).iterator())
  assert collections.Counter(once) == {"xxx": 60, "yyy": 40}


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("steps", [0, 1, 7, 25])
def test_goes_on_exactly_where_it_was_saved(tmp_path, mixture, steps, pack):
  dataset = share(mixture, pack=pack)
  iterator = dataset.iterator()
  take(iterator, steps)
  iterator.save(tmp_path / "state")
  expected = take(iterator, 25)
  again = dataset.iterator()
  again.restore(tmp_path / "state")
  assert_equal(take(again, 25), expected)
  # Also where an iterator has been used before.
  again.restore(tmp_path / "state")
  assert_equal(take(again, 5), expected[:5])


def test_goes_on_to_the_end_of_finite_data(tmp_path, task):
  dataset = make(task, num_epochs=2)
  iterator = dataset.iterator()
  take(iterator, 2)
  iterator.save(tmp_path / "middle")
  expected = list(iterator)
  iterator.save(tmp_path / "end")
  again = dataset.iterator()
  again.restore(tmp_path / "middle")
  assert_equal(list(again), expected)
  again.restore(tmp_path / "end")
  assert list(again) == []


@pytest.mark.parametrize(("before", "after"), [(4, 1), (1, 4), (2, 4)])
def test_goes_on_with_other_hosts(tmp_path, mixture, before, after):
  dataset = share(mixture)
  expected = take(dataset.iterator(), 12)
  for index in range(before):
    host = dataset.iterator(host_index=index, num_hosts=before)
    take(host, 6)
    host.save(tmp_path)
  hosts = [
    dataset.iterator(host_index=index, num_hosts=after)
    for index in range(after)
  ]
  for host in hosts:
    host.restore(tmp_path)
  for batch in expected[6:]:
    parts = [next(host) for host in hosts]
    whole = {
      key: np.concatenate([part[key] for part in parts]) for key in batch
    }
    assert_equal([whole], [batch])


_FRESH = """
  import pathlib, sys
  import numpy as np
  from t5x_lite import datasets
  from tests import toy_data

  first, second, state, out = map(pathlib.Path, sys.argv[1:])
  names = [toy_data.task(first), toy_data.task(second)]
  name = toy_data.mixture({names[0]: 0.7, names[1]: 0.3})
  dataset = datasets.Dataset(
    name, toy_data.LENGTHS, 8, shuffle_buffer=10, task_modules=()
  )
  iterator = dataset.iterator()
  if state.exists():
    iterator.restore(state)
  else:
    for _ in range(9):
      next(iterator)
    iterator.save(state)
  batches = [next(iterator)["inputs"] for _ in range(9)]
  np.save(out, np.stack(batches))
"""


def test_goes_on_exactly_in_a_fresh_process(tmp_path, corpora):
  outputs = []
  for run in ("saved.npy", "restored.npy"):
    outputs.append(tmp_path / run)
    command = [sys.executable, "-c", textwrap.dedent(_FRESH)]
    paths = [*corpora, tmp_path / "state", outputs[-1]]
    subprocess.run([*command, *map(str, paths)], check=True)
  saved, restored = map(np.load, outputs)
  assert saved.any()
  assert np.array_equal(saved, restored)


def test_state_of_other_data_is_refused(tmp_path, task):
  share(task).iterator().save(tmp_path)
  for change, value in (
    ("seed", 3),
    ("num_shards", 2),
    ("batch_size", 16),
    ("pack", False),
    ("shuffle_buffer", 11),
  ):
    other = share(task, **{change: value}).iterator()
    with pytest.raises(errors.CheckpointError, match=f"{change} = .*set it"):
      other.restore(tmp_path)


def test_lost_or_damaged_state_is_refused(tmp_path, task):
  iterator = share(task).iterator()
  with pytest.raises(errors.CheckpointError, match="no state of the data"):
    iterator.restore(tmp_path)
  for suffix in (".npz", ".index", ".data-00000-of-00001"):
    iterator.save(tmp_path)
    path = tmp_path / f"shard-00002-of-00004{suffix}"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(errors.CheckpointError, match="shard-00002"):
      iterator.restore(tmp_path)
    path.unlink()
    with pytest.raises(errors.CheckpointError, match="shard-00002"):
      iterator.restore(tmp_path)


def test_a_full_disk_is_told(tmp_path, task):
  iterator = share(task).iterator()
  (tmp_path / "shard-00001-of-00004.npz").symlink_to("/dev/full")
  with pytest.raises(errors.CheckpointError, match=r"shard-00001.*No space"):
    iterator.save(tmp_path)
  (tmp_path / "file").touch()
  with pytest.raises(errors.CheckpointError, match="cannot be written"):
    iterator.save(tmp_path / "file" / "state")


def test_vocabulary_is_replaced(tmp_path, task):
  vocabulary = vocabularies.Bytes(extra_ids=7)
  dataset = make(task, vocabulary=vocabulary)
  features = dataset.provider.output_features
  assert {f.vocabulary.vocab_size for f in features.values()} == {266}
  assert dataset.fingerprint()["vocabulary"] == {
    name: vocabulary.fingerprint() for name in LENGTHS
  }
  # The registered task keeps its own.
  kept = make(task).provider.output_features["inputs"].vocabulary
  assert kept.vocab_size == 259


def test_mixture_of_vocabularies_needs_one_for_all(corpora):
  import seqio

  names = [toy_data.task(folder) for folder in corpora]
  task = seqio.TaskRegistry.get(names[0])
  task.output_features["inputs"] = seqio.Feature(seqio.ByteVocabulary(9))
  name = toy_data.mixture(dict.fromkeys(names, 1.0))
  with pytest.raises(errors.ConfigError, match="mixes vocabularies: 'inputs'"):
    make(name).iterator()
  make(name, vocabulary=vocabularies.Bytes()).iterator()


def test_fingerprint_tells_configurations_apart(task, mixture):
  one = make(mixture).fingerprint()
  assert one == make(mixture).fingerprint()
  assert sum(one["tasks"].values()) == pytest.approx(1)
  for other in (
    make(task),
    make(mixture, seed=1),
    make(mixture, feature_lengths={"inputs": 23, "targets": 16}),
    make(mixture, pack=False),
    make(mixture, vocabulary=vocabularies.Bytes(3)),
    make(mixture, num_shards=2),
    make(mixture, split="validation"),
  ):
    assert other.fingerprint() != one
