"""Two mixers that read a row from both ends, each example by itself."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite import errors, layers
from tests import tiny

DIM, LENGTH = 8, 13
SEGMENTS = np.array([[1] * 6 + [2] * 5 + [0] * 2], np.int32)
POSITIONS = np.array([[*range(6), *range(5), 0, 0]], np.int32)
MIXER = functools.partial(
  layers.Retention, heads=2, head_dim=4, rotary=layers.Rotary, chunk=4
)


def layer_of(mixer=MIXER):
  return tiny.fill(functools.partial(layers.Bidirectional, DIM, mixer=mixer))


@jax.jit
def run(layer, x, ctx):
  return layer(x, ctx)[0]


def inputs(length=LENGTH):
  x = np.random.default_rng(0).standard_normal((1, LENGTH, DIM))
  return x.astype(np.float32)[:, :length]


def alone(length):
  return layers.Context(jnp.arange(length, dtype=jnp.int32)[None])


def packed():
  return layers.Context(jnp.asarray(POSITIONS), jnp.asarray(SEGMENTS))


def test_it_is_the_sum_of_both_ways():
  layer, x = layer_of(), inputs()
  forward = run(layer.forward, x, alone(LENGTH))
  backward = run(layer.backward, x[:, ::-1], alone(LENGTH))[:, ::-1]
  found = run(layer, x, alone(LENGTH))
  np.testing.assert_allclose(found, forward + backward, atol=1e-5)
  assert np.abs(forward - backward).max() > 0.1


@pytest.mark.parametrize("name", ["retention", "linear_attention"])
def test_packed_examples_are_those_alone(name):
  causal = functools.partial(
    layers.LinearAttention, heads=2, head_dim=4, causal=True, chunk=4
  )
  layer = layer_of(MIXER if name == "retention" else causal)
  x = inputs()
  together = run(layer, x, packed())
  for start, stop in ((0, 6), (6, 11)):
    expected = run(layer, x[:, start:stop], alone(stop - start))
    found = together[:, start:stop]
    np.testing.assert_allclose(found, expected, atol=1e-5)
  # What stands in the padding changes nothing else.
  x[:, 11:] += 1.0
  np.testing.assert_array_equal(
    run(layer, x, packed())[:, :11], together[:, :11]
  )


def test_decoding_is_refused():
  with pytest.raises(errors.ConfigError, match="use Retention alone"):
    layer_of().init_state(1, LENGTH, "float32", alone(LENGTH))
