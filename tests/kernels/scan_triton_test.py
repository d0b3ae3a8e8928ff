"""Triton's scans, interpreted, against their definitions in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pallas_kernels
from pallas_kernels.scan import linear_triton, selective_triton
from tests.kernels import recurrences

KERNEL = {"implementation": "triton", "interpret": True}
DEFINITION = {"implementation": "sequential"}
TOLERANCE = {"float32": 2e-6, "complex64": 2e-6, "bfloat16": 1e-2}
WIDE = {"float32": "float64", "complex64": "complex128", "bfloat16": "float64"}


def run(function, inputs, cotangents, fixed):
  """Both results, and the gradients by name."""

  @jax.jit
  def both(inputs, cotangents):
    outputs, pull = jax.vjp(lambda x: function(**x, **fixed), inputs)
    return outputs, pull(
      jax.tree.map(lambda g, y: g.astype(y.dtype), cotangents, outputs)
    )

  (y, final), (gradients,) = jax.device_get(both(inputs, cotangents))
  return {"y": y, "final": final, **gradients}


def check(function, inputs, dtype, own_dtypes=(), **options):
  """Values and gradients; the definition gets what is left after rounding."""
  inputs = dict(inputs)
  fixed = {**options, "resets": inputs.pop("resets", None)}
  rounded = {
    name: jnp.asarray(x, "float32" if name in own_dtypes else dtype)
    for name, x in inputs.items()
  }
  shapes = jax.eval_shape(functools.partial(function, **fixed), **rounded)
  rng = np.random.default_rng(1)
  cotangents = tuple(rng.standard_normal(x.shape) for x in shapes)
  cotangents = jax.tree.map(lambda x: jnp.asarray(x, dtype), cotangents)
  found = run(function, rounded, cotangents, fixed | KERNEL)
  with jax.enable_x64(True):
    wide, cotangents = jax.tree.map(
      lambda x: jnp.asarray(x, WIDE[dtype]), (rounded, cotangents)
    )
    expected = run(function, wide, cotangents, fixed | DEFINITION)
  assert found.keys() == expected.keys()
  for name, x in expected.items():
    if name in rounded:
      assert found[name].dtype == rounded[name].dtype, name
    one = np.asarray(found[name], WIDE[dtype])
    error = np.linalg.norm(one - x)
    assert error <= TOLERANCE[dtype] * np.linalg.norm(x), name


LINEAR = {
  # Dtype, shapes of b and a, reversed.
  "of one step": ("float32", (2, 1, 5), (2, 1, 5), False),
  "several programs": ("float32", (2, 13, 130), (2, 13, 130), True),
  "complex, reversed": ("complex64", (2, 19, 3, 2), (2, 19, 3, 2), True),
  "an a for many": ("float32", (2, 9, 3, 2, 2), (2, 9, 3, 1, 1), False),
  "an a for every other": ("float32", (2, 9, 3, 2), (2, 9, 1, 2), False),
  "an a for all steps": ("complex64", (2, 9, 5), (1, 1, 5), True),
}


@pytest.mark.parametrize("case", LINEAR)
def test_linear_scan(case):
  dtype, shape, a_shape, reverse = LINEAR[case]
  rng = np.random.default_rng(0)

  def normal(*shape):
    x = rng.standard_normal(shape)
    return x + 1j * rng.standard_normal(shape) if "complex" in dtype else x

  a = normal(*a_shape)
  inputs = {
    "a": 0.95 * a / np.maximum(np.abs(a), 1),
    "b": normal(*shape),
    "initial": normal(shape[0], *shape[2:]),
    "resets": rng.random(shape[:2]) < 0.2,
  }
  check(pallas_kernels.linear_scan, inputs, dtype, reverse=reverse)


def selective_inputs(length, width, states, without=()):
  inputs = recurrences.selective_inputs(length, 3, 2, width, states)
  rng = np.random.default_rng(4)
  inputs["z"] = rng.standard_normal(inputs["x"].shape)
  inputs["dt_bias"] = rng.standard_normal(width)
  return {name: x for name, x in inputs.items() if name not in without}


SELECTIVE = {
  # Steps, channels and states; softplus; what is left out.
  "of one step": ((1, 5, 1), True, ()),
  "several chunks": ((70, 3, 2), True, ()),
  "several programs": ((6, 130, 2), True, ("resets",)),
  "steps as they are": ((9, 5, 2), False, ("dt_bias", "z")),
  "bare": ((9, 5, 3), True, ("d", "z", "dt_bias", "initial", "resets")),
}


@pytest.mark.parametrize("case", SELECTIVE)
def test_selective_scan(case):
  shape, softplus, without = SELECTIVE[case]
  inputs = selective_inputs(*shape, without)
  check(pallas_kernels.selective_scan, inputs, "float32", dt_softplus=softplus)


def test_selective_scan_of_bfloat16():
  check(
    pallas_kernels.selective_scan,
    selective_inputs(11, 5, 2),
    "bfloat16",
    ("a", "d", "dt_bias", "initial"),
    dt_softplus=True,
  )


def test_what_is_after_the_last_step_has_no_influence():
  """Rows are no whole chunks: not even a last step that resets is repeated."""
  inputs = selective_inputs(5, 3, 2)
  inputs["resets"][:, -1] = True
  check(pallas_kernels.selective_scan, inputs, "float32", dt_softplus=True)


def test_steps_of_any_size():
  """Softplus of numbers that exp can't have, and decays that are 0."""
  inputs = selective_inputs(9, 5, 2, ("resets", "dt_bias"))
  inputs["dt"] = np.linspace(-100, 200, 90).reshape(2, 9, 5)
  check(pallas_kernels.selective_scan, inputs, "float32", dt_softplus=True)


def test_refusals():
  x = jax.ShapeDtypeStruct((2, 8, 4), "float32")
  a = jax.ShapeDtypeStruct((4, 16), "float32")
  assert selective_triton.refusal(x, a) is None
  assert linear_triton.refusal(x, x) is None
  empty = jax.ShapeDtypeStruct((2, 0, 4), "float32")
  assert selective_triton.refusal(empty, a) == "an array is empty"
  assert linear_triton.refusal(empty, empty) == "an array is empty"
  wide = jax.ShapeDtypeStruct((4, 33), "float32")
  assert "33 states" in selective_triton.refusal(x, wide)
  other = jax.ShapeDtypeStruct((2, 8, 4), "float64")
  assert "float64" in selective_triton.refusal(other, a)
