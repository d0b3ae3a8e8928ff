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


def test_bfloat16_is_rounded_once_at_the_end():
  rng = np.random.default_rng(0)
  norm = layers.RMSNorm(512, rngs=nnx.Rngs(0))
  scale = 1 + rng.random(512).astype(np.float32)
  norm.scale = norm.scale.replace(jnp.asarray(scale))
  x = jnp.asarray(rng.standard_normal((2, 8, 512)), jnp.bfloat16)
  y = norm(x)
  assert y.dtype == jnp.bfloat16
  expected = naive(x.astype(jnp.float32), scale)
  np.testing.assert_allclose(y.astype(jnp.float32), expected, rtol=2.0**-7.99)


def test_zeros_stay_zeros():
  norm = layers.RMSNorm(4, rngs=nnx.Rngs(0))
  np.testing.assert_array_equal(norm(jnp.zeros((1, 1, 4))), 0.0)
