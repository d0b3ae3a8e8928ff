"""Tests of packing: nothing lost, nothing doubled, little padding."""

import numpy as np
import pytest

from t5x_lite import bin_packing, packing


def _examples(rng, lengths, *, first=1):
  """Returns examples whose tokens are unique from `first` on, per feature.

  `lengths` maps features to the lengths of all examples.
  """
  examples = {}
  for name, column in lengths.items():
    column = np.asarray(column, np.int32)
    tokens = np.arange(first, first + column.sum(), dtype=np.int32)
    examples[name] = packing.Ragged(tokens, column)
  return examples


def _sequences(ragged):
  ends = np.cumsum(ragged.lengths)
  return [
    tuple(ragged.tokens[end - length : end].tolist())
    for end, length in zip(ends, ragged.lengths, strict=True)
  ]


def _expected(parts, names):
  """Returns the set of (tokens of feature, ...) over all examples."""
  found = []
  for part in parts:
    columns = [_sequences(part[name]) for name in names]
    found += [e for e in zip(*columns, strict=True) if any(e)]
  return sorted(found)


def _unpack(batch, names):
  """Reads the examples back, slowly and row by row; checks the padding."""
  found = []
  num_rows = len(batch[names[0]])
  for row in range(num_rows):
    segments = {name: batch[f"{name}_segment_ids"][row] for name in names}
    last = max(int(ids.max()) for ids in segments.values())
    for segment in range(1, last + 1):
      example = []
      for name in names:
        where = np.flatnonzero(segments[name] == segment)
        # One run of places, positions from 0 on.
        assert np.array_equal(
          where, np.arange(len(where)) + min(where, default=0)
        )
        positions = batch[f"{name}_positions"][row][where]
        assert positions.tolist() == list(range(len(where)))
        example.append(tuple(batch[name][row][where].tolist()))
      assert any(example)
      found.append(tuple(example))
    for name in names:
      padding = segments[name] == 0
      assert not batch[name][row][padding].any()
      assert not batch[f"{name}_positions"][row][padding].any()
      used = int((~padding).sum())
      assert not padding[:used].any()  # Padding is at the end only.
      # Segments stand in order, so that a mask may compare neighbours.
      assert (np.diff(segments[name][:used]) >= 0).all()
  return sorted(found)


def _pack_all(packer, parts):
  """Feeds all parts; returns all rows as one batch."""
  batches = []
  for part in parts:
    packer.add(part)
    while not packer.hungry:
      packer.lay_out()
    batches.append(packer.take(3))
  while packer.num_tokens:
    packer.lay_out()
  batches.append(packer.take(10**6))
  assert packer.num_ready == packer.num_tokens == 0
  return {
    key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]
  }


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("seed", range(8))
def test_no_token_is_lost_or_doubled(seed, pack):
  rng = np.random.default_rng(seed)
  limits = {"inputs": int(rng.integers(1, 40)), "targets": 17}
  parts, first = [], 1
  for _ in range(rng.integers(1, 6)):
    count = rng.integers(0, 50)
    lengths = {
      name: rng.integers(0, limit + 1, count) for name, limit in limits.items()
    }
    parts.append(_examples(rng, lengths, first=first))
    first += 10**5
  packer = packing.Packer(limits, pack=pack)
  batch = _pack_all(packer, parts)
  assert {value.dtype for value in batch.values()} == {np.dtype(np.int32)}
  assert set(batch) == {
    name + suffix
    for name in limits
    for suffix in ("", "_segment_ids", "_positions")
  }
  for name, limit in limits.items():
    assert batch[name].shape[1] == limit
  expected = _expected(parts, list(limits))
  assert _unpack(batch, list(limits)) == expected
  if not pack:
    assert len(batch["inputs"]) == len(expected)
    assert batch["inputs_segment_ids"].max(initial=0) <= 1


def test_the_whole_of_one_layout():
  packer = packing.Packer({"inputs": 5, "targets": 4})
  packer.add(
    {
      "inputs": packing.Ragged(np.array([7, 8, 9], np.int32), np.array([2, 1])),
      "targets": packing.Ragged(np.array([5, 6], np.int32), np.array([0, 2])),
    }
  )
  packer.lay_out()
  batch = packer.take(9)
  assert {key: value.tolist() for key, value in batch.items()} == {
    "inputs": [[7, 8, 9, 0, 0]],
    "inputs_segment_ids": [[1, 1, 2, 0, 0]],
    "inputs_positions": [[0, 1, 0, 0, 0]],
    "targets": [[5, 6, 0, 0]],
    "targets_segment_ids": [[2, 2, 0, 0]],
    "targets_positions": [[0, 1, 0, 0]],
  }


def test_a_token_of_id_0_is_not_padding():
  packer = packing.Packer({"targets": 4}, pack=False)
  packer.add({"targets": packing.Ragged(np.zeros(3, np.int32), np.array([3]))})
  packer.lay_out()
  assert packer.take(1)["targets_segment_ids"].tolist() == [[1, 1, 1, 0]]


@pytest.mark.parametrize("pack", [True, False])
def test_state_goes_on_where_it_was(pack):
  rng = np.random.default_rng(0)
  limits = {"inputs": 30, "targets": 12}
  parts = [
    _examples(
      rng,
      {name: rng.integers(1, limit + 1, 40) for name, limit in limits.items()},
      first=1 + index * 10**5,
    )
    for index in range(8)
  ]
  one, other = packing.Packer(limits, pack=pack), None
  for index, part in enumerate(parts):
    if index == 4:
      other = packing.Packer(limits, pack=pack)
      other.restore(one.state())
    for packer in filter(None, (one, other)):
      packer.add(part)
      if not packer.hungry:
        packer.lay_out()
    taken = one.take(2)
    if other is not None:
      again = other.take(2)
      assert again.keys() == taken.keys()
      for key, value in taken.items():
        assert np.array_equal(again[key], value)
  left, again = one.state(), other.state()
  assert left.keys() == again.keys()
  assert sum(len(value) for value in left.values()) > 0
  for key, value in left.items():
    assert np.array_equal(again[key], value)


@pytest.mark.parametrize(
  ("low", "high", "limit"),
  [(5, 60, 0.01), (20, 300, 0.02), (1, 513, 0.05), (100, 300, 0.05)],
)
def test_padding_is_small(low, high, limit):
  rng = np.random.default_rng(0)
  lengths = rng.integers(low, high, 4000)
  packer = packing.Packer({"targets": 512})
  parts = [_examples(rng, {"targets": part}) for part in np.split(lengths, 40)]
  batch = _pack_all(packer, parts)
  assert (batch["targets_segment_ids"] == 0).mean() < limit


def test_no_example_waits_forever():
  """One that fits badly still goes out while better ones keep coming."""
  rng = np.random.default_rng(0)
  packer = packing.Packer({"targets": 512})
  awkward = 300  # Nothing of 256 or 512 fills up its row.
  packer.add(_examples(rng, {"targets": [awkward]}, first=10**6))
  for _ in range(40):
    packer.add(_examples(rng, {"targets": [256, 512] * 8}))
    while not packer.hungry:
      packer.lay_out()
    if (packer.take(100)["targets"] == 10**6).any():
      return
  pytest.fail("the first example is still waiting")


def test_a_sequence_longer_than_its_row_is_refused():
  packer = packing.Packer({"targets": 4})
  with pytest.raises(ValueError, match="targets: 5 tokens in rows of 4"):
    packer.add({"targets": packing.Ragged(np.ones(5, np.int32), np.array([5]))})


def test_best_fit_takes_pairs_that_fill_the_row():
  # The longest that fits beside 5 is 4, but 3 and 2 leave nothing.
  rows = bin_packing.best_fit(np.array([[5], [4], [3], [2]]), [10], 1)
  assert rows == [[0, 2, 3]]


def test_best_fit_keeps_within_every_feature():
  lengths = np.array([[3, 1], [3, 9], [3, 1], [3, 9]])
  for row in bin_packing.best_fit(lengths, [6, 10], 4):
    assert (lengths[row].sum(axis=0) <= [6, 10]).all()
