"""Rows that go on: every token once, in its place, wherever a run stops."""

import itertools

import numpy as np
import pytest

from t5x_lite import datasets, errors, packing, pieces
from tests import toy_data

LENGTH, ROWS = 8, 3


def examples(count, seed=0, longest=50):
  """Examples whose tokens tell all of them apart, some of them empty."""
  lengths = np.random.default_rng(seed).integers(0, longest, count)
  tokens = np.arange(1, lengths.sum() + 1)
  return packing.Ragged(tokens.astype(np.int32), lengths.astype(np.int32))


def batches(packer, parts, count=None):
  """Feeds the parts as they are wanted; yields batches to the end."""
  parts = list(parts)
  while count is None or count > 0:
    while packer.hungry and parts:
      packer.add({"targets": parts.pop(0)})
    if not packer.num_tokens:
      return
    packer.lay_out()
    assert packer.num_ready == ROWS
    yield packer.take(ROWS)
    count = None if count is None else count - 1


def made():
  return pieces.Pieces({"targets": LENGTH}, ROWS)


def streams(found):
  """Arrays by name, the rows of all batches one after the other."""
  return {
    key: np.concatenate([batch[key] for batch in found], axis=1)
    for key in found[0]
  }


def test_every_example_lies_whole_in_one_row():
  parts = [examples(5, seed) for seed in range(4)]
  for index, part in enumerate(parts):
    part.tokens[...] += 1000 * index
  found = streams(list(batches(made(), parts)))
  tokens, positions = found["targets"], found["targets_positions"]
  texts = []
  for row in range(ROWS):
    real = found["targets_segment_ids"][row] != 0
    assert not real[np.argmin(real) :].any() or real.all()  # then padding
    assert not tokens[row][~real].any()
    starts = np.flatnonzero(positions[row][real] == 0)
    parts_of_row = np.split(tokens[row][real], starts)
    assert not len(parts_of_row[0])
    for text in parts_of_row[1:]:
      texts.append(text.tolist())
    counted = np.concatenate([np.arange(len(t)) for t in parts_of_row])
    assert np.array_equal(positions[row][real], counted)
  expected = []
  for part in parts:
    ends = np.cumsum(part.lengths)
    for end, length in zip(ends, part.lengths, strict=True):
      expected.append(part.tokens[end - length : end].tolist())
  assert sorted(texts) == sorted(text for text in expected if text)


def test_segments_count_up_in_a_row_and_change_with_the_example():
  most = 0
  for batch in batches(made(), [examples(40, longest=6)]):
    segments, positions = (
      batch[f"targets_{name}"] for name in ("segment_ids", "positions")
    )
    begins = (positions == 0) & (segments != 0)
    first = (segments != 0)[:, :1]
    counted = np.cumsum(begins[:, 1:], axis=1) + 1
    counted = np.concatenate([first, counted], axis=1)
    assert np.array_equal(segments, np.where(segments == 0, 0, counted))
    most = max(most, segments.max())
  assert most > 2


def test_the_token_before_a_row_is_that_of_its_example():
  found = list(batches(made(), [examples(20)]))
  assert not found[0]["targets_before"].any()
  for one, other in itertools.pairwise(found):
    goes_on = other["targets_positions"][:, 0] > 0
    expected = np.where(goes_on, one["targets"][:, -1], 0)
    assert np.array_equal(other["targets_before"][:, 0], expected)
  assert any(batch["targets_before"].any() for batch in found)


@pytest.mark.parametrize("steps", [0, 1, 4, 9])
def test_goes_on_where_its_state_was_taken(steps):
  one, other = made(), made()
  list(batches(one, [examples(60)], steps))
  state = {k: np.copy(v) for k, v in one.state().items()}
  other.restore(state)
  rest = [examples(20, 1)]
  found, expected = (list(batches(packer, rest)) for packer in (other, one))
  assert len(found) == len(expected) > 5
  for batch, same in zip(found, expected, strict=True):
    for key, value in same.items():
      assert np.array_equal(batch[key], value), key


def test_a_batch_that_is_ready_is_part_of_the_state():
  one, other = made(), made()
  one.add({"targets": examples(60)})
  one.lay_out()
  other.restore(one.state())
  assert other.num_ready == ROWS
  assert np.array_equal(one.take(ROWS)["targets"], other.take(ROWS)["targets"])
  assert other.num_ready == 0
  assert other.take(ROWS)["targets"].shape == (0, LENGTH)
  one.lay_out()
  with pytest.raises(ValueError, match="2 rows of 3"):
    one.take(2)


@pytest.fixture(scope="module")
def task(tmp_path_factory):
  """40 texts of up to 130 bytes, each beginning with its number."""
  folder = tmp_path_factory.mktemp("long")
  rng = np.random.default_rng(0)
  texts = [f"{i:02}:" + "abcdefg" * rng.integers(1, 18) for i in range(40)]
  toy_data.write(folder, texts, 4)
  return toy_data.task(folder, features=("targets",)), texts


def dataset(task, **options):
  settings = {"document_length": 200, "num_shards": 2, "task_modules": ()}
  settings |= {"shuffle_buffer": 5}
  return datasets.Dataset(task, {"targets": 16}, 4, **settings | options)


def rows_of(found):
  """The texts of each row, read through all batches."""
  stream = streams(found)
  texts = []
  for row in range(len(stream["targets"])):
    real = stream["targets_segment_ids"][row] != 0
    starts = np.flatnonzero(stream["targets_positions"][row][real] == 0)
    for part in np.split(stream["targets"][row][real], starts)[1:]:
      texts.append(bytes((part - 3).tolist()).decode())
  return texts


def test_an_epoch_holds_every_document_once_and_whole(task):
  name, texts = task
  for length in (200, 50):
    data = dataset(name, num_epochs=1, document_length=length)
    expected = sorted(text[:length] for text in texts)
    assert sorted(rows_of(list(data.iterator()))) == expected


def test_a_run_of_two_hosts_reads_the_same_and_goes_on(task, tmp_path):
  data = dataset(task[0])
  iterator = data.iterator()
  expected = [next(iterator) for _ in range(12)]
  hosts = [data.iterator(host_index=i, num_hosts=2) for i in range(2)]
  for _ in range(5):
    for host in hosts:
      next(host)
  for host in hosts:
    host.save(tmp_path)
  again = data.iterator()
  again.restore(tmp_path)
  for batch in expected[5:]:
    parts = [next(host) for host in hosts]
    alone = next(again)
    for key, value in batch.items():
      assert np.array_equal(alone[key], value), key
      both = np.concatenate([part[key] for part in parts])
      assert np.array_equal(both, value), key


def test_the_fingerprint_of_other_datasets_stays_as_it_was(task):
  long, plain = dataset(task[0]), dataset(task[0], document_length=None)
  assert long.fingerprint() == plain.fingerprint() | {"document_length": 200}
  assert "document_length" not in plain.fingerprint()


def test_data_go_on_where_the_objective_does():
  plain = dataset("any", document_length=None, shuffle_buffer=None)
  assert pieces.going_on(plain, None) is plain
  long = pieces.going_on(plain, 300)
  assert (long.document_length, long.shuffle_buffer) == (300, 100)
  assert pieces.going_on(dataset("any"), 200).shuffle_buffer == 5
  for length in (None, 300):
    with pytest.raises(errors.ConfigError, match="is 200 but the objective"):
      pieces.going_on(dataset("any"), length)


def test_what_does_not_go_on_is_refused():
  with pytest.raises(errors.ConfigError, match="document_length is 0"):
    dataset("any", document_length=0)
  with pytest.raises(errors.ConfigError, match="for packed rows"):
    dataset("any", pack=False)
  with pytest.raises(errors.ConfigError, match="one feature.*inputs, targets"):
    pieces.Pieces({"inputs": 8, "targets": 8}, 2)


def test_long_documents_are_read_a_few_at_a_time():
  assert pieces.examples_of_chunk(128, None) == 128
  assert pieces.examples_of_chunk(128, 512) == 128
  assert pieces.examples_of_chunk(128, 65536) == 4
  assert pieces.examples_of_chunk(128, 10**6) == 1
