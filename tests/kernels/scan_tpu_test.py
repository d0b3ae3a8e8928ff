"""The scans' TPU kernels, step by step, against their definitions."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pallas_kernels
from pallas_kernels import platforms
from pallas_kernels.scan import backends, pick_linear_scan, pick_selective_scan

KERNEL = {"implementation": "mosaic_tpu", "interpret": True}
TOLERANCE = {"float32": 2e-6, "bfloat16": 1e-2}


def run(function, inputs, weights, **options):
  """Both results, and all gradients of a weighted sum of them, by name."""

  def loss(inputs):
    found = function(**inputs, **options)
    total = sum(
      jnp.sum(x * w).real for x, w in zip(found, weights, strict=True)
    )
    return total, found

  (_, found), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(
    inputs
  )
  return jax.device_get({"y": found[0], "final": found[1], **gradients})


def check(function, inputs, dtype, tolerance=None, **options):
  """The kernel in `dtype` against float64, on what `dtype` has of inputs."""
  rng = np.random.default_rng(1)
  resets = inputs.pop("resets", None)
  inputs = {name: jnp.asarray(x, dtype) for name, x in inputs.items()}
  shapes = jax.eval_shape(functools.partial(function, **options), **inputs)
  weights = [jnp.asarray(rng.standard_normal(x.shape), dtype) for x in shapes]
  options["resets"] = resets
  found = run(function, inputs, weights, **options, **KERNEL)
  wide = "complex128" if "complex" in dtype else "float64"
  with jax.enable_x64(True):
    inputs, weights = jax.tree.map(
      lambda x: jnp.asarray(np.asarray(x).astype(wide)), (inputs, weights)
    )
    expected = run(
      function, inputs, weights, **options, implementation="sequential"
    )
  tolerance = tolerance or TOLERANCE.get(dtype, 2e-6)
  for name, x in expected.items():
    assert np.isfinite(np.asarray(found[name], wide)).all(), name
    error = np.linalg.norm(np.asarray(found[name], wide) - x)
    assert error <= tolerance * np.linalg.norm(x), name


def selective_inputs(batch, length, width, states, seed=0, without=()):
  rng = np.random.default_rng(seed)
  normal = rng.standard_normal
  inputs = {
    "x": normal((batch, length, width)),
    "dt": normal((batch, length, width)) - 1.5,
    "a": -np.exp(normal((width, states))),
    "b": normal((batch, length, states)),
    "c": normal((batch, length, states)),
    "d": normal(width),
    "z": normal((batch, length, width)),
    "dt_bias": normal(width),
    "initial": normal((batch, width, states)),
    "resets": rng.random((batch, length)) < 0.1,
  }
  return {name: x for name, x in inputs.items() if name not in without}


SELECTIVE = {
  # Channels, states and steps that complete no vector.
  "ragged": ((2, 21, 130, 3), "float32", ()),
  "whole": ((1, 32, 128, 16), "float32", ("resets",)),
  "ungated": ((2, 9, 8, 8), "float32", ("z", "initial")),
  "chunks": ((1, 150, 16, 8), "float32", ("dt_bias", "resets")),
  "blocks": ((2, 16, 1280, 8), "float32", ("d", "z", "resets")),
  "bfloat16": ((2, 40, 128, 16), "bfloat16", ()),
}


@pytest.mark.parametrize("case", SELECTIVE)
def test_selective_scan(case):
  shape, dtype, without = SELECTIVE[case]
  inputs = selective_inputs(*shape, without=without)
  check(pallas_kernels.selective_scan, inputs, dtype, dt_softplus=True)


def test_step_sizes_as_they_are():
  inputs = selective_inputs(2, 20, 8, 4, without=("dt_bias", "z"))
  inputs["dt"] = np.exp(inputs["dt"])
  check(pallas_kernels.selective_scan, inputs, "float32")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_selective_scan_of_any_shape(seed):
  rng = np.random.default_rng(seed)
  shape = [int(rng.integers(1, most)) for most in (4, 280, 700, 40)]
  names = ("d", "z", "dt_bias", "initial", "resets")
  without = [name for name in names if rng.random() < 0.4]
  dtype = ("float32", "bfloat16")[seed % 2]
  inputs = selective_inputs(*shape, seed=seed, without=without)
  check(pallas_kernels.selective_scan, inputs, dtype, dt_softplus=True)


def test_extreme_steps_and_gates():
  """Steps from 1e-35 to 300, gates from -300: finite, and digits remain."""
  inputs = selective_inputs(1, 24, 16, 4, without=("resets", "dt_bias"))
  inputs["dt"] = np.linspace(-80, 300, 24 * 16).reshape(1, 24, 16)
  inputs["z"] = np.linspace(-300, 300, 24 * 16).reshape(1, 24, 16)
  # Decays of exp(-1000) have fewer digits than their logarithms.
  check(
    pallas_kernels.selective_scan, inputs, "float32", 1e-4, dt_softplus=True
  )


def linear_inputs(shape, a_shape, dtype, seed=0):
  rng = np.random.default_rng(seed)

  def normal(*shape):
    x = rng.standard_normal(shape)
    if "complex" in dtype:
      x = x + 1j * rng.standard_normal(shape)
    return x

  a = normal(*a_shape)
  return {
    "a": 0.95 * a / np.maximum(np.abs(a), 1),
    "b": normal(*shape),
    "initial": normal(shape[0], *shape[2:]),
    "resets": rng.random(shape[:2]) < 0.1,
  }


LINEAR = {
  "ragged": ((2, 21, 130), (2, 21, 130), "float32", False),
  "reverse": ((2, 300, 5, 3), (2, 300, 5, 1), "complex64", True),
  "constant": ((2, 37, 7, 5), (1, 1, 7, 5), "complex64", False),
  "constant reverse": ((1, 300, 4), (1, 1, 4), "float32", True),
  "blocks": ((1, 16, 520), (1, 16, 520), "float32", True),
  "a step": ((2, 1, 4), (2, 1, 4), "float32", False),
}


@pytest.mark.parametrize("case", LINEAR)
def test_linear_scan(case):
  shape, a_shape, dtype, reverse = LINEAR[case]
  inputs = linear_inputs(shape, a_shape, dtype)
  if "constant" in case:
    del inputs["resets"]
  check(pallas_kernels.linear_scan, inputs, dtype, reverse=reverse)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_linear_scan_of_any_shape(seed):
  rng = np.random.default_rng(seed)
  shape = [int(rng.integers(1, most)) for most in (4, 600, 60, 20)]
  a_shape = [n if rng.random() < 0.7 else 1 for n in shape]
  dtype = ("float32", "complex64")[seed % 2]
  inputs = linear_inputs(shape, a_shape, dtype, seed)
  if rng.random() < 0.5:
    del inputs["resets"]
  reverse = bool(rng.random() < 0.5)
  check(pallas_kernels.linear_scan, inputs, dtype, reverse=reverse)


def test_what_follows_an_overflow_is_its_own():
  """A state that overflows is not seen before it, nor after a reset."""
  inputs = linear_inputs((1, 40, 3), (1, 40, 3), "float32")
  inputs["b"][:, 20] = np.inf
  inputs["resets"][:] = False
  inputs = {name: jnp.asarray(x, jnp.float32) for name, x in inputs.items()}
  resets = inputs.pop("resets") != 0
  y, _ = pallas_kernels.linear_scan(**inputs, resets=resets, **KERNEL)
  assert np.isfinite(y[:, :20]).all()
  assert not np.isfinite(y[:, 20:]).any()


@pytest.mark.parametrize("operation", ["linear", "selective"])
def test_shards(operation):
  """A kernel that is named works in shards, too."""
  if operation == "linear":
    function = pallas_kernels.linear_scan
    inputs = linear_inputs((2, 32, 6), (2, 32, 6), "float32")
    options = {"reverse": True}
  else:
    function = pallas_kernels.selective_scan
    inputs = selective_inputs(2, 32, 6, 3)
    options = {"dt_softplus": True}
  check(function, inputs, "float32", tolerance=5e-6, shards=2, **options)


TARGETS = {
  "mosaic_tpu": platforms.Target("tpu", "TPU v5 lite"),
  "mosaic_gpu": platforms.Target("gpu", "NVIDIA B200", (10, 0)),
  "triton": platforms.Target("gpu", "NVIDIA A100", (8, 0)),
}
DEFAULTS = {"linear": "associative", "selective": "chunked_associative"}


def picked(operation, dtype=jnp.float32, length=64, **options):
  steps = jax.ShapeDtypeStruct((2, length, 8), dtype)
  if operation == "linear":
    return pick_linear_scan(steps, steps, **options)
  a = jax.ShapeDtypeStruct((8, 16), dtype)
  return pick_selective_scan(steps, a, **options)


@pytest.mark.parametrize("operation", DEFAULTS)
def test_pick(operation, monkeypatch):
  default = DEFAULTS[operation]
  answer = [None]
  module = types.SimpleNamespace(refusal=lambda *arrays: answer[0])
  monkeypatch.setattr(backends, "load", lambda *names: module)
  for name, target in TARGETS.items():
    monkeypatch.setattr(platforms, "target", lambda target=target: target)
    assert picked(operation) == name
    assert picked(operation, shards=2) == default
    assert picked(operation, length=1) == default
    with jax.enable_x64(True):
      assert picked(operation, jnp.float64) == default
    mesh = jax.make_mesh(
      (2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,)
    )
    with jax.set_mesh(mesh):
      assert picked(operation) == default
    answer[0] = "too wide"
    assert picked(operation) == default
    answer[0] = None
  other = platforms.Target("gpu", "AMD")
  monkeypatch.setattr(platforms, "target", lambda: other)
  assert picked(operation) == default


def test_pick_on_a_cpu():
  assert picked("linear") == "sequential"
  assert picked("selective") == "chunked"


def test_a_kernel_that_refuses_says_why():
  inputs = selective_inputs(1, 4, 8, 300, without=("resets",))
  with pytest.raises(ValueError, match="'mosaic_tpu': 300 states, more than"):
    pallas_kernels.selective_scan(
      **{name: jnp.asarray(x, jnp.float32) for name, x in inputs.items()},
      **KERNEL,
    )
  x = jnp.ones((1, 4, 8))
  with (
    jax.enable_x64(True),
    pytest.raises(ValueError, match="states of float64, but kernels"),
  ):
    pallas_kernels.linear_scan(x, jnp.ones((1, 4, 8)), **KERNEL)


def test_only_kernels_are_interpreted():
  x = jnp.ones((1, 4, 8))
  with pytest.raises(ValueError, match="linear_scan interprets kernels only"):
    pallas_kernels.linear_scan(x, x, implementation="chunked", interpret=True)
