"""Linear attention against its definition, a sum over all pairs of tokens."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite import errors, layers
from t5x_lite.layers import linear_attention
from tests import tiny

ROWS, LENGTH, DIM, HEADS, HEAD_DIM = 3, 23, 12, 3, 5
# Two examples and padding; one; three that meet in the middle of a chunk.
SEGMENTS = np.array(
  [
    [1] * 9 + [2] * 10 + [0] * 4,
    [1] * 23,
    [1] * 3 + [2] * 4 + [3] * 16,
  ],
  np.int32,
)


def positions_of(segments):
  """Counted from the beginning of each example; padding is at 0."""
  begins = np.diff(segments, axis=1, prepend=-1) != 0
  index = np.arange(segments.shape[1])
  positions = index - np.maximum.accumulate(np.where(begins, index, 0), axis=1)
  return np.where(segments == 0, 0, positions).astype(np.int32)


def layer_of(**arguments):
  arguments = {"use_bias": True, "chunk": 4} | arguments
  return tiny.fill(
    functools.partial(
      layers.LinearAttention,
      DIM,
      heads=HEADS,
      head_dim=HEAD_DIM,
      **arguments,
    )
  )


def inputs(length=LENGTH, dtype=np.float32):
  shape = (ROWS, length, DIM)
  return np.random.default_rng(0).standard_normal(shape).astype(dtype)


def context(segments=None, length=LENGTH):
  if segments is not None:
    positions = positions_of(segments)
    return layers.Context(jnp.asarray(positions), jnp.asarray(segments))
  return layers.Context(jnp.broadcast_to(jnp.arange(length), (ROWS, length)))


@jax.jit
def run(layer, x, ctx, state=None):
  return layer(x, ctx, state)


def definition(layer, x, segments, causal):
  """Equation 4, pair by pair, in float64."""

  def apply(einsum, x):
    kernel, bias = (np.float64(p[...]) for p in (einsum.kernel, einsum.bias))
    return np.einsum(einsum.equation, x, kernel) + bias

  x = np.float64(x)
  q, k = (apply(e, x) for e in (layer.query, layer.key))
  q, k = (np.where(y > 0, y + 1, np.exp(y)) for y in (q, k))
  weights = np.einsum("btnh,bsnh->bnts", q, k)
  mask = segments[:, :, None] == segments[:, None]
  if causal:
    mask = mask & np.tri(x.shape[1], dtype=bool)
  weights = weights * mask[:, None]
  weights /= weights.sum(axis=-1, keepdims=True) + 1e-6
  y = np.einsum("bnts,bsnh->btnh", weights, apply(layer.value, x))
  return apply(layer.out, y)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("packed", [True, False])
def test_it_is_the_definition(causal, packed):
  layer = layer_of(causal=causal)
  segments = SEGMENTS if packed else np.ones_like(SEGMENTS)
  ctx = context(SEGMENTS if packed else None)
  y, state = run(layer, inputs(), ctx)
  assert state is None
  expected = definition(layer, inputs(), segments, causal)
  real = segments != 0
  np.testing.assert_allclose(y[real], expected[real], atol=2e-5)
  assert np.isfinite(y).all()  # The rest is of padding.


@pytest.mark.parametrize("causal", [True, False])
def test_it_is_the_definition_in_double_precision(causal):
  layer = layer_of(causal=causal)
  with jax.enable_x64(True):
    x = jnp.asarray(inputs(dtype=np.float64))
    assert x.dtype == jnp.float64
    y = np.asarray(run(layer, x, context(SEGMENTS))[0])
  expected = definition(layer, inputs(dtype=np.float64), SEGMENTS, causal)
  real = SEGMENTS != 0
  np.testing.assert_allclose(y[real], expected[real], atol=1e-12)


def test_both_ways_is_the_same_with_one_segment_as_with_none():
  layer = layer_of()
  one = run(layer, inputs(), context(np.ones_like(SEGMENTS)))[0]
  np.testing.assert_allclose(one, run(layer, inputs(), context())[0], atol=1e-5)


def test_a_token_sees_what_it_should():
  """Which inputs the output at a place depends on."""

  @jax.jit
  def gradient(layer, x, ctx, place):
    def f(x):
      return jnp.sum(layer(x, ctx)[0][:, place] ** 2)

    return jax.grad(f)(x)

  def seen(causal, segments, place):
    found = gradient(
      layer_of(causal=causal), inputs(), context(segments), place
    )
    return np.abs(found).max(axis=(0, 2)) > 0

  row = np.broadcast_to(SEGMENTS[0], SEGMENTS.shape)
  index = np.arange(LENGTH)
  in_first, in_second = index < 9, (index >= 9) & (index < 19)
  np.testing.assert_array_equal(seen(False, row, 5), in_first)
  np.testing.assert_array_equal(seen(False, row, 12), in_second)
  np.testing.assert_array_equal(seen(True, row, 5), index <= 5)
  expected = in_second & (index <= 12)
  np.testing.assert_array_equal(seen(True, row, 12), expected)


@pytest.mark.parametrize("pieces", [(1,) * 23, (10, 1, 1, 11)])
def test_pieces_with_a_state_are_one_pass(pieces):
  layer = layer_of(causal=True)
  expected = run(layer, inputs(), context())[0]
  whole, state, found, start = context(), None, [], 0
  state = layer.init_state(ROWS, LENGTH, "float32", whole)
  shape = (ROWS, HEADS, HEAD_DIM, HEAD_DIM + 1)
  for size in pieces:
    stop = start + size
    ctx = layers.Context(whole.positions[:, start:stop])
    y, state = run(layer, inputs()[:, start:stop], ctx, state)
    assert (state.shape, state.dtype) == (shape, jnp.float32)
    found.append(y)
    start = stop
  np.testing.assert_allclose(
    jnp.concatenate(found, axis=1), expected, atol=2e-5
  )


def test_activations_of_bfloat16_have_a_state_of_float32():
  layer = layer_of(causal=True)
  x = jnp.asarray(inputs(), jnp.bfloat16)
  state = layer.init_state(ROWS, LENGTH, "bfloat16", context())
  y, state = run(layer, x, context(), state)
  assert (y.dtype, state.dtype) == (jnp.bfloat16, jnp.float32)
  expected = definition(layer, inputs(), np.ones_like(SEGMENTS), True)
  np.testing.assert_allclose(np.float32(y), expected, atol=0.06)


def test_features_keep_their_digits_where_they_are_small():
  x = jnp.array([-80.0, -30.0, -1.0, 0.0, 2.0])
  expected = [np.exp(-80.0), np.exp(-30.0), np.exp(-1.0), 1.0, 3.0]
  features = linear_attention.elu_plus_one(x)
  np.testing.assert_allclose(features, expected, rtol=1e-5)
  slopes = jax.grad(lambda x: linear_attention.elu_plus_one(x).sum())(x)
  np.testing.assert_allclose(slopes, [*expected[:3], 1.0, 1.0], rtol=1e-5)


def test_what_cannot_be_is_refused():
  both_ways = layer_of(causal=False)
  with pytest.raises(errors.ConfigError, match="causal = True"):
    both_ways.init_state(ROWS, LENGTH, "float32", context())
  prefix = layers.Context(
    context().positions, prefix=jnp.ones((ROWS, LENGTH), bool)
  )
  with pytest.raises(errors.ConfigError, match="BIDIRECTIONAL = False"):
    layer_of(causal=True)(inputs(), prefix)
