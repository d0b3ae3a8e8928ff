"""S4 and S4D as layers: states, packed rows, directions, refusals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from t5x_lite import errors, layers, partitioning
from t5x_lite.layers import hippo, s4_kernels
from tests.layers.s4_layers import (
  DIM,
  LENGTH,
  ROWS,
  context,
  definition,
  inputs,
  make,
  packed,
  run,
)

partial = functools.partial


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("name", ["s4_legs", "s4d_lin"])
def test_packed_examples_are_those_of_separate_rows(name, bidirectional):
  ctx, x = packed(), inputs()
  for mode in ("blocks", "recurrent" if bidirectional else "associative"):
    layer = make(name, mode=mode, bidirectional=bidirectional)
    found = np.asarray(run(layer, x, ctx)[0])
    for row, number in ((0, 1), (0, 2), (0, 3), (0, 4), (1, 1)):
      where = np.flatnonzero(ctx.segments[row] == number)
      expected = definition(layer, x[row : row + 1, where])[0]
      np.testing.assert_allclose(
        found[row, where], expected, atol=1e-4, err_msg=mode
      )


@pytest.mark.parametrize(
  "name, mode",
  [
    ("s4_legt", None),
    ("s4d_inv", "associative"),
    pytest.param("s4_legs", "associative", marks=pytest.mark.slow),
    pytest.param("s4d_inv", None, marks=pytest.mark.slow),
  ],
)
def test_pieces_of_any_length_and_steps_go_on_from_the_state(name, mode):
  ctx, x = packed(), inputs()
  layer = make(name, mode=mode)
  expected = run(layer, x, ctx)[0]
  state = layer.init_state(ROWS, LENGTH, "bfloat16", ctx)
  assert state.shape == (ROWS, DIM, 8) and state.dtype == jnp.float32
  start, outputs = 0, []
  for length in (21, 1, 21, 21):
    piece = slice(start, start + length)
    part = layers.Context(ctx.positions[:, piece], ctx.segments[:, piece])
    y, state = run(layer, x[:, piece], part, state)
    outputs.append(y)
    start += length
  assert start == LENGTH
  found = jnp.concatenate(outputs, axis=1)
  np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("mode", ["convolution", "blocks"])
def test_who_sees_whom(mode, bidirectional):
  """The past, or the whole of the example."""
  length = 12
  layer = make("s4d_lin", mode=mode, bidirectional=bidirectional, block=4)
  x = jnp.repeat(inputs(length=length, rows=1), length + 1, axis=0)
  x = x.at[np.arange(length), np.arange(length)].add(1.0)
  y = np.asarray(run(layer, x, context(length, length + 1))[0])
  changed = np.abs(y[:-1] - y[-1]).max(axis=-1) > 1e-5
  whole = np.ones((length, length), bool)
  expected = whole if bidirectional else np.triu(whole)
  np.testing.assert_array_equal(changed, expected)


def test_directions_have_kernels_of_their_own():
  """forward(x) + reversed(backward(reversed(x))), the skip once."""
  both, x = make("s4_legs", bidirectional=True), inputs()
  expected = definition(both, x)
  np.testing.assert_allclose(run(both, x, context())[0], expected, atol=1e-4)
  assert np.abs(both.c[...] - both.c_backward[...]).max() > 0.5


def test_bfloat16_goes_in_and_out_and_the_state_is_float32():
  layer, ctx = make("s4d_lin", output=layers.S4Output), packed()
  x = inputs(jnp.bfloat16)
  state = layer.init_state(ROWS, LENGTH, "bfloat16", ctx)
  y, state = run(layer, x, ctx, state)
  assert (y.dtype, state.dtype) == (jnp.bfloat16, jnp.float32)
  exact, _ = run(layer, x.astype(jnp.float32), ctx)
  np.testing.assert_allclose(y.astype(jnp.float32), exact, atol=0.05)
  for mode in s4_kernels.MODES:
    y, _ = jax.eval_shape(make("s4_legs", mode=mode), x, context())
    assert y.dtype == jnp.bfloat16


def test_the_output_is_activated_dropped_and_gated():
  plain = partial(layers.S4Output, gate=None, activation="gelu_exact")
  x, ctx = inputs(), context()
  y = run(make("s4d_lin"), x, ctx)[0]
  layer = make("s4d_lin", output=plain)
  assert layer.output.out_gate is None
  hidden = jax.nn.gelu(y, approximate=False)
  expected = hidden @ layer.output.out.kernel[...]
  np.testing.assert_allclose(run(layer, x, ctx)[0], expected, atol=1e-5)
  layer = make("s4d_lin", output=partial(layers.S4Output, gate="tanh"))
  hidden = jax.nn.gelu(y)
  gate = jnp.tanh(hidden @ layer.output.out_gate.kernel[...])
  expected = hidden @ layer.output.out.kernel[...] * gate
  np.testing.assert_allclose(run(layer, x, ctx)[0], expected, atol=1e-5)
  layer.output.dropout = 0.5
  dropped = run(layer, x, context(key=jax.random.key(0)))[0]
  assert np.abs(dropped - expected).max() > 1e-2


def test_channels_are_those_of_mlp_and_every_parameter_has_axes():
  layer = make("s4_legt", output=layers.S4Output, bidirectional=True)
  rules = partitioning.Partitioner(
    {"data": 4, "model": 2}, {"embed": "data", "mlp": "model"}
  )
  specs = {
    jax.tree_util.keystr(path): rules.spec_of(x)
    for path, x in jax.tree_util.tree_flatten_with_path(
      layer, is_leaf=lambda x: isinstance(x, nnx.Variable)
    )[0]
  }
  assert len(specs) == 12
  for name, spec in specs.items():
    if name.startswith(".output"):
      assert "data" in spec, name
    else:
      assert "model" in spec, name
  assert tuple(specs[".output.out.kernel"]) == ("model", "data")


@pytest.mark.parametrize(
  "arguments, message",
  [
    ({"state_dim": 7}, "state_dim 7 must be even .* take 8"),
    ({"mode": "convolve"}, "mode 'convolve' .* did you mean 'convolution'"),
    ({"block": 0}, "block 0: a block has at least one step"),
    ({"dt_min": 0.2}, "dt_min 0.2 and dt_max 0.1: .* 0 < dt_min <= dt_max"),
    ({"dt_min": 0.0}, "dt_min 0.0 and dt_max 0.1"),
    ({"output": partial(layers.S4Output, gate="glu")}, "'glu' is not one of"),
  ],
)
def test_bad_settings_are_refused(arguments, message):
  for name in ("s4_legs", "s4d_lin"):
    with pytest.raises(errors.ConfigError, match=message):
      make(name, **arguments)


def test_unknown_names_are_refused():
  with pytest.raises(errors.ConfigError, match="measure 'lget'.* 'legt'"):
    layers.S4(4, measure="lget", rngs=nnx.Rngs(0))
  with pytest.raises(errors.ConfigError, match="spectrum 'int'.* 'inv'"):
    layers.S4D(4, spectrum="int", rngs=nnx.Rngs(0))
  with pytest.raises(errors.ConfigError, match="discretization 'ZOH'.*'zoh'"):
    layers.S4D(4, discretization="ZOH", rngs=nnx.Rngs(0))


def test_what_a_mode_or_a_direction_cannot_do_is_refused():
  x, ctx = inputs(), packed()
  with pytest.raises(errors.ConfigError, match="segment ids .*mode = 'blocks'"):
    make("s4_legs", mode="convolution")(x, ctx)
  with pytest.raises(errors.ConfigError, match="cannot decode"):
    make("s4d_lin", bidirectional=True).init_state(2, 4, "float32", ctx)
  prefix = context(prefix=jnp.ones((ROWS, LENGTH), bool))
  with pytest.raises(errors.ConfigError, match="rest of a prefix"):
    make("s4d_lin")(x, prefix)
  jax.eval_shape(make("s4d_lin", bidirectional=True), x, prefix)


def test_a_learned_step_is_that_of_the_continuous_system():
  """Twice the step, half the rate of the input: the same signal."""
  values, b = hippo.spectrum("lin", 8)
  fine, coarse = (make("s4d_lin", mode="recurrent") for _ in range(2))
  coarse.log_dt = fine.log_dt.replace(fine.log_dt[...] + np.log(2.0))
  held = np.repeat(np.asarray(inputs(length=40)), 2, axis=1)
  slow = run(coarse, inputs(length=40), context(40))[0]
  fast = run(fine, jnp.asarray(held), context(80))[0][:, 1::2]
  np.testing.assert_allclose(slow, fast, atol=1e-5)
  assert len(values) == len(b) == 4
