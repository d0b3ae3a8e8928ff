"""The ways to run S4 and S4D agree, and with the definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite.layers import s4_kernels
from tests import tiny
from tests.layers.s4_layers import (
  DIM,
  LAYERS,
  context,
  definition,
  gradients,
  inputs,
  largest,
  make,
  packed,
  run,
)


def default(names, *others):
  """These, and others that wait for the slow tests."""
  slow = [pytest.param(name, marks=pytest.mark.slow) for name in others]
  return pytest.mark.parametrize("name", [*names, *slow])


@default(["s4_legs", "s4_fout", "s4d_lin"], "s4_legt", "s4d_inv", "s4d_legs")
def test_all_modes_are_the_definition(name):
  x = inputs()
  expected = definition(make(name), x)
  assert expected.std() > 0.1
  for mode in s4_kernels.MODES:
    found = run(make(name, mode=mode), x, context())[0]
    np.testing.assert_allclose(found, expected, atol=1e-4, err_msg=mode)


@default(["s4_fout"], "s4d_inv", "s4_legs", "s4_legt")
def test_all_modes_are_the_definition_in_float64(name):
  with jax.enable_x64(True):
    x = inputs(jnp.float64)
    expected = definition(make(name), x)
    for mode in s4_kernels.MODES:
      found = run(make(name, mode=mode), x, context())[0]
      assert found.dtype == jnp.float64
      np.testing.assert_allclose(found, expected, atol=1e-9, err_msg=mode)


@default(["s4_legs"], "s4_legt", "s4_fout", "s4d_lin", "s4d_inv", "s4d_legs")
def test_modes_agree_at_the_size_and_length_of_a_real_layer(name):
  """A state of 64 and 1,000 steps: Cauchy kernels are computed in two parts.

  Within 1e-4 of the largest output: the highest frequencies turn some thousand
  times before they fade, which costs float32 as many units in the last place.
  """
  x, ctx = inputs(length=1000), context(1000)
  found = {
    mode: np.asarray(run(make(name, state_dim=64, mode=mode), x, ctx)[0])
    for mode in ("recurrent", "convolution", "blocks")
  }
  atol = 1e-4 * np.abs(found["recurrent"]).max()
  for mode, y in found.items():
    np.testing.assert_allclose(y, found["recurrent"], atol=atol, err_msg=mode)


@default(["s4d_lin"], "s4_legs")
def test_modes_agree_in_their_gradients(name):
  expected = gradients(make(name, mode="convolution"), inputs(), context())
  for leaf in jax.tree.leaves(expected):
    assert np.abs(leaf).max() > 1e-3
  found = gradients(make(name), inputs(), context())
  tiny.assert_close(found, expected, rtol=1e-3, atol=2e-3)
  if name == "s4d_lin":
    expected = gradients(make(name, mode="recurrent"), inputs(), packed())
    found = gradients(make(name), inputs(), packed())
    tiny.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYERS)
def test_all_modes_agree_in_all_gradients(name):
  atol = 2e-2 if name in ("s4_legt", "s4_fout") else 2e-3
  for ctx in (context(), packed()):
    expected = gradients(make(name, mode="recurrent"), inputs(), ctx)
    for mode in s4_kernels.MODES:
      if mode != "convolution" or ctx.segments is None:
        found = gradients(make(name, mode=mode), inputs(), ctx)
        tiny.assert_close(found, expected, rtol=2e-3, atol=atol)


def test_a_long_row_never_has_all_of_its_states_in_memory():
  """Neither forward nor backward: the largest array is that of a block's."""
  length, state_dim = 8192, 32
  x, ctx = inputs(length=length, rows=1), context(length, 1)
  states = length * DIM * state_dim
  for name in ("s4_legs", "s4d_lin"):
    for mode in ("convolution", "blocks", "associative"):
      layer = make(name, mode=mode, state_dim=state_dim, block=64)
      jaxpr = jax.make_jaxpr(gradients)(layer, x, ctx).jaxpr
      assert largest(jaxpr) <= states / 4, (name, mode)
  # The measure sees them where they are.
  layer = make("s4d_lin", mode="associative", state_dim=32, block=length)
  assert largest(jax.make_jaxpr(gradients)(layer, x, ctx).jaxpr) >= states
