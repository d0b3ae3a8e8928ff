"""RMSNorm against float64."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from t5x_lite import layers


def naive(x, scale):
  x = np.asarray(x, np.float64)
  return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-6) * scale


@pytest.mark.parametrize("size", [1e-4, 1.0, 1e4])
def test_equals_the_definition_in_float64(size):
  rng = np.random.default_rng(0)
  norm = layers.RMSNorm(24, rngs=nnx.Rngs(0))
  scale = rng.standard_normal(24).astype(np.float32)
  norm.scale = norm.scale.replace(jnp.asarray(scale))
  x = (size * rng.standard_normal((3, 5, 24))).astype(np.float32)
  np.testing.assert_allclose(norm(x), naive(x, scale), rtol=1e-5, atol=1e-6)


def test_statistics_are_float32_in_bfloat16():
  # The sum of 4096 squares of 1 stands still at 256 in bfloat16.
  norm = layers.RMSNorm(4096, rngs=nnx.Rngs(0))
  y = norm(jnp.ones((1, 1, 4096), jnp.bfloat16))
  assert y.dtype == jnp.bfloat16
  np.testing.assert_allclose(y.astype(jnp.float32), 1.0, rtol=1e-2)


def test_zeros_stay_zeros():
  norm = layers.RMSNorm(4, rngs=nnx.Rngs(0))
  np.testing.assert_array_equal(norm(jnp.zeros((1, 1, 4))), 0.0)
