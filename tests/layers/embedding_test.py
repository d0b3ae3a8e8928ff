"""Token embeddings, tied and untied logits."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from t5x_lite import layers


def random(shape, seed=0):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_rows_are_taken_unscaled_and_cast():
  embedding = layers.Embedding(10, 6, rngs=nnx.Rngs(0))
  table = np.asarray(embedding.tokens[...])
  tokens = jnp.asarray([[0, 9, 3]])
  np.testing.assert_array_equal(
    embedding(tokens, "float32"), table[np.asarray(tokens)]
  )
  assert embedding(tokens, "bfloat16").dtype == jnp.bfloat16


@pytest.mark.parametrize(
  "dtype, tolerance", [("float32", 1e-5), ("bfloat16", 0.2)]
)
@pytest.mark.parametrize("tied", [False, True])
def test_logits_are_float32_and_only_tied_ones_are_scaled(
  tied, dtype, tolerance
):
  x = jnp.asarray(random((2, 3, 16)))
  if tied:
    embedding = layers.Embedding(10, 16, rngs=nnx.Rngs(0))
    logits = embedding.attend(x.astype(dtype))
    expected = x @ embedding.tokens[...].T / 4
  else:
    head = layers.LogitsHead(10, 16, rngs=nnx.Rngs(0))
    logits = head(x.astype(dtype))
    expected = x @ head.kernel[...]
  assert logits.dtype == jnp.float32
  np.testing.assert_allclose(logits, expected, atol=tolerance)
