"""Blocks and stacks: wiring, dropout, and what must change nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from t5x_lite import errors, layers
from tests import tiny


class Add(nnx.Module):
  """A sublayer that adds a constant and counts its calls in its state."""

  def __init__(self, dim, *, amount, rngs):
    init = jax.nn.initializers.constant(amount)
    self.amount = layers.param(rngs, (dim,), ("embed",), init)

  def init_state(self, batch_size, length, dtype, ctx):
    return jnp.zeros((), jnp.int32)

  def __call__(self, x, ctx, state=None):
    y = jnp.broadcast_to(self.amount[...], x.shape)
    return y, None if state is None else state + 1


class Keep(nnx.Module):
  """A norm that does nothing."""

  def __init__(self, dim, *, rngs):
    pass

  def __call__(self, x):
    return x


def context(shape, key=None):
  return layers.Context(jnp.zeros(shape, jnp.int32), key=key)


def adding(num_layers=3, **kwargs):
  """A stack of layers that add 1 and 10."""
  amounts = {
    "one": tiny.partial(Add, amount=1.0),
    "ten": tiny.partial(Add, amount=10.0),
  }
  residual = tiny.partial(layers.PreNorm, norm=Keep, **kwargs)
  block = tiny.partial(layers.Block, sublayers=amounts, residual=residual)
  return layers.Stack(
    4, num_layers=num_layers, block=block, final_norm=None, rngs=nnx.Rngs(0)
  )


def test_sublayers_are_residual_and_every_layer_has_states():
  stack = adding()
  x = jnp.ones((2, 5, 4))
  state = stack.init_state(2, 5, "float32", context((2, 5)))
  y, state = stack(x, context((2, 5)), state)
  np.testing.assert_array_equal(y, x + 3 * 11)
  assert state == ({"one": 1, "ten": 1},) * 3
  _, state = stack(x, context((2, 5)), state)
  assert state == ({"one": 2, "ten": 2},) * 3
  assert stack(x, context((2, 5)))[1] is None


def test_every_sublayer_of_every_layer_draws_its_own_dropout():
  # What is added tells which sublayers of which layer were kept.
  stack = adding(num_layers=2, dropout=0.5)
  x = jnp.zeros((64, 64, 4))
  y, _ = stack(x, context((64, 64), jax.random.key(0)))
  added = np.asarray(y) / 2  # kept values are doubled
  values, counts = np.unique(added, return_counts=True)
  np.testing.assert_array_equal(values, [0, 1, 2, 10, 11, 12, 20, 21, 22])
  share = dict(zip(values, counts / added.size, strict=True))
  for value in values:
    ways = (2 if value % 10 == 1 else 1) * (2 if value // 10 == 1 else 1)
    assert abs(share[value] - ways / 16) < 0.01, value


def test_the_input_and_the_output_of_a_stack_are_dropped_too():
  # 1 goes in; what comes out is (1 or 0) * 2, plus 11 a layer, times (1 or 0)
  # times 2.
  stack = adding(num_layers=1)
  stack.dropout = stack.output_dropout = 0.5
  x = jnp.ones((64, 64, 4))
  y, _ = stack(x, context((64, 64), jax.random.key(0)))
  values, counts = np.unique(np.asarray(y), return_counts=True)
  np.testing.assert_array_equal(values, [0, 22, 26])
  np.testing.assert_allclose(counts / y.size, [0.5, 0.25, 0.25], atol=0.02)


@pytest.fixture(scope="module")
def reference():
  """Loss, gradients and arguments of a stack of three layers."""
  key = jax.random.key(2, impl="rbg")  # compiles faster
  model = tiny.fill(tiny.t5(encoder_layers=3, decoder_layers=3, dropout=0.3))
  x = jax.random.normal(jax.random.key(1), (2, 6, 16))
  segments = jnp.asarray([[1, 1, 1, 2, 2, 2], [1, 1, 1, 1, 0, 0]])
  ctx = layers.Context(jnp.zeros((2, 6), jnp.int32), segments, key=key)
  return model.encoder, x, ctx, gradients(model.encoder, x, ctx)


@jax.jit
def gradients(stack, x, ctx):
  def loss(stack, x):
    y, _ = stack(x, ctx)
    return jnp.sum(jnp.sin(y))

  return jax.value_and_grad(loss, (0, 1))(stack, x)


@pytest.mark.parametrize(
  "change",
  [
    {"remat": "minimal"},
    {"remat": "dots"},
    {"remat": "full", "unroll": 2},
    {"remat": "offload"},
    {"remat": "dots", "remat_group": 3},
  ],
  ids=str,
)
def test_remat_and_unroll_change_nothing(reference, change):
  _, x, ctx, expected = reference
  other = tiny.fill(
    tiny.t5(encoder_layers=3, decoder_layers=3, dropout=0.3, **change)
  ).encoder
  assert other.remat == change.get("remat", "none")
  result = gradients(other, x, ctx)
  tiny.assert_close(result[0], expected[0], rtol=1e-6)
  tiny.assert_close(result[1], expected[1], atol=1e-6, rtol=1e-6)


def test_layers_start_different():
  stack = layers.Stack(
    8,
    num_layers=2,
    block=tiny.partial(
      layers.Block,
      sublayers={"feed_forward": tiny.partial(layers.FeedForward, hidden=4)},
    ),
    rngs=nnx.Rngs(0),
  )
  wi, wo = (
    getattr(stack.layers.feed_forward.sublayer, name).kernel[...]
    for name in ("wi", "wo")
  )
  assert wi.shape == (2, 8, 4)
  assert np.abs(wi[0] - wi[1]).max() > 0.1
  assert np.abs(wi[0] - wo[0].T).max() > 0.1


def test_groups_of_layers_divide_them():
  with pytest.raises(errors.ConfigError, match="remat_group 4 .* 6 .* use 3"):
    layers.Stack(4, num_layers=6, remat_group=4, rngs=nnx.Rngs(0))


def test_an_unknown_remat_policy_is_named_with_the_nearest():
  with pytest.raises(errors.ConfigError, match="'ful'.*did you mean 'full'"):
    layers.Stack(4, num_layers=1, remat="ful", rngs=nnx.Rngs(0))


def test_what_stands_before_and_after_the_layers():
  """x + positions -> norm -> layers -> norm, each where it is given."""

  class Double(nnx.Module):
    def __init__(self, dim, *, rngs):
      self.dim = dim

    def __call__(self, x):
      return 2 * x

  class Triple(Double):
    def __call__(self, x):
      return 3 * x

  parts = {
    "positions": tiny.partial(layers.LearnedPositions, length=5, offset=2),
    "input_norm": Double,
    "final_norm": Triple,
  }
  add = tiny.partial(Add, amount=1.0)
  residual = tiny.partial(layers.PreNorm, norm=Keep)
  block = tiny.partial(layers.Block, sublayers={"one": add}, residual=residual)

  def make(**parts):
    given = {"final_norm": None} | parts
    return layers.Stack(4, num_layers=2, block=block, **given, rngs=nnx.Rngs(0))

  x = jax.random.normal(jax.random.key(0), (2, 3, 4))
  ctx = layers.Context(jnp.asarray([[0, 1, 2], [0, 0, 4]]))
  whole = make(**parts)
  rows = np.asarray(whole.positions.table[...])[ctx.positions + 2]
  result = whole(x, ctx)[0]
  np.testing.assert_allclose(result, 3 * (2 * (x + rows) + 2), rtol=1e-6)
  without = make()
  assert (without.positions, without.input_norm) == (None, None)
  np.testing.assert_allclose(without(x, ctx)[0], x + 2, rtol=1e-6)


def test_a_cache_longer_than_the_learned_positions_is_refused():
  model = layers.Stack(
    8,
    num_layers=1,
    block=tiny.partial(
      layers.Block,
      sublayers={
        "attention": tiny.partial(layers.Attention, heads=2, head_dim=4)
      },
    ),
    positions=tiny.partial(layers.LearnedPositions, length=5),
    rngs=nnx.Rngs(0),
  )
  model.init_state(2, 5, "float32", context((2, 1)))
  with pytest.raises(errors.ConfigError, match="rows of 6 tokens, but .* 5"):
    model.init_state(2, 6, "float32", context((2, 1)))
