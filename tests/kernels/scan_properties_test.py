"""What scans promise beside their values: pieces, dtypes, memory, errors."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pallas_kernels
from tests.kernels import recurrences

SCANS = {
  "linear": (
    pallas_kernels.linear_scan,
    lambda n: recurrences.linear_inputs(n, "real"),
    ("a", "b", "resets"),
  ),
  "selective": (
    pallas_kernels.selective_scan,
    recurrences.selective_inputs,
    ("x", "dt", "b", "c", "resets"),
  ),
  "attention": (
    pallas_kernels.linear_attention,
    recurrences.attention_inputs,
    ("q", "k", "v", "log_decay", "resets"),
  ),
}
each = pytest.mark.parametrize("scan", SCANS)


def made(scan, length, dtype=np.float32):
  """The function, its inputs, and which of them have the time axis."""
  function, inputs, timed = SCANS[scan]
  function = jax.jit(functools.partial(function, chunk=8))
  inputs = {
    name: jnp.asarray(x, bool if x.dtype == bool else dtype)
    for name, x in inputs(length).items()
  }
  return function, inputs, timed


@each
def test_pieces_go_on_from_the_state(scan):
  function, inputs, timed = made(scan, 24)
  expected, final = function(**inputs)
  state, outputs = inputs["initial"], []
  for start, stop in ((0, 9), (9, 10), (10, 24)):
    piece = {name: inputs[name][:, start:stop] for name in timed}
    y, state = function(**{**inputs, **piece, "initial": state})
    outputs.append(y)
  np.testing.assert_allclose(np.concatenate(outputs, 1), expected, atol=2e-5)
  np.testing.assert_allclose(state, final, atol=2e-5)


@each
def test_packed_is_separate(scan):
  """What is before a reset is not seen after it, however large, nor by grad."""
  function, inputs, timed = made(scan, 24)
  inputs["resets"] = jnp.zeros((2, 24), bool).at[:, 9].set(True)
  expected = function(
    **{name: x[:, 9:] if name in timed else x for name, x in inputs.items()}
  )
  changed = {
    name: x.at[:, :9].multiply(1e3) if name in timed[1:-1] else x
    for name, x in inputs.items()
    if name not in ("dt", "log_decay")
  }
  found = function(**{**inputs, **changed})
  np.testing.assert_allclose(found[0][:, 9:], expected[0], atol=1e-5)
  np.testing.assert_allclose(found[1], expected[1], atol=1e-5)

  def later(moved):
    y, final = function(**{**inputs, **moved})
    return jnp.sum(y[:, 9:] ** 2) + jnp.sum(final**2)

  moving = {x: inputs[x] for x in (*timed[:-1], "initial")}
  gradients = jax.jit(jax.grad(later))(moving)
  for name, gradient in gradients.items():
    early = gradient if name == "initial" else gradient[:, :9]
    # A decay of the first step after the reset acts on nothing.
    np.testing.assert_array_equal(early, 0, err_msg=name)
    assert name == "initial" or np.abs(gradient[:, 10:]).max() > 0


@each
def test_everything_is_optional(scan):
  function, inputs, _ = made(scan, 10)
  zeros = dict(inputs, initial=0 * inputs["initial"])
  zeros["resets"] = jnp.zeros((2, 10), bool)
  if "d" in inputs:
    zeros["d"] = 0 * inputs["d"]
  expected = function(**zeros)
  for name in ("initial", "resets", "d"):
    inputs.pop(name, None)
  for one, other in zip(function(**inputs), expected, strict=True):
    np.testing.assert_allclose(one, other, atol=1e-6)


@each
def test_states_of_bfloat16_inputs_are_float32(scan):
  function, inputs, timed = made(scan, 40, jnp.bfloat16)
  rounded = {
    name: x if x.dtype == bool else x.astype(jnp.float32)
    for name, x in inputs.items()
  }
  expected, state = function(**rounded)
  y, final = function(**inputs)
  assert final.dtype == jnp.float32
  assert y.dtype == (jnp.float32 if scan == "linear" else jnp.bfloat16)
  np.testing.assert_allclose(final, state, atol=1e-5)
  scale = np.abs(expected).max()
  np.testing.assert_allclose(
    y.astype(jnp.float32), expected, atol=scale / 256, rtol=1 / 128
  )

  def loss(moved):
    y, final = function(**{**inputs, **moved})
    return jnp.sum(y.astype(jnp.float32)) + jnp.sum(final)

  moving = {x: inputs[x] for x in (*timed[:-1], "initial")}
  for name, gradient in jax.jit(jax.grad(loss))(moving).items():
    assert gradient.dtype == jnp.bfloat16, name
    assert np.isfinite(gradient.astype(jnp.float32)).all(), name


def test_strong_decay_is_not_nan():
  """exp(-1e4) is 0, and so is its gradient."""
  inputs = recurrences.attention_inputs(20)
  inputs["log_decay"] = np.full_like(inputs["log_decay"], -1e4)
  inputs = {
    name: jnp.asarray(x, bool if x.dtype == bool else np.float32)
    for name, x in inputs.items()
  }

  def loss(moved):
    y, final = pallas_kernels.linear_attention(**{**inputs, **moved}, chunk=8)
    return jnp.sum(y**2) + jnp.sum(final**2)

  moving = {name: inputs[name] for name in inputs if name != "resets"}
  value, gradients = jax.jit(jax.value_and_grad(loss))(moving)
  assert np.isfinite(value)
  for name, gradient in gradients.items():
    assert np.isfinite(gradient).all(), name


def memory(function, inputs):
  """Bytes that forward and backward pass need beside inputs and gradients."""
  moving = {name: x for name, x in inputs.items() if name != "resets"}

  def loss(moved):
    y, final = function(**{**inputs, **moved})
    return jnp.sum(y**2) + jnp.sum(final**2)

  shapes = jax.eval_shape(lambda x: x, moving)
  compiled = jax.jit(jax.grad(loss)).lower(shapes).compile()
  return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("implementation", ["chunked", "chunked_associative"])
def test_memory_of_a_long_selective_scan(implementation):
  """At 65,536 steps never the whole [B T E P], forward or backward.

  Kept are copies of the inputs and of y, and a state for every chunk.
  """
  length, width, state, chunk = 65_536, 16, 16, 64
  inputs = recurrences.selective_inputs(length, 0, 1, width, state)
  del inputs["resets"], inputs["initial"]
  inputs = {name: jnp.asarray(x, np.float32) for name, x in inputs.items()}
  scan = functools.partial(
    pallas_kernels.selective_scan, implementation=implementation, chunk=chunk
  )
  states = 4 * length * width * state
  steps = 4 * length * (3 * width + 2 * state)
  found = memory(scan, inputs)
  assert found < 1.5 * steps + 4 * states // chunk
  assert found < states / 2
  if implementation == "chunked":
    # The definition, differentiated, does keep them, and more than once.
    whole = functools.partial(scan, implementation="sequential")
    assert memory(whole, inputs) > 2 * states


def test_memory_of_a_long_linear_attention():
  """At 65,536 steps never all states, and no matrix of T squared."""
  length, width = 65_536, 8
  rng = np.random.default_rng(0)
  shape = (1, length, 1, width)
  inputs = {
    name: jnp.asarray(rng.standard_normal(shape), np.float32) for name in "qkv"
  }
  inputs["log_decay"] = -jnp.ones((1, length, 1), np.float32)
  scan = functools.partial(pallas_kernels.linear_attention, chunk=64)
  states = 4 * length * width * width
  assert memory(scan, inputs) < 1.5 * states
  whole = functools.partial(scan, implementation="sequential")
  assert memory(whole, inputs) > 2 * states


def test_a_gradient_of_linear_scan_keeps_the_states_alone():
  inputs = recurrences.linear_inputs(4096, "real")
  del inputs["resets"]
  inputs = {name: jnp.asarray(x, np.float32) for name, x in inputs.items()}
  states = inputs["b"].nbytes
  for implementation in ("sequential", "chunked"):
    scan = functools.partial(
      pallas_kernels.linear_scan, implementation=implementation, chunk=64
    )
    assert memory(scan, inputs) < 8 * states


ERRORS = {
  "linear": {
    "initial": r"initial of shape \(2, 5, 3\), not \(2, 4\)",
    "resets": r"resets of shape \(2, 10\), not \(2, 4\)",
    "a": r"as many axes, not \(2, 4\), \(2, 10, 5, 3\)",
  },
  "selective": {
    "dt": r"dt of shape \(2, 10, 5\), not \(2, 4\)",
    "b": r"b of shape \(2, 10, 3\), not \(2, 4\)",
    "c": r"c of shape \(2, 10, 3\), not \(2, 4\)",
    "d": r"d of shape \(5,\), not \(2, 4\)",
    "z": r"z of shape \(2, 10, 5\), not \(2, 4\)",
    "dt_bias": r"dt_bias of shape \(5,\), not \(2, 4\)",
    "initial": r"initial of shape \(2, 5, 3\), not \(2, 4\)",
    "resets": r"resets of shape \(2, 10\), not \(2, 4\)",
  },
  "attention": {
    "k": r"k of shape \(2, 10, 2, 3\), not \(2, 4\)",
    "log_decay": r"log_decay of shape \(2, 10, 4\), not \(2, 4\)",
    "initial": r"initial of shape \(2, 4, 3, 5\), not \(2, 4\)",
    "resets": r"resets of shape \(2, 10\), not \(2, 4\)",
  },
}


@pytest.mark.parametrize(
  ("scan", "name"), [(scan, x) for scan, xs in ERRORS.items() for x in xs]
)
def test_wrong_shapes(scan, name):
  function, inputs, _ = made(scan, 10)
  dtype = inputs[name].dtype if name in inputs else jnp.float32
  inputs[name] = jnp.zeros((2, 4), dtype)
  with pytest.raises(ValueError, match=ERRORS[scan][name]):
    function(**inputs)


@each
@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"implementation": "fast"}, "implementation 'fast' is not one of .*ial"),
    ({"chunk": 0}, "a chunk of at least 1 step, not 0"),
    ({"shards": 4}, "10 steps, which 4 shards do not divide: make the length"),
    ({"shards": 0}, "10 steps, which 0 shards do not divide"),
  ],
)
def test_wrong_options(scan, options, message):
  _, inputs, _ = made(scan, 10)
  with pytest.raises(ValueError, match=re.compile(message)):
    SCANS[scan][0](**inputs, **options)


def test_a_that_does_not_broadcast():
  b = jnp.ones((2, 10, 5))
  with pytest.raises(ValueError, match="a that broadcasts to b"):
    pallas_kernels.linear_scan(jnp.ones((2, 10, 3)), b)


def test_heads_that_groups_do_not_divide():
  q, v = jnp.ones((2, 10, 3, 4)), jnp.ones((2, 10, 4, 4))
  with pytest.raises(ValueError, match="4 value heads and 3 key heads"):
    pallas_kernels.linear_attention(q, q, v)
