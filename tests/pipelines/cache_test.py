"""A cache gives what the task gives, in its order, or is not used."""

import itertools
import json
import logging
import os

import numpy as np
import pytest
import seqio
import tensorflow as tf

from t5x_lite import cache, datasets, errors, vocabularies
from t5x_lite.pipelines import columns
from tasks import preprocessors
from tests import toy_data

LENGTHS = toy_data.LENGTHS
BYTES = vocabularies.Bytes()


@pytest.fixture(autouse=True)
def root(tmp_path_factory, monkeypatch):
  """Each test has caches of its own."""
  root = tmp_path_factory.mktemp("caches")
  monkeypatch.setenv("T5X_LITE_CACHE", str(root))
  return root / "tasks"


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
  """Two folders: 60 texts in 5 files and 40 texts in 8."""
  folders = []
  for count, files, seed in ((60, 5, 0), (40, 8, 1)):
    folder = tmp_path_factory.mktemp("corpus")
    toy_data.write(folder, toy_data.sentences(count, seed), files)
    folders.append(folder)
  return folders


def pairs(text):
  return {"inputs": text, "targets": tf.strings.upper(text)}


def register(folder, steps, *, source=None, **options):
  """Registers a task of lines whose first step makes pairs."""
  name = f"cached_{next(toy_data._number)}"
  feature = seqio.Feature(BYTES.build(), add_eos=True)
  seqio.TaskRegistry.add(
    name,
    source=source or seqio.TextLineDataSource({"train": f"{folder}/*.txt"}),
    preprocessors=[lambda ds: ds.map(pairs), *steps],
    output_features={"inputs": feature, "targets": feature},
    **options,
  )
  return name


@seqio.map_over_dataset(num_seeds=1)
def rotate(example, seed):
  ids = example["targets"]
  shift = tf.random.stateless_uniform([], seed, maxval=9, dtype=tf.int32)
  return {"inputs": tf.roll(ids, shift, 0), "targets": ids}


def without_short(dataset):
  return dataset.filter(lambda e: tf.strings.length(e["inputs"]) > 8)


def twice(dataset):
  return dataset.flat_map(
    lambda e: tf.data.Dataset.from_tensors(e).repeat(
      tf.cast(tf.strings.length(e["inputs"]) % 3, tf.int64)
    )
  )


def documents(dataset):
  return dataset.map(lambda e: {"text": e["inputs"]})


PLACEHOLDER = seqio.CacheDatasetPlaceholder()
STEPS = {
  "whole": [preprocessors.tokenize_pairs],
  "one by one": [seqio.preprocessors.tokenize],
  "random rest": [seqio.preprocessors.tokenize, rotate],
  "placeholder": [seqio.preprocessors.tokenize, PLACEHOLDER, rotate],
  "early placeholder": [PLACEHOLDER, preprocessors.tokenize_pairs, rotate],
  "dropped": [without_short, preprocessors.tokenize_pairs],
  "repeated": [twice, preprocessors.tokenize_pairs],
  "documents": [
    documents,
    preprocessors.tokenize_documents,
    preprocessors.span_corruption,
  ],
}


def make(name, **options):
  options = {
    "shuffle_buffer": 10,
    "num_shards": 2,
    "task_modules": (),
  } | options
  options = {"batch_size": 8} | options
  return datasets.Dataset(name, LENGTHS, **options)


def fill(name, **options):
  """Makes the caches of a task."""
  options = {"feature_lengths": LENGTHS, "task_modules": ()} | options
  return cache.cache(mixture=name, **options)


def assert_same(name, *, count=40, **options):
  """Both ways of reading give the same batches; one reads a cache."""
  options = {"num_epochs": None} | options
  with_cache = make(name, **options)
  without = make(name, use_cache=False, **options)
  assert with_cache.tables and not without.tables
  pairs_of_batches = itertools.zip_longest(
    itertools.islice(with_cache.iterator(), count),
    itertools.islice(without.iterator(), count),
  )
  for one, other in pairs_of_batches:
    for key in one.keys() | other.keys():
      assert np.array_equal(one[key], other[key]), key


def fast(fast, values):
  """The values as parameters, slow but for the fast ones."""
  return [
    v
    if v in fast
    else pytest.param(
      *(v if isinstance(v, tuple) else (v,)), marks=pytest.mark.slow
    )
    for v in values
  ]


@pytest.mark.parametrize(
  "kind", fast(("whole", "placeholder", "repeated", "documents"), STEPS)
)
def test_examples_and_their_order_are_those_of_the_task(corpora, kind):
  name = register(corpora[0], STEPS[kind])
  (table,) = fill(name).values()
  assert table.fitting.prefix.whole == (
    kind in ("whole", "one by one", "dropped", "repeated")
  )
  # Epochs end within batches of documents.
  assert_same(name, num_epochs=3 if kind == "documents" else None)


@pytest.mark.parametrize("num_shards", fast([4], [1, 4, 8]))
def test_shards_of_files_and_of_examples(corpora, num_shards):
  name = register(corpora[num_shards % 2], STEPS["whole"])
  fill(name)
  assert_same(name, num_shards=num_shards, shuffle=num_shards != 1, seed=3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", STEPS)
@pytest.mark.parametrize("num_shards", [1, 2, 4, 8])
@pytest.mark.parametrize("pack", [True, False])
def test_every_kind_in_every_layout(corpora, kind, num_shards, pack):
  for folder in corpora:
    name = register(folder, STEPS[kind])
    fill(name)
    options = {"num_shards": num_shards, "pack": pack}
    assert_same(name, **options, seed=3)
    assert_same(name, **options, num_epochs=2, shuffle=False)


def test_a_cut_feature_and_another_vocabulary(corpora):
  name = register(corpora[0], STEPS["one by one"])
  other = vocabularies.Bytes(extra_ids=7)
  fill(name, vocabulary=other)
  assert_same(name, vocabulary=other)
  # What a shorter row cuts is in the cache, for this task cuts nothing.
  short = {"feature_lengths": {"inputs": 5, "targets": 4}}
  dataset = datasets.Dataset(
    name, **short, batch_size=8, vocabulary=other, task_modules=()
  )
  assert dataset.tables
  batch = next(dataset.iterator())
  assert batch["inputs"].shape == (8, 5)
  assert not make(name).tables  # Bytes without more ids.


def test_a_mixture_of_cached_and_other_tasks(corpora):
  names = [register(folder, STEPS["whole"]) for folder in corpora]
  mixed = toy_data.mixture({names[0]: 0.7, names[1]: 0.3})
  fill(names[0])
  assert list(make(mixed).tables) == names[:1]
  assert_same(mixed)
  fill(names[1])
  assert list(make(mixed).tables) == sorted(names)
  assert_same(mixed, num_epochs=1)


@pytest.mark.slow
def test_a_mixture_of_all_kinds(corpora):
  names = [register(folder, STEPS["whole"]) for folder in corpora]
  names += [register(corpora[1], STEPS[kind]) for kind in ("random rest",)]
  for name in names:
    fill(name)
  assert_same(toy_data.mixture({names[0]: 1.0, names[1]: 2.0}))
  assert_same(toy_data.mixture(dict.fromkeys(names, 1.0)))


@pytest.mark.parametrize(
  "kind,before",
  fast(
    [("whole", False), ("documents", True)],
    itertools.product(("whole", "documents"), (True, False)),
  ),
)
def test_a_run_goes_on_with_the_way_it_read(tmp_path, corpora, kind, before):
  """A cache made or lost in between changes nothing."""
  name = register(corpora[0], STEPS[kind])
  if before:
    fill(name)
  iterator = make(name).iterator()
  for _ in range(7):
    next(iterator)
  iterator.save(tmp_path)
  expected = [next(iterator) for _ in range(12)]
  fill(name)
  again = make(name).iterator()
  again.restore(tmp_path)
  for batch in expected:
    found = next(again)
    assert all(np.array_equal(found[key], batch[key]) for key in batch)
  again.save(tmp_path / "later")
  saved = json.loads((tmp_path / "later" / "data.json").read_text())
  assert bool(saved["caches"]) == before
  if before:
    with pytest.raises(errors.CheckpointError, match="make it again"):
      make(name, use_cache=False).iterator().restore(tmp_path)


def test_a_source_without_files(corpora):
  texts = [f"{i} text" for i in range(30)]
  source = seqio.FunctionDataSource(
    lambda split, shuffle_files: tf.data.Dataset.from_tensor_slices(texts),
    splits=["train"],
  )
  name = register(None, STEPS["whole"], source=source)
  fill(name)
  assert_same(name)
  texts[29] = "another"  # Of the same length and number.
  assert not make(name).tables
  seeded = seqio.FunctionDataSource(
    lambda split, shuffle_files, seed=None: tf.data.Dataset.range(3), ["train"]
  )
  with pytest.raises(errors.ConfigError, match=r"order of FunctionDataSource"):
    fill(register(None, STEPS["whole"], source=seeded))


def test_what_does_not_fit_is_told_and_not_used(tmp_path, caplog):
  toy_data.write(tmp_path, toy_data.sentences(20), 2)
  name = register(tmp_path, STEPS["whole"])
  fill(name)

  def told(dataset):
    caplog.clear()
    with caplog.at_level(logging.INFO, "t5x_lite"):
      assert next(dataset.iterator())
    return caplog.text

  assert "is read from" in told(make(name))
  text = told(make(name, vocabulary=vocabularies.Bytes(extra_ids=3)))
  assert "has another vocabulary" in text
  shorter = datasets.Dataset(
    name, {"inputs": 9, "targets": 9}, batch_size=8, task_modules=()
  )
  assert "preprocessors, feature lengths" in told(shorter)
  path = tmp_path / "part-1.txt"
  stat = path.stat()
  path.write_text(path.read_text().replace("a", "b"))
  assert "has another source" in told(make(name))
  # Even where size and time are what they were.
  os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
  with pytest.raises(errors.DataError, match="gives other examples than"):
    make(name).iterator()
  assert next(make(name, use_cache=False).iterator())


def test_a_changed_step_is_another_cache(corpora):
  options = {"letter": "x"}

  def marked(dataset):
    letter = options["letter"]
    return dataset.map(lambda e: e | {"inputs": letter + e["inputs"]})

  name = register(corpora[0], [marked, *STEPS["whole"]])
  fill(name)
  assert make(name).tables
  options["letter"] = "y"
  assert not make(name).tables


@pytest.mark.parametrize("how", ["cut", "changed", "lost", "manifest"])
def test_a_damaged_file_is_named(corpora, how):
  name = register(corpora[0], STEPS["whole"])
  (table,) = fill(name).values()
  path = table.folder / ("manifest.json" if how == "manifest" else "inputs.bin")
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 16
  if how == "lost":
    path.unlink()
  else:
    path.write_bytes(data[:-9] if how in ("cut", "manifest") else data)
  from t5x_lite.pipelines import cached

  cached._verified.cache_clear()
  with pytest.raises(errors.DataError, match=f"{path.name}.*remove the folder"):
    make(name).iterator()
  with pytest.raises(errors.DataError, match=path.name):
    fill(name)


class Killed(BaseException):
  pass


@pytest.mark.parametrize("kind", fast(["whole"], ["whole", "repeated"]))
def test_interrupted_work_goes_on(corpora, monkeypatch, caplog, root, kind):
  name = register(corpora[0], STEPS[kind])
  whole = {}
  (table,) = fill(name).values()
  for path in table.folder.iterdir():
    whole[path.name] = path.read_bytes()
    path.unlink()
  table.folder.rmdir()
  monkeypatch.setattr(columns, "PART_EXAMPLES", 16)
  from t5x_lite.pipelines import materialize

  monkeypatch.setattr(materialize, "_BATCH", 8)
  add, added = columns.Writer.add, []

  def dying(self, piece):
    if len(added) == 2:
      raise Killed
    added.append(piece)
    add(self, piece)

  with monkeypatch.context() as patch:
    patch.setattr(columns.Writer, "add", dying)
    with pytest.raises(Killed):
      fill(name)
  assert not table.folder.exists()
  parts = sorted(root.rglob("part-*.npz"))
  assert len(parts) == 2
  parts[1].write_bytes(parts[1].read_bytes()[:-40])
  with caplog.at_level(logging.INFO, "t5x_lite"):
    fill(name)
  assert "part-000001.npz is damaged" in caplog.text
  assert "going on after 16 of 60 examples" in caplog.text
  for path in table.folder.iterdir():
    if path.name != columns.MANIFEST:
      assert path.read_bytes() == whole[path.name], path
  assert not list(root.rglob("*.parts"))
  assert_same(name)


def test_what_cannot_be_cached_says_why(corpora):
  def shuffled(dataset):
    return dataset.shuffle(9, seed=1)

  name = register(corpora[0], [shuffled, *STEPS["whole"]])
  with pytest.raises(errors.ConfigError, match=r"step 2, 'shuffled', does "):
    fill(name)

  def random(dataset):
    return dataset.map(
      lambda e: e | {"inputs": tf.strings.as_string(tf.random.uniform([]))}
    )

  name = register(corpora[0], [random, *STEPS["whole"]])
  with pytest.raises(errors.ConfigError, match="'random', is random or has"):
    fill(name)

  def reads_text(dataset):
    return dataset.map(
      lambda e: {k: e[k][: tf.strings.length(e["text"])] for k in LENGTHS}
    )

  def keeps(dataset):
    return dataset.map(lambda e: e | {"text": e["inputs"]})

  name = register(
    corpora[0],
    [keeps, seqio.preprocessors.tokenize, shuffled, reads_text],
  )
  with pytest.raises(errors.ConfigError, match=r"step 5, 'reads_text'.*'text'"):
    fill(name)
  assert next(make(name, num_epochs=1).iterator())


def test_a_mixture_is_cached_as_far_as_it_can_be(corpora, capsys):
  good = register(corpora[0], STEPS["whole"])
  bad = register(
    corpora[1], [lambda ds: ds.shuffle(3, seed=1), *STEPS["whole"]]
  )
  mixed = toy_data.mixture({good: 1, bad: 1})
  shown = fill(mixed, dry_run=True) or capsys.readouterr().out
  assert "would be made" in shown and "'tokenize_pairs' done ahead" in shown
  assert list(fill(mixed)) == [f"{good}/train"]
  assert f"left as it is: nothing of task {bad!r}" in capsys.readouterr().out
  assert_same(mixed)
