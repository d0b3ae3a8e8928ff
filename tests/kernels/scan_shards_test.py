"""Scans whose length is divided among eight devices."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import pallas_kernels
from tests.kernels import recurrences

LENGTH = 8 * 31  # Found nowhere else among the sizes.
SCANS = {
  "linear": (pallas_kernels.linear_scan, recurrences.linear_inputs),
  "reverse": (
    functools.partial(pallas_kernels.linear_scan, reverse=True),
    recurrences.linear_inputs,
  ),
  "selective": (pallas_kernels.selective_scan, recurrences.selective_inputs),
  "attention": (
    functools.partial(pallas_kernels.linear_attention, chunk=16),
    recurrences.attention_inputs,
  ),
}
MESHES = {
  "sequence": ({"sequence": 8}, PartitionSpec(None, "sequence")),
  "both": ({"data": 2, "sequence": 4}, PartitionSpec("data", "sequence")),
}


def made(scan):
  function, inputs = SCANS[scan]
  single = np.complex64 if scan in ("linear", "reverse") else np.float32
  inputs = {
    name: jnp.asarray(x, bool if x.dtype == bool else single)
    for name, x in inputs(LENGTH).items()
  }
  # Shards without a reset, with one, and beginning with one.
  resets = jnp.zeros((2, LENGTH), bool)
  inputs["resets"] = resets.at[0, 30].set(True).at[1, 96].set(True)
  return function, inputs


def loss(function, moved, resets, **options):
  y, final = function(**moved, resets=resets, **options)
  total = jnp.sum(jnp.abs(y) ** 2) + jnp.sum(jnp.abs(final) ** 2)
  return total, (y, final)


def graded(function, **options):
  return jax.value_and_grad(
    functools.partial(loss, function, **options), has_aux=True
  )


@pytest.mark.parametrize(
  ("scan", "mesh"),
  [
    ("reverse", "sequence"),
    ("selective", "sequence"),
    *(
      pytest.param(*case, marks=pytest.mark.slow)
      for case in (
        ("attention", "sequence"),
        ("linear", "both"),
        ("selective", "both"),
      )
    ),
  ],
)
def test_shards_give_the_same_and_none_holds_the_length(scan, mesh):
  function, inputs = made(scan)
  resets = inputs.pop("resets")
  expected = jax.jit(graded(function))(inputs, resets)

  shape, spec = MESHES[mesh]
  mesh = jax.make_mesh(
    tuple(shape.values()),
    tuple(shape),
    axis_types=(jax.sharding.AxisType.Auto,) * len(shape),
  )
  sharded, whole = (NamedSharding(mesh, x) for x in (spec, PartitionSpec()))
  by_name = {
    name: sharded if x.shape[1:2] == (LENGTH,) else whole
    for name, x in inputs.items()
  }
  run = jax.jit(
    graded(function, shards=shape["sequence"]),
    in_shardings=(by_name, sharded),
    out_shardings=((whole, (sharded, whole)), by_name),
  )
  compiled = run.lower(inputs, resets).compile()
  found = compiled(
    jax.device_put(inputs, by_name), jax.device_put(resets, sharded)
  )
  for one, other in zip(
    jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
  ):
    scale = np.abs(other).max()
    np.testing.assert_allclose(one, other, atol=5e-6 * scale, rtol=0)

  text = compiled.as_text()
  assert holding(text, LENGTH // shape["sequence"])
  assert not holding(text, LENGTH)


def holding(text, size):
  """Instructions of compiled HLO that make an array with such an axis."""
  made = re.compile(rf"= \(?\w+\[(?:\d+,)*{size}(?:,\d+)*\]")
  return [line for line in text.splitlines() if made.search(line)]
