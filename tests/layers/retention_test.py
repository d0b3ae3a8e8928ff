"""Retention against its parallel form, and what its decays are."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from t5x_lite import errors, layers
from tests import tiny

ROWS, LENGTH, DIM, HEADS, HEAD_DIM, VALUE_DIM = 2, 21, 12, 3, 4, 6
SEGMENTS = np.array([[1] * 8 + [2] * 9 + [0] * 4, [1] * 21], np.int32)
POSITIONS = np.array([[*range(8), *range(9), 0, 0, 0, 0], range(21)], np.int32)
ROTARY = functools.partial(layers.Rotary, base=50.0)
DECAYS = [layers.FixedDecay, layers.GatedDecay]
EPSILON = 1e-6


def layer_of(decay=layers.FixedDecay, rotary=ROTARY):
  return tiny.fill(
    functools.partial(
      layers.Retention,
      DIM,
      heads=HEADS,
      head_dim=HEAD_DIM,
      value_dim=VALUE_DIM,
      decay=decay,
      rotary=rotary,
      epsilon=EPSILON,
      chunk=4,
    )
  )


@jax.jit
def run(layer, x, ctx, state=None):
  return layer(x, ctx, state)


def inputs():
  shape = (ROWS, LENGTH, DIM)
  return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def counted(start=0, length=LENGTH):
  positions = jnp.arange(start, start + length, dtype=jnp.int32)
  return layers.Context(jnp.broadcast_to(positions, (ROWS, length)))


def turned(x, positions):
  """Rotary positions by complex numbers: features i and i + H / 2 are one."""
  first, second = np.split(x, 2, axis=-1)
  angles = positions[:, :, None] * 50.0 ** -(np.arange(0, 4, 2) / 4)
  z = (first + 1j * second) * np.exp(1j * angles)[:, :, None]
  return np.concatenate([z.real, z.imag], axis=-1)


def definition(layer, x, positions, segments):
  """Equations 5 to 8, pair by pair, in float64."""

  def apply(einsum, x):
    return np.einsum(einsum.equation, x, np.float64(einsum.kernel[...]))

  def sigmoid(x):
    return 1 / (1 + np.exp(-x))

  x = np.float64(x)
  q = turned(apply(layer.query, x), positions)
  k = turned(apply(layer.key, x), positions) / np.sqrt(HEAD_DIM)
  if isinstance(layer.decay, layers.FixedDecay):
    gamma = np.broadcast_to([31 / 32, 63 / 64, 127 / 128], (*x.shape[:2], 3))
  else:
    gamma = sigmoid(apply(layer.decay.gate, x)) ** (1 / 16)
  y = np.zeros((ROWS, LENGTH, HEADS, VALUE_DIM))
  v = apply(layer.value, x)
  for b, t, n in np.ndindex(ROWS, LENGTH, HEADS):
    decay = 1.0
    for s in range(t, -1, -1):
      if segments[b, s] != segments[b, t]:
        break
      y[b, t, n] += decay * (q[b, t, n] @ k[b, s, n]) * v[b, s, n]
      decay *= gamma[b, s, n]
  y -= y.mean(axis=-1, keepdims=True)
  y /= np.sqrt(y.var(axis=-1, keepdims=True) + EPSILON)
  gate = apply(layer.gate, x)
  return apply(layer.out, gate * sigmoid(gate) * y)


@pytest.mark.parametrize("decay", DECAYS)
def test_it_is_the_definition(decay):
  layer = layer_of(decay)
  ctx = layers.Context(jnp.asarray(POSITIONS), jnp.asarray(SEGMENTS))
  y, state = run(layer, inputs(), ctx)
  assert state is None
  expected = definition(layer, inputs(), POSITIONS, SEGMENTS)
  real = SEGMENTS != 0
  np.testing.assert_allclose(y[real], expected[real], atol=5e-5)
  assert np.isfinite(y).all()  # The rest is of padding.


@pytest.mark.parametrize("decay", DECAYS)
def test_pieces_with_a_state_are_one_pass(decay):
  layer, x = layer_of(decay), inputs()
  expected = run(layer, x, counted())[0]
  state, found, start = None, [], 0
  state = layer.init_state(ROWS, LENGTH, "float32", counted())
  for size in (9, 1, 1, 1, 9):
    piece = x[:, start : start + size]
    y, state = run(layer, piece, counted(start, size), state)
    assert state.shape == (ROWS, HEADS, HEAD_DIM, VALUE_DIM)
    found.append(y)
    start += size
  found = jnp.concatenate(found, axis=1)
  np.testing.assert_allclose(found, expected, atol=2e-5)


def test_only_distances_matter():
  layer = layer_of()
  state = layer.init_state(ROWS, LENGTH, "float32", counted())
  near = run(layer, inputs(), counted(1), state)[0]
  far = run(layer, inputs(), counted(1000), state)[0]
  np.testing.assert_allclose(near, far, atol=2e-4)
  without = run(layer_of(rotary=None), inputs(), counted(1), state)[0]
  assert np.abs(near - without).max() > 0.1


def test_fixed_decays_are_those_of_the_paper():
  x = jnp.zeros((2, 3, DIM))
  log_decay = layers.FixedDecay(DIM, 4, rngs=nnx.Rngs(0))(x)
  assert log_decay.shape == (2, 3, 4)
  expected = [1 - 1 / 32, 1 - 1 / 64, 1 - 1 / 128, 1 - 1 / 256]
  np.testing.assert_allclose(np.exp(log_decay[1, 2]), expected, rtol=1e-6)
  first = layers.FixedDecay(DIM, 1, first=1.0, rngs=nnx.Rngs(0))
  np.testing.assert_allclose(np.exp(first(x)), 0.5, rtol=1e-6)
  # No decay at all would be a sum without bounds.
  many = layers.FixedDecay(DIM, 32, rngs=nnx.Rngs(0))(x)
  assert (np.asarray(many) < 0).all()


def test_a_gate_that_is_shut_forgets_and_an_open_one_does_not():
  layer = layer_of(layers.GatedDecay)
  kernel = layer.decay.gate.kernel

  def with_gates(size):
    """Every gate is `size` times the token's first feature."""
    value = jnp.zeros_like(kernel[...]).at[0].set(size)
    kernels = nnx.Param(value, axes=kernel.get_metadata("axes"))
    return jax.tree.map(
      lambda x: kernels if x is kernel else x,
      layer,
      is_leaf=lambda x: x is kernel,
    )

  x = inputs()
  x[:, :, 0] = 1.0
  before = x.copy()
  before[:, 3] += 1.0
  before[:, :, 0] = 1.0

  def influence(size):
    """Of token 3 upon the last."""
    y, other = (run(with_gates(size), z, counted())[0] for z in (x, before))
    return np.abs(y - other)[:, -1].max()

  assert influence(20.0) > 1e-2
  assert influence(-100.0) < 1e-6


def test_what_cannot_be_is_refused():
  prefix = layers.Context(
    counted().positions, prefix=jnp.ones((ROWS, LENGTH), bool)
  )
  with pytest.raises(errors.ConfigError, match="BIDIRECTIONAL = False"):
    layer_of()(inputs(), prefix)
  with pytest.raises(errors.ConfigError, match="'swisch'"):
    layers.Retention(
      DIM, heads=2, head_dim=4, activation="swisch", rngs=nnx.Rngs(0)
    )
