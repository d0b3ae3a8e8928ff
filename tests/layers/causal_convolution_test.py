"""The convolution against its definition, and cut where examples begin."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from t5x_lite import errors, layers
from tests import tiny

BATCH, LENGTH, CHANNELS = 3, 11, 5


def make(width=4, **kwargs):
  return tiny.fill(
    functools.partial(
      layers.CausalConvolution, (CHANNELS,), ("mlp",), width=width, **kwargs
    )
  )


def inputs(seed=0):
  rng = np.random.default_rng(seed)
  return rng.standard_normal((BATCH, LENGTH, CHANNELS), np.float32)


@jax.jit
def run(module, x, resets, state=None):
  return module(x, resets, state)


def expected(module, x):
  """numpy.convolve of a single example [T C]."""
  kernel = np.float64(module.kernel[...])
  columns = [
    np.convolve(column, kernel[::-1, channel])[: len(x)]
    for channel, column in enumerate(np.float64(x).T)
  ]
  bias = 0.0 if module.bias is None else np.float64(module.bias[...])
  return np.stack(columns, axis=1) + bias


def starts(*places):
  resets = np.zeros((BATCH, LENGTH), bool)
  for place in places:
    resets[:, place] = True
  return resets


@pytest.mark.parametrize("width", [1, 2, 4, 13])
@pytest.mark.parametrize("use_bias", [True, False])
def test_definition(width, use_bias):
  module, x = make(width, use_bias=use_bias), inputs()
  y, _ = run(module, x, starts(0))
  for row in range(BATCH):
    np.testing.assert_allclose(y[row], expected(module, x[row]), atol=1e-5)


@pytest.mark.parametrize("width", [2, 4, 13])
def test_examples_in_a_row_do_not_see_each_other(width):
  module, x = make(width), inputs()
  cuts = (0, 1, 5, 6, LENGTH)
  y, _ = run(module, x, starts(*cuts[:-1]))
  for start, stop in itertools.pairwise(cuts):
    part = expected(module, x[1, start:stop])
    np.testing.assert_allclose(y[1, start:stop], part, atol=1e-5)


@pytest.mark.parametrize("begin", [0, 2, 6, 8])
def test_pieces_are_the_whole(begin):
  """Pieces of any length, also where an example began in one before."""
  module, x = make(), inputs()
  resets = starts(0, begin)
  whole, last = run(module, x, resets)
  state, parts = module.init_state(BATCH, "float32"), []
  for start, stop in ((0, 3), (3, 4), (4, 5), (5, 7), (7, LENGTH)):
    part = slice(start, stop)
    y, state = run(module, x[:, part], resets[:, part], state)
    parts.append(y)
  np.testing.assert_allclose(np.concatenate(parts, 1), whole, atol=1e-6)
  np.testing.assert_array_equal(state, last)
  # What began before the last example is forgotten.
  kept = min(LENGTH - begin, 3)
  assert (np.asarray(state) != 0).sum() == BATCH * kept * CHANNELS


def test_what_precedes_an_example_has_no_gradient():
  module, x = make(), inputs()
  resets = starts(0, 6)

  def output(x, token):
    return jnp.sum(module(x, resets)[0][:, token])

  before, own = (jax.grad(output)(x, token) for token in (5, 7))
  assert set(np.flatnonzero(np.abs(before[0]).sum(-1))) == {2, 3, 4, 5}
  assert set(np.flatnonzero(np.abs(own[0]).sum(-1))) == {6, 7}


def test_sums_are_of_float32_and_states_keep_their_dtype():
  module, x = make(), jnp.asarray(inputs(), jnp.bfloat16)
  state = module.init_state(BATCH, "float32")
  y, state = run(module, x, starts(0), state)
  assert (y.dtype, state.dtype) == (jnp.bfloat16, jnp.float32)
  exact = expected(module, np.asarray(x[0], np.float32))
  rounded = np.asarray(jnp.asarray(exact, jnp.bfloat16), np.float32)
  error = np.abs(np.asarray(y[0], np.float32) - rounded)
  assert (error <= 2.0**-7 * np.abs(rounded) + 1e-6).all()


def test_no_taps_are_refused():
  with pytest.raises(errors.ConfigError, match="1 tap at least"):
    layers.CausalConvolution((2,), (None,), width=0, rngs=nnx.Rngs(0))
