"""Mamba and Mamba-2 against the papers' equations in float64, step by step."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from t5x_lite import errors, layers, partitioning, rules
from tests import tiny

BATCH, LENGTH, DIM = 2, 12, 12
partial = functools.partial
MIXERS = {
  "mamba": partial(layers.Mamba, state_dim=5, rank=3, chunk=4),
  "mamba_biased": partial(
    layers.Mamba,
    state_dim=2,
    use_bias=True,
    expand=1,
    convolution=partial(layers.CausalConvolution, width=2, use_bias=False),
  ),
  "mamba2": partial(layers.Mamba2, head_dim=6, state_dim=5, chunk=4),
  "mamba2_groups": partial(
    layers.Mamba2,
    head_dim=3,
    state_dim=4,
    groups=4,
    use_bias=True,
    steps=layers.StepSizes(least=0.9, most=1.4),
  ),
}


@functools.cache
def make(name):
  return tiny.fill(partial(MIXERS[name], DIM))


def inputs(seed=0):
  rng = np.random.default_rng(seed)
  return rng.standard_normal((BATCH, LENGTH, DIM), np.float32)


def context(cuts=(0,), length=LENGTH, **kwargs):
  """Of examples that begin at `cuts`."""
  index = np.arange(length)
  last = np.asarray(cuts)[np.searchsorted(cuts, index, side="right") - 1]
  positions = np.tile(np.int32(index - last), (BATCH, 1))
  return layers.Context(jnp.asarray(positions), **kwargs)


@jax.jit
def run(module, x, ctx, state=None):
  return module(x, ctx, state)


def silu(x):
  return x / (1 + np.exp(-x))


def linear(module, x):
  """An Einsum of x [T D], its output [T ...]."""
  kernel = np.float64(module.kernel[...])
  y = np.tensordot(x, kernel, x.ndim - 1)
  return y if module.bias is None else y + np.float64(module.bias[...])


def filtered(module, x):
  """silu of the convolution of x [T ...], as [T ...]."""
  kernel = np.float64(module.kernel[...])
  y = np.zeros_like(x)
  for t in range(len(x)):
    for i in range(module.width):
      if t - i >= 0:
        y[t] += kernel[-1 - i] * x[t - i]
  if module.bias is not None:
    y += np.float64(module.bias[...])
  return silu(y)


def steps(module, x):
  """Step sizes of x."""
  dt = np.log1p(np.exp(x + np.float64(module.step_bias[...])))
  return np.clip(dt, module.steps.least, module.steps.most or np.inf)


def mamba(module, x):
  """Equations 1a and 1b with the discretization of section 2, of x [T D]."""
  u = filtered(module.convolution, linear(module.wi, x))
  chosen = linear(module.select, u)
  size = module.state_dim
  b, c = chosen[:, -2 * size : -size], chosen[:, -size:]
  dt = steps(module, linear(module.step, chosen[:, : -2 * size]))
  a = -np.exp(np.float64(module.a_log[...]))
  h, y = np.zeros(a.shape), np.zeros_like(u)
  for t in range(len(x)):
    h = np.exp(dt[t][:, None] * a) * h + np.outer(dt[t] * u[t], b[t])
    y[t] = h @ c[t] + np.float64(module.skip[...]) * u[t]
  return linear(module.out, y * silu(linear(module.gate, x)))


def mamba2(module, x):
  """The recurrence of section 2 with one scalar a for all of a head."""
  u, b, c = (
    filtered(getattr(module, f"{name}_convolution"), linear(part, x))
    for name, part in (("x", module.x), ("b", module.b), ("c", module.c))
  )
  dt = steps(module, linear(module.step, x))
  a = -np.exp(np.float64(module.a_log[...]))
  skip = np.float64(module.skip[...])
  share, y = module.heads // module.groups, np.zeros_like(u)
  for head in range(module.heads):
    group, h = head // share, np.zeros((module.state_dim, module.head_dim))
    for t in range(len(x)):
      h = np.exp(dt[t, head] * a[head]) * h
      h += np.outer(b[t, group], dt[t, head] * u[t, head])
      y[t, head] = c[t, group] @ h + skip[head] * u[t, head]
  y = (y * silu(linear(module.gate, x))).reshape(len(x), module.groups, -1)
  y = y / np.sqrt(np.mean(y**2, axis=-1, keepdims=True) + module.norm.epsilon)
  y = y.reshape(u.shape) * np.float64(module.norm.scale[...])
  return linear(module.out, y)


def expected(name, module, x):
  return (mamba2 if name.startswith("mamba2") else mamba)(module, np.float64(x))


@pytest.mark.parametrize("name", MIXERS)
def test_equations_for_examples_in_a_row(name):
  module, x = make(name), inputs()
  cuts = (0, 1, 6, LENGTH)
  y, state = run(module, x, context(cuts[:-1]))
  assert state is None
  assert np.std(y) > 0.05
  for start, stop in itertools.pairwise(cuts):
    for row in range(BATCH):
      part = expected(name, module, x[row, start:stop])
      np.testing.assert_allclose(y[row, start:stop], part, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("name", MIXERS)
def test_pieces_are_the_whole(name):
  """Calls go on from the state of the call before, also within an example."""
  module, x = make(name), inputs()
  ctx = context((0, 4))
  whole, _ = run(module, x, ctx)
  state = module.init_state(BATCH, LENGTH, "float32", ctx)
  shapes = jax.tree.map(lambda y: (y.shape, y.dtype), state)
  parts = []
  for start, stop in ((0, 3), (3, 4), (4, 5), (5, 6), (6, 9), (9, LENGTH)):
    piece = layers.Context(ctx.positions[:, start:stop])
    y, state = run(module, x[:, start:stop], piece, state)
    parts.append(y)
    assert jax.tree.map(lambda y: (y.shape, y.dtype), state) == shapes
  np.testing.assert_allclose(
    np.concatenate(parts, 1), whole, atol=2e-5, rtol=1e-5
  )


@pytest.mark.parametrize("name", ["mamba", "mamba2"])
def test_segments_cut_where_positions_do_not(name):
  module, x = make(name), inputs()
  segments = jnp.asarray(np.tile(np.repeat([7, 3], [5, 7]), (BATCH, 1)))
  ctx = context()
  y, _ = run(module, x, layers.Context(ctx.positions, segments))
  assert np.abs(y - run(module, x, ctx)[0])[:, 5:].max() > 1e-2
  alone, _ = run(module, x[:, 5:], context(length=7))
  np.testing.assert_allclose(y[:, 5:], alone, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["mamba", "mamba2"])
def test_a_row_divided_among_devices(name):
  """Each device has a part of every row; states go from one to the next."""
  module, x, ctx = make(name), inputs(), context((0, 5))
  expected, _ = run(module, x, ctx)
  mesh = partitioning.Partitioner(
    {"data": 2, "sequence": 4}, {"batch": "data", "length": "sequence"}
  )
  with mesh.activate():
    assert rules.parts("length", LENGTH) == 4
    assert rules.parts("length", 1) == 1
    # Another function: the trace is of the rules in force.
    y, _ = jax.jit(lambda *args: module(*args))(x, ctx)
  np.testing.assert_allclose(y, expected, atol=2e-5, rtol=1e-5)
  assert y.sharding.shard_shape(y.shape) == (BATCH // 2, LENGTH // 4, DIM)


@pytest.mark.parametrize("name", ["mamba", "mamba2"])
def test_states_are_of_float32_under_bfloat16(name):
  module, x = make(name), inputs()
  ctx = context()
  state = module.init_state(BATCH, LENGTH, "bfloat16", ctx)
  y, state = run(module, jnp.asarray(x, jnp.bfloat16), ctx, state)
  assert y.dtype == jnp.bfloat16
  dtypes = {key: value.dtype for key, value in state.items()}
  assert dtypes.pop("scan") == jnp.float32
  assert set(dtypes.values()) == {jnp.dtype(jnp.bfloat16)}
  exact, _ = run(module, x, ctx)
  error = np.abs(np.asarray(y, np.float32) - exact).max()
  assert error < 0.1 * np.abs(exact).max()


@pytest.mark.parametrize("name", ["mamba", "mamba2"])
def test_a_prefix_is_refused(name):
  ctx = context(prefix=jnp.ones((BATCH, LENGTH), bool))
  with pytest.raises(errors.ConfigError, match="causal objective") as caught:
    make(name)(inputs(), ctx)
  assert str(caught.value).startswith("Mamba")


@pytest.mark.parametrize(
  "sizes, message",
  [
    ({"head_dim": 7}, "heads of 7: head_dim must divide"),
    ({"head_dim": 6, "groups": 3}, "4 heads and 3 groups"),
  ],
)
def test_sizes_that_do_not_divide_are_refused(sizes, message):
  with pytest.raises(errors.ConfigError, match=message):
    layers.Mamba2(DIM, rngs=nnx.Rngs(0), **sizes)


@pytest.mark.parametrize("sizes", [(0.0, 0.1), (0.2, 0.1)])
def test_step_sizes_that_cannot_be_are_refused(sizes):
  with pytest.raises(errors.ConfigError, match="smallest must be positive"):
    layers.StepSizes(*sizes)


def test_step_sizes_start_log_uniform():
  choose = layers.StepSizes(1e-3, 0.1)
  bias = choose(jax.random.key(0), (4000,), jnp.float32)
  found = np.log(choose.of(jnp.zeros((4000,)), bias))
  quantiles = np.quantile(found, [0.0, 0.25, 0.5, 0.75, 1.0])
  uniform = np.linspace(np.log(1e-3), np.log(0.1), 5)
  np.testing.assert_allclose(quantiles, uniform, atol=0.15)
