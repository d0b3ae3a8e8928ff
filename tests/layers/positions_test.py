"""Positions: T5's buckets by the paper's rule, ALiBi, sines, tables."""

import bisect
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import pallas_kernels
from pallas_kernels.attention import relative
from t5x_lite import errors, layers
from t5x_lite.layers import positions

# Where each bucket after the exact ones begins, worked out by hand:
# exact (max_distance / exact) ^ (i / n) for i of the n buckets, rounded up.
BEGINNINGS = {
  # 16 a side, 8 exact: 8 * 16 ^ (i / 8) = 8, 11.3, 16, 22.6, 32, 45.3, ...
  (32, 128, True): [8, 12, 16, 23, 32, 46, 64, 91],
  # 32, 16 exact: 16 * 8 ^ (i / 16) = 16, 18.2, 20.7, 23.6, 26.9, 30.6, ...
  (32, 128, False): [
    *(16, 19, 21, 24, 27, 31, 35, 40),
    *(46, 52, 59, 67, 77, 87, 99, 113),
  ],
  # 8 a side, 4 exact: 4 * 16 ^ (i / 4).
  (16, 64, True): [4, 8, 16, 32],
  # 16, 8 exact: 8 * 8 ^ (i / 8) = 8, 10.4, 13.5, 17.4, 22.6, 29.3, 38.1, 49.4.
  (16, 64, False): [8, 11, 14, 18, 23, 30, 39, 50],
  # 4 a side, 2 exact: 2, 2 * 5 ^ 0.5.
  (8, 10, True): [2, 5],
  # 8, 4 exact: 4 * 2.5 ^ (i / 4) = 4, 5.03, 6.3, 7.95.
  (8, 10, False): [4, 6, 7, 8],
}


def expected(distance, buckets, max_distance, bidirectional):
  """The bucket of key - query, counted out one distance at a time."""
  beginnings = BEGINNINGS[buckets, max_distance, bidirectional]
  side = buckets // 2 if bidirectional else buckets
  away = abs(distance) if bidirectional else max(-distance, 0)
  exact = side // 2
  bucket = away if away < exact else exact - 1
  bucket += bisect.bisect_right(beginnings, away)
  return bucket + (side if bidirectional and distance > 0 else 0)


@pytest.mark.parametrize("rule", BEGINNINGS)
def test_buckets_follow_the_rule(rule):
  limit = rule[1]
  table = relative.bucket_of_distance(*rule)
  assert table.shape == (2 * limit + 1,)
  for distance in range(-limit, limit + 1):
    assert table[distance + limit] == expected(distance, *rule), distance
  # The ends stand for all that lies beyond them.
  assert table[0] == expected(-1000, *rule)
  assert table[-1] == expected(1000, *rule)


def make(rule=(8, 10, True), heads=3):
  buckets, max_distance, bidirectional = rule
  return layers.RelativeBias(
    heads=heads,
    buckets=buckets,
    max_distance=max_distance,
    bidirectional=bidirectional,
    rngs=nnx.Rngs(0),
  )


def whole(bias, q_length, k_length, start=0):
  """Bias [1 N T S] of the layer."""
  result = bias(q_length, k_length, start)
  if isinstance(result, pallas_kernels.RelativeBias):
    return result.whole(q_length, k_length, start)
  return result


def naive(bias, q_length, k_length, start=0):
  """Bias [1 N T S] by a gather for each pair of positions."""
  rule = bias.buckets, bias.max_distance, bias.bidirectional
  bucket = np.array(
    [
      [expected(s - t - start, *rule) for s in range(k_length)]
      for t in range(q_length)
    ]
  )
  return jnp.take(bias.table[...], bucket, axis=0).transpose(2, 0, 1)[None]


@pytest.mark.parametrize("rule", [(8, 10, True), (8, 10, False)])
@pytest.mark.parametrize(
  "lengths", [(1, 1), (7, 7), (30, 30), (5, 23), (23, 5)]
)
def test_bias_equals_a_gather_of_every_pair(rule, lengths):
  bias = make(rule)
  result = jax.jit(lambda b: whole(b, *lengths))(bias)
  np.testing.assert_allclose(result, naive(bias, *lengths), rtol=1e-6)


def test_gradient_equals_that_of_the_gather():
  bias = make()
  weights = jax.random.normal(jax.random.key(1), (1, 3, 9, 14))
  ours = jax.grad(lambda b: jnp.sum(whole(b, 9, 14) * weights))(bias)
  theirs = jax.grad(lambda b: jnp.sum(naive(b, 9, 14) * weights))(bias)
  np.testing.assert_allclose(ours.table[...], theirs.table[...], rtol=1e-5)


@pytest.mark.parametrize("rule", [(8, 10, True), (8, 10, False)])
def test_a_traced_start_moves_the_queries(rule):
  bias = make(rule)
  full = naive(bias, 20, 20)
  step = jax.jit(lambda b, start: whole(b, 1, 20, start))
  for start in (0, 3, 19):
    row = full[:, :, start : start + 1]
    np.testing.assert_allclose(step(bias, start), row, rtol=1e-6)
  later = jax.jit(lambda b, start: whole(b, 4, 20, start))(bias, 11)
  np.testing.assert_allclose(later, full[:, :, 11:15], rtol=1e-6)


@pytest.mark.parametrize("rows, length", [(1, 1), (1, 6), (6, 6), (4, 9)])
def test_diagonals_spread_values(rows, length):
  values = np.arange(2 * length).reshape(2, length)
  result = relative.diagonals(jnp.asarray(values), rows)
  for n, t, s in np.ndindex(result.shape):
    assert result[n, t, s] == values[n, s - t + rows - 1]
  assert result.shape == (2, rows, length - rows + 1)


@pytest.mark.parametrize("rule", [(2, 128, True), (32, 8, True), (1, 9, False)])
def test_buckets_that_make_no_sense_are_refused(rule):
  with pytest.raises(errors.ConfigError, match="buckets"):
    make(rule)


# From the paper: 8 heads have 1/2, 1/4, ... 1/256; for 12, the authors' code
# adds the 1st, 3rd, 5th and 7th of the slopes of 16, 2^-0.5, 2^-1, 2^-1.5, ....
EIGHT = [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256]
SLOPES = {
  1: [1 / 256],
  2: [1 / 16, 1 / 256],
  8: EIGHT,
  12: [*EIGHT, 2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5],
}


@pytest.mark.parametrize("heads", SLOPES)
def test_alibi_slopes_are_the_published_ones(heads):
  slopes = positions.alibi_slopes(heads)
  np.testing.assert_allclose(slopes, SLOPES[heads], rtol=1e-12)


def test_alibi_spelled_out():
  alibi = layers.Alibi(heads=2, rngs=nnx.Rngs(0))
  assert jax.tree.leaves(alibi) == []
  bias = alibi(3, 3)
  assert bias.shape == (1, 2, 3, 3)
  away = np.array([[0, 1, 2], [1, 0, 1], [2, 1, 0]])
  np.testing.assert_allclose(bias[0, 0], -away / 16)
  np.testing.assert_allclose(bias[0, 1], -away / 256)
  step = jax.jit(lambda start: alibi(1, 3, start))
  np.testing.assert_allclose(step(2)[0, 0, 0], [-2 / 16, -1 / 16, 0])


def test_sinusoidal_positions_equal_the_formula():
  layer = layers.SinusoidalPositions(6, base=100.0, rngs=nnx.Rngs(0))
  assert jax.tree.leaves(layer) == []
  where = [0, 1, 5, 1000]
  rows = layer(jnp.asarray([where]), "float32")
  for row, position in zip(rows[0], where, strict=True):
    for i in range(3):
      angle = position / 100 ** (2 * i / 6)
      expected = math.sin(angle), math.cos(angle)
      np.testing.assert_allclose(row[2 * i : 2 * i + 2], expected, atol=1e-4)
  assert layer(jnp.asarray([where]), "bfloat16").dtype == jnp.bfloat16
  layer.check(10**9)  # there is no longest row


def test_sinusoidal_positions_of_an_odd_width_are_refused():
  with pytest.raises(errors.ConfigError, match="even dim: 7"):
    layers.SinusoidalPositions(7, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("offset", [0, 2])
def test_learned_positions_are_rows_after_the_offset(offset):
  layer = layers.LearnedPositions(4, length=5, offset=offset, rngs=nnx.Rngs(0))
  table = np.asarray(layer.table[...])
  assert table.shape == (5 + offset, 4)
  rows = layer(jnp.asarray([[0, 4, 4]]), "float32")
  np.testing.assert_array_equal(
    rows[0], table[[offset, 4 + offset, 4 + offset]]
  )


def test_rows_longer_than_the_learned_positions_are_refused():
  layer = layers.LearnedPositions(4, length=5, offset=2, rngs=nnx.Rngs(0))
  layer.check(5)
  message = "rows of 6 tokens, but the model has 5 learned positions"
  with pytest.raises(errors.ConfigError, match=message):
    layer(jnp.zeros((1, 6), jnp.int32), "float32")
  with pytest.raises(errors.ConfigError, match=message):
    layer.check(6)
