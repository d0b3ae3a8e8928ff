"""Scans against their definitions in float64 NumPy: values and gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pallas_kernels
from tests.kernels import recurrences

LINEAR = ("associative", "chunked", "sequential")
SELECTIVE = ("associative", "chunked", "chunked_associative", "sequential")
ATTENTION = ("chunked", "sequential")
# Of one step, and of chunks that do and don't divide.
LENGTHS = (1, 24, 37)
CHUNK = 8


def cast(inputs, dtype):
  return {
    name: jnp.asarray(x, x.dtype if x.dtype == bool else dtype)
    for name, x in inputs.items()
  }


def call(function, inputs, **options):
  """A scan of the inputs by their names, jitted."""
  return jax.jit(functools.partial(function, **options))(**inputs)


def assert_close(found, expected, tolerance):
  for one, other in zip(found, expected, strict=True):
    scale = np.abs(other).max()
    np.testing.assert_allclose(one, other, atol=tolerance * scale, rtol=0)


@pytest.mark.parametrize("implementation", LINEAR)
@pytest.mark.parametrize("length", LENGTHS)
def test_linear_scan(implementation, length):
  reverse, kind = length == 37, "real" if length == 24 else "complex"
  inputs = recurrences.linear_inputs(length, kind, broadcast=length == 24)
  found = call(
    pallas_kernels.linear_scan,
    cast(inputs, np.complex64 if kind == "complex" else np.float32),
    implementation=implementation,
    chunk=CHUNK,
    reverse=reverse,
  )
  expected = recurrences.linear(**inputs, reverse=reverse)
  assert_close(found, expected, 2e-6)


@pytest.mark.parametrize("implementation", SELECTIVE)
@pytest.mark.parametrize("length", LENGTHS)
def test_selective_scan(implementation, length):
  inputs = recurrences.selective_inputs(length)
  found = call(
    pallas_kernels.selective_scan,
    cast(inputs, np.float32),
    implementation=implementation,
    chunk=CHUNK,
  )
  assert_close(found, recurrences.selective(**inputs), 2e-6)


def gated(x, dt, z, dt_bias, **inputs):
  """With the steps softplus(dt + dt_bias), and the outputs times silu(z)."""
  y, final = recurrences.selective(x, np.log1p(np.exp(dt + dt_bias)), **inputs)
  return y * z / (1 + np.exp(-z)), final


def gated_inputs(length):
  inputs = recurrences.selective_inputs(length)
  normal = np.random.default_rng(2).standard_normal
  inputs["dt"] = normal(inputs["x"].shape) - 1.5
  return {**inputs, "z": normal(inputs["x"].shape), "dt_bias": normal(5)}


@pytest.mark.parametrize("implementation", SELECTIVE)
def test_gated_selective_scan(implementation):
  inputs = gated_inputs(24)
  found = call(
    pallas_kernels.selective_scan,
    cast(inputs, np.float32),
    implementation=implementation,
    chunk=CHUNK,
    dt_softplus=True,
  )
  assert_close(found, gated(**inputs), 2e-6)


def test_a_bias_without_softplus_is_added():
  inputs = recurrences.selective_inputs(24)
  biased = {**inputs, "dt": inputs["dt"] - 0.5, "dt_bias": np.full(5, 0.5)}
  found = call(pallas_kernels.selective_scan, cast(biased, np.float32))
  assert_close(found, recurrences.selective(**inputs), 2e-6)


def test_a_gate_is_applied_before_rounding():
  """bfloat16 results are those of float32, rounded once."""
  inputs = cast(gated_inputs(24), jnp.bfloat16)
  scan = functools.partial(pallas_kernels.selective_scan, dt_softplus=True)
  y, _ = call(scan, inputs)
  expected, _ = call(scan, cast(inputs, np.float32))
  assert y.dtype == jnp.bfloat16
  expected = np.asarray(expected)
  np.testing.assert_allclose(y.astype(np.float32), expected, rtol=1 / 250)


@pytest.mark.parametrize("implementation", ATTENTION)
@pytest.mark.parametrize("length", LENGTHS)
def test_linear_attention(implementation, length):
  groups = {1: 1, 24: 4, 37: 2}[length]
  inputs = recurrences.attention_inputs(length, groups)
  found = call(
    pallas_kernels.linear_attention,
    cast(inputs, np.float32),
    implementation=implementation,
    chunk=CHUNK,
  )
  assert_close(found, recurrences.attention(**inputs), 2e-6)


def score(outputs, xp):
  """A number that all outputs enter, with gradients of all sizes."""
  return sum(xp.sum(xp.sin(x.real) + xp.cos(2 * x.imag)) for x in outputs)


def check_gradients(function, reference, inputs, fixed=()):
  """The gradient along random directions, in float64, by differences."""
  moving = sorted(set(inputs) - {"resets", *fixed})

  def loss(moved):
    return score(function(**{**inputs, **moved}), jnp)

  with jax.enable_x64(True):
    moved = {name: jnp.asarray(inputs[name]) for name in moving}
    gradients = jax.device_get(jax.jit(jax.grad(loss))(moved))
  for seed, name in enumerate(moving):
    direction = np.random.default_rng(seed).standard_normal(inputs[name].shape)
    expected = recurrences.slope(
      lambda given: score(reference(**given), np), inputs, {name: direction}
    )
    found = np.sum(gradients[name] * direction).real
    assert abs(expected) > 1e-3
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-6), name


@pytest.mark.parametrize("implementation", LINEAR)
@pytest.mark.parametrize("broadcast", [False, True])
def test_gradients_of_linear_scan(implementation, broadcast):
  reverse = broadcast
  check_gradients(
    functools.partial(
      pallas_kernels.linear_scan,
      implementation=implementation,
      chunk=CHUNK,
      reverse=reverse,
    ),
    functools.partial(recurrences.linear, reverse=reverse),
    recurrences.linear_inputs(21, "complex", broadcast),
  )


@pytest.mark.parametrize("implementation", SELECTIVE)
def test_gradients_of_selective_scan(implementation):
  check_gradients(
    functools.partial(
      pallas_kernels.selective_scan, implementation=implementation, chunk=CHUNK
    ),
    recurrences.selective,
    recurrences.selective_inputs(21),
  )


@pytest.mark.parametrize("implementation", SELECTIVE)
def test_gradients_of_gated_selective_scan(implementation):
  check_gradients(
    functools.partial(
      pallas_kernels.selective_scan,
      implementation=implementation,
      chunk=CHUNK,
      dt_softplus=True,
    ),
    gated,
    gated_inputs(21),
  )


@pytest.mark.parametrize(
  ("implementation", "groups"),
  [("chunked", 1), ("chunked", 2), ("sequential", 4)],
)
def test_gradients_of_linear_attention(implementation, groups):
  check_gradients(
    functools.partial(
      pallas_kernels.linear_attention,
      implementation=implementation,
      chunk=CHUNK,
    ),
    recurrences.attention,
    recurrences.attention_inputs(21, groups),
  )


def test_strong_decays_cost_no_digits():
  """Steps that forget all, also in another example, between others."""
  inputs = recurrences.attention_inputs(37)
  inputs["log_decay"][:, 5::9] = -3000.0
  found = call(pallas_kernels.linear_attention, cast(inputs, np.float32))
  assert_close(found, recurrences.attention(**inputs), 1e-6)


def test_no_decay_is_a_decay_of_zero():
  inputs = cast(recurrences.attention_inputs(21), np.float32)
  zeros = {**inputs, "log_decay": jnp.zeros_like(inputs["log_decay"])}
  del inputs["log_decay"]
  for implementation in ATTENTION:
    found, expected = (
      pallas_kernels.linear_attention(
        **x, chunk=CHUNK, implementation=implementation
      )
      for x in (inputs, zeros)
    )
    assert_close(found, expected, 1e-6)
