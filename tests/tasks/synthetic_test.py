"""Selective copying and induction heads: rows that are what they claim."""

import itertools

import numpy as np
import pytest

from t5x_lite import datasets, errors
from tasks import synthetic, synthetic_rows

COPYING = synthetic.SelectiveCopying(length=24, tokens=5, vocab_size=8)
INDUCTION = synthetic.InductionHeads(length=12, vocab_size=6)


def dataset(task, **settings):
  lengths = dict.fromkeys(("inputs", "labels"), task.length)
  given = {"task_modules": (), "pack": False, "num_shards": 2} | settings
  return datasets.Dataset(task, lengths, 64, **given)


def batches(task, count=4, **settings):
  """So many batches as one, `inputs` and `labels` [N L]."""
  found = list(itertools.islice(dataset(task, **settings).iterator(), count))
  names = ("inputs", "labels")
  for batch in found:
    assert batch["inputs_segment_ids"].all()  # rows are full
  return tuple(np.concatenate([b[name] for b in found]) for name in names)


def test_selective_copying_solved_by_hand():
  inputs, labels = batches(COPYING)
  assert inputs.shape == labels.shape == (256, 24)
  marker = COPYING.vocab_size - 1
  for row, label in zip(inputs, labels, strict=True):
    text = row[:-5]
    answers = text[text != synthetic.NOISE]
    assert len(answers) == 5 and marker not in answers
    assert (row[-5:] == marker).all()
    assert label.tolist() == [0] * 19 + (answers + 1).tolist()


def test_selective_copying_draws_all_tokens_and_places_alike():
  inputs, _ = batches(COPYING, count=32)
  text = inputs[:, :-5]
  places = (text != 0).mean(axis=0)
  np.testing.assert_allclose(places, 5 / 19, atol=0.05)
  shares = np.bincount(text[text != 0], minlength=8)[1:7] / (5 * len(text))
  np.testing.assert_allclose(shares, 1 / 6, atol=0.02)


def test_induction_heads_solved_by_hand():
  inputs, labels = batches(INDUCTION)
  special = INDUCTION.vocab_size - 1
  for row, label in zip(inputs, labels, strict=True):
    first, last = np.flatnonzero(row == special)
    assert last == 11 and first <= 9
    assert label.tolist() == [0] * 11 + [row[first + 1] + 1]


def test_induction_heads_draw_all_tokens_and_places_alike():
  inputs, labels = batches(INDUCTION, count=32)
  first = (inputs == 5).argmax(axis=1)
  shares = np.bincount(first, minlength=10) / len(first)
  np.testing.assert_allclose(shares, 0.1, atol=0.03)
  answers = np.bincount(labels[:, -1], minlength=6)[1:] / len(labels)
  np.testing.assert_allclose(answers, 0.2, atol=0.04)


def test_the_shortest_rows():
  inputs, labels = batches(synthetic.InductionHeads(length=3, vocab_size=3))
  assert (inputs[:, ::2] == 2).all() and (
    inputs[:, 1] + 1 == labels[:, 2]
  ).all()
  task = synthetic.SelectiveCopying(length=4, tokens=2, vocab_size=4)
  inputs, labels = batches(task)
  assert (inputs[:, :2] + 1 == labels[:, 2:]).all() and (
    inputs[:, 2:] == 3
  ).all()


@pytest.mark.parametrize("task", [COPYING, INDUCTION])
def test_rows_are_those_of_the_seed_and_no_two_alike(task):
  first, again, other = (batches(task, seed=seed)[0] for seed in (0, 0, 1))
  assert np.array_equal(first, again)
  rows = {tuple(row) for row in np.concatenate([first, other])}
  # Of 5 ** 10 or more rows, 512 hardly hold one twice: shards have their own.
  assert len(rows) >= 511


def test_validation_has_no_row_of_training():
  settings = {"shuffle": False, "num_epochs": 1, "seed": 0}
  train, held_out = (
    batches(COPYING, split=split, **settings)[0]
    for split in ("train", "validation")
  )
  assert not {*map(tuple, train)} & {*map(tuple, held_out)}


def test_every_epoch_has_rows_of_its_own(monkeypatch):
  monkeypatch.setitem(synthetic_rows._EXAMPLES, "train", 64)
  task = synthetic.SelectiveCopying(length=25, tokens=5, vocab_size=8)
  inputs, _ = batches(task, count=3, shuffle=False)
  assert len({*map(tuple, inputs)}) == 3 * 64


def test_the_stream_goes_on_where_it_stopped(tmp_path):
  iterator = dataset(COPYING).iterator()
  next(iterator)
  iterator.save(tmp_path)
  expected = [next(iterator)["inputs"] for _ in range(2)]
  other = dataset(COPYING).iterator()
  other.restore(tmp_path)
  for batch in expected:
    assert np.array_equal(next(other)["inputs"], batch)


def test_metrics():
  targets = [[-1, 3, 4], [-1, 5, 6]]
  found = synthetic_rows.accuracy(targets, [[9, 3, 4], [0, 5, 1]])
  assert found == {"accuracy": 75.0, "all_right": 50.0}
  with pytest.raises(ValueError, match="zip"):
    synthetic_rows.accuracy(targets, [[1, 2, 3]])


@pytest.mark.parametrize(
  "make, settings, message",
  [
    ("SelectiveCopying", {"tokens": 0}, "tokens is 0; use 1 or more"),
    ("SelectiveCopying", {"length": 31}, "need 32 or more: raise it, or lower"),
    ("SelectiveCopying", {"vocab_size": 3}, "vocab_size is 3; use 4 or more"),
    ("InductionHeads", {"length": 2}, "length is 2; use 3 or more"),
    ("InductionHeads", {"vocab_size": 2}, "vocab_size is 2; use 3 or more"),
  ],
)
def test_settings_that_make_no_sense(make, settings, message):
  with pytest.raises(errors.ConfigError, match=message):
    getattr(synthetic, make)(**settings)
