"""The scans' Hopper and Blackwell kernels, interpreted, against definitions.

The interpreter reports races between copies and threads.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pallas_kernels
from pallas_kernels import compat
from pallas_kernels.scan import backends
from tests.kernels import recurrences

KERNEL = {"implementation": "mosaic_gpu", "interpret": True}
DEFINITION = {"implementation": "sequential"}
TOLERANCE = {"float32": 2e-6, "complex64": 2e-6, "bfloat16": 1e-2}
WIDE = {"float32": "float64", "complex64": "complex128", "bfloat16": "float64"}
WEIGHTS = ("a", "d", "dt_bias", "initial")


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
  shapes = jax.eval_shape(
    functools.partial(function, **fixed, **DEFINITION), **rounded
  )
  rng = np.random.default_rng(1)
  cotangents = [
    jnp.asarray(rng.standard_normal(x.shape), dtype) for x in shapes
  ]
  found = run(function, rounded, tuple(cotangents), fixed | KERNEL)
  with jax.enable_x64(True):
    wide, cotangents = jax.tree.map(
      lambda x: jnp.asarray(x, WIDE[dtype]), (rounded, tuple(cotangents))
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
  # Kind, b, a, reversed.  80 steps are more chunks than are fetched ahead.
  "more chunks than stages": ("float32", (1, 70, 3), (1, 70, 3), False),
  "several tiles": ("float32", (2, 9, 130), (2, 9, 130), True),
  "complex": ("complex64", (1, 18, 3, 2), (1, 18, 3, 1), False),
  "complex, reversed": ("complex64", (1, 18, 3, 2), (1, 1, 3, 2), True),
}


@pytest.mark.interpreted
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


def selective_inputs(batch, length, width, states, without=()):
  inputs = recurrences.selective_inputs(length, 3, batch, width, states)
  rng = np.random.default_rng(4)
  inputs["z"] = rng.standard_normal(inputs["x"].shape)
  inputs["dt_bias"] = np.abs(rng.standard_normal(width))
  return {name: x for name, x in inputs.items() if name not in without}


SELECTIVE = {
  # Batch, steps, channels and states; softplus; what is left out.
  "all": ((1, 36, 3, 12), True, ()),
  "tiles": ((2, 3, 130, 2), True, ("resets",)),
  "two chunks a fetch": ((1, 18, 3, 3), True, ("z",)),
  "steps as they are": ((1, 5, 3, 16), False, ("z", "initial")),
  "bare": ((1, 5, 2, 4), False, ("d", "z", "dt_bias", "initial", "resets")),
}


@pytest.mark.interpreted
@pytest.mark.parametrize("case", SELECTIVE)
def test_selective_scan(case):
  shape, softplus, without = SELECTIVE[case]
  inputs = selective_inputs(*shape, without)
  check(pallas_kernels.selective_scan, inputs, "float32", dt_softplus=softplus)


@pytest.mark.interpreted
def test_selective_scan_of_bfloat16():
  inputs = selective_inputs(1, 11, 3, 16)
  check(
    *(pallas_kernels.selective_scan, inputs, "bfloat16", WEIGHTS),
    dt_softplus=True,
  )


@pytest.mark.interpreted
@pytest.mark.slow
def test_many_fetches_of_two_chunks():
  inputs = selective_inputs(2, 96, 130, 16)
  check(pallas_kernels.selective_scan, inputs, "float32", dt_softplus=True)


@pytest.mark.interpreted
def test_steps_of_any_size():
  """Softplus of numbers that exp can't have, and decays that are 0."""
  inputs = selective_inputs(1, 9, 5, 3, ("resets", "dt_bias", "initial"))
  inputs["dt"] = np.linspace(-100, 200, 45).reshape(1, 9, 5)
  inputs["z"] = np.linspace(200, -100, 45).reshape(1, 9, 5)
  check(pallas_kernels.selective_scan, inputs, "float32", dt_softplus=True)


@pytest.mark.interpreted
def test_refusals():
  def refusal(operation, *shapes, dtype="float32"):
    arrays = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
    return backends.load(operation, "mosaic_gpu").refusal(*arrays)

  assert refusal("selective", (2, 8, 4), (4, 16)) is None
  assert refusal("linear", (2, 8, 4), (2, 8, 4)) is None
  assert "an array is empty" in refusal("selective", (2, 0, 4), (4, 16))
  assert "an array is empty" in refusal("linear", (2, 0, 4), (2, 0, 4))
  assert "17 states" in refusal("selective", (2, 8, 4), (4, 17))
  assert "float64" in refusal("selective", (2, 8, 4), (4, 1), dtype="float64")


@pytest.mark.skipif(compat.VERSION >= (0, 11), reason="of older versions")
def test_an_older_jax_is_refused():
  for operation in ("linear", "selective"):
    x = jax.ShapeDtypeStruct((2, 8, 4), "float32")
    kernel = backends.load(operation, "mosaic_gpu")
    assert kernel.refusal(x, x) == "jax is older than 0.11"
