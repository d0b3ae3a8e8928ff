"""Span corruption of rows: counts, randomness, and no token lost."""

import collections

import numpy as np
import pytest
import tensorflow as tf

from t5x_lite import errors
from tasks import corruption

FIRST = 999  # The first sentinel.


def _seed(number):
  return tf.constant([number, 7], tf.int64)


def _rows(flat, lengths):
  """Returns what lies one after the other as rows [R W], zero at their ends."""
  return tf.RaggedTensor.from_row_lengths(flat, lengths).to_tensor().numpy()


def _draw(kind, lengths, seed=0, **kwargs):
  lengths = tf.constant(lengths, tf.int32)
  mask = getattr(corruption, kind)(lengths, _seed(seed), **kwargs)
  return _rows(mask, lengths)


def _mask(lengths, seed=0, **kwargs):
  return _draw("random_spans_mask", lengths, seed, **kwargs)


def _spans(row):
  """Returns the lengths of the runs of True."""
  edges = np.flatnonzero(np.diff(np.concatenate([[0], row, [0]])))
  return list(edges[1::2] - edges[::2])


@pytest.mark.parametrize(
  "inputs, mean_span, expected",
  [(512, 3.0, (568, 114)), (1024, 3.0, (1137, 229)), (1024, 20.0, (1193, 189))],
)
def test_lengths_of_t5_umt5_and_byt5(inputs, mean_span, expected):
  raw, targets = corruption.raw_length(inputs, mean_span=mean_span)
  assert (raw, targets) == expected
  assert corruption.corrupted_lengths(raw, 0.15, mean_span)[0] <= inputs
  assert corruption.corrupted_lengths(raw + 1, 0.15, mean_span)[0] > inputs


def test_every_row_has_the_noise_and_spans_of_its_length():
  lengths = [*range(2, 200), 568, 3, 100]
  for density, mean_span in ((0.15, 3.0), (0.5, 3.0), (0.9, 2.0), (0.3, 1.0)):
    masks = _mask(lengths, density=density, mean_span=mean_span)
    for length, row in zip(lengths, masks, strict=True):
      noise, spans = corruption.span_counts(length, density, mean_span)
      assert row.sum() == noise and len(_spans(row)) == spans, length
      assert not row[0] and row[length - 1] and not row[length:].any()


def test_all_ways_to_place_the_spans_are_equally_likely():
  # 4 noise tokens in 2 spans, 4 others in 2 gaps: 3 x 3 masks.
  masks = _mask([8] * 9000, density=0.5, mean_span=2.0)
  counts = collections.Counter(row.tobytes() for row in masks)
  assert len(counts) == 9
  assert max(abs(count - 1000) for count in counts.values()) < 5 * 30


def test_density_and_mean_span_over_seeds():
  masks = np.concatenate([_mask([568] * 20, seed) for seed in range(10)])
  assert masks.mean() == 85 / 568
  spans = [span for row in masks for span in _spans(row)]
  assert np.mean(spans) == 85 / 28
  assert np.std(spans) > 1.5  # Lengths vary as widely as random cuts do.
  # No place but the first and the last is favoured.
  share = masks[:, 20:-20].mean(axis=0)
  assert abs(share - 0.15).max() < 6 * (0.15 * 0.85 / 200) ** 0.5


def test_iid_noise_has_its_density_and_geometric_spans():
  masks = _draw("iid_mask", [500] * 400, 1, density=0.2)
  assert masks.mean() == pytest.approx(0.2, abs=0.005)
  spans = [span for row in masks for span in _spans(row)]
  assert np.mean(spans) == pytest.approx(1 / 0.8, abs=0.01)


@pytest.mark.parametrize("kind", ["random_spans_mask", "iid_mask"])
def test_a_seed_decides_and_rows_differ(kind):
  first, again = (_draw(kind, [100] * 50, 3) for _ in range(2))
  np.testing.assert_array_equal(first, again)
  assert len({row.tobytes() for row in first}) == 50
  other = _draw(kind, [100] * 50, 4)
  assert not (first == other).all(axis=1).any()


def test_noise_stops_where_it_would_no_longer_fit():
  # The second row goes on where the first ends, and is counted by itself.
  rows = [[0, 1, 1, 0, 1, 0, 1, 1], [1, 0, 1]]
  noise = tf.constant(rows[0] + rows[1]) > 0

  def limit(sentinels, targets):
    limited = corruption.limit_noise(
      noise, tf.constant([8, 3]), sentinels=sentinels, targets_length=targets
    )
    found = limited.numpy().astype(int).tolist()
    return found[:8], found[8:]

  assert limit(9, 99) == (rows[0], rows[1])
  assert limit(2, 99) == ([0, 1, 1, 0, 1, 0, 0, 0], rows[1])
  assert limit(1, 99) == ([0, 1, 1, 0, 0, 0, 0, 0], [1, 0, 0])
  # Three sentinels, five noise tokens and EOS are nine.
  assert limit(9, 9) == (rows[0], rows[1])
  assert limit(9, 8) == ([0, 1, 1, 0, 1, 0, 1, 0], rows[1])
  assert limit(9, 7) == ([0, 1, 1, 0, 1, 0, 0, 0], rows[1])


def test_iid_rows_seldom_need_the_limit():
  for inputs, targets in ((512, 192), (512, 114), (100, 50)):
    raw = corruption.iid_raw_length(inputs, targets)
    assert raw < inputs
    lengths = tf.fill([4000], raw)
    mask = corruption.iid_mask(lengths, _seed(5))
    limited = corruption.limit_noise(
      mask, lengths, sentinels=1000, targets_length=targets
    )
    cut = _rows(mask != limited, lengths).any(axis=1).mean()
    assert cut < 0.005
  assert corruption.iid_raw_length(512, 192) == 511
  # Three deviations to spare, not thirty.
  assert corruption.iid_raw_length(512, 114) > 0.65 * 114 / 0.2775


def test_corruption_of_a_sentence():
  # Thank you for inviting me to your party last week
  # ... and two rows that end and begin with noise.
  tokens = tf.constant([*range(10, 20), 20, 21, 22, 23])
  noise = tf.constant([0, 0, 1, 1, 0, 0, 0, 0, 1, 0, 0, 1, 1, 0])
  result = corruption.corrupt(
    tokens,
    tf.constant([10, 2, 2]),
    noise > 0,
    first_sentinel=FIRST,
    inputs_eos=1,
    targets_eos=1,
  )
  assert result["inputs"].to_list() == [
    [10, 11, FIRST, 14, 15, 16, 17, FIRST - 1, 19, 1],
    [20, FIRST, 1],
    [FIRST, 23, 1],
  ]
  assert result["targets"].to_list() == [
    [FIRST, 12, 13, FIRST - 1, 18, 1],
    [FIRST, 21, 1],
    [FIRST, 22, 1],
  ]


@pytest.mark.parametrize("kind", ["random_spans_mask", "iid_mask"])
def test_inputs_and_targets_together_are_the_text(kind):
  rng = np.random.default_rng(0)
  lengths = rng.integers(2, 300, size=60).astype(np.int32)
  tokens = rng.integers(3, 900, size=lengths.sum()).astype(np.int32)
  noise = getattr(corruption, kind)(tf.constant(lengths), _seed(2))
  result = corruption.corrupt(tokens, lengths, noise, first_sentinel=FIRST)
  originals = np.split(tokens, np.cumsum(lengths)[:-1])
  for row in range(60):
    inputs = result["inputs"][row].numpy()
    targets = result["targets"][row].numpy()
    sentinels = targets[targets > 900]
    expected = FIRST - np.arange(len(sentinels))
    np.testing.assert_array_equal(sentinels, expected)
    np.testing.assert_array_equal(inputs[inputs > 900], expected)
    np.testing.assert_array_equal(restore(inputs, targets, 900), originals[row])


def test_no_rows_give_no_rows():
  empty = tf.zeros([0], tf.int32)
  for noise in (
    corruption.random_spans_mask(empty, _seed(0)),
    corruption.iid_mask(empty, _seed(0)),
  ):
    limited = corruption.limit_noise(
      noise, empty, sentinels=9, targets_length=9
    )
    result = corruption.corrupt(
      empty, empty, limited, first_sentinel=FIRST, inputs_eos=1
    )
    assert result["inputs"].to_list() == result["targets"].to_list() == []


def restore(inputs, targets, lowest_sentinel):
  """Puts the spans of the targets back into the inputs."""
  spans = {}
  for token in targets:
    if token > lowest_sentinel:
      spans[token] = []
      span = spans[token]
    else:
      span.append(token)
  text = []
  for token in inputs:
    text.extend(spans.pop(token) if token > lowest_sentinel else [token])
  assert not spans
  return text


@pytest.mark.parametrize(
  "call, match",
  [
    (lambda: corruption.raw_length(2), "3 or more"),
    (lambda: corruption.raw_length(512, 1.5), "between 0 and 1"),
    (lambda: corruption.raw_length(512, 0.15, 0.5), "at least 1"),
    (lambda: corruption.iid_raw_length(512, 2), "targets 2"),
  ],
)
def test_impossible_settings_are_refused(call, match):
  with pytest.raises(errors.ConfigError, match=match):
    call()
