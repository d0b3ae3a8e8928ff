"""S4 over rows in parts: the same as over whole rows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite import partitioning
from t5x_lite.layers import s4_convolution, s4_kernels
from t5x_lite.layers.resets import resets, reverse_resets
from t5x_lite.layers.state_space import complex_of
from tests import tiny
from tests.layers.s4_layers import (
  DIM,
  ROWS,
  context,
  inputs,
  largest,
  make,
  packed,
  run,
)

MESH = partitioning.Partitioner(
  {"data": 2, "sequence": 4}, {"batch": "data", "length": "sequence"}
)


@functools.partial(jax.jit, static_argnames=("mode", "shards", "reverse"))
def scan(layer, u, cuts, initial, mode, shards, reverse):
  """With blocks of 6, which 16 steps are no whole number of."""

  def loss(u, initial):
    system = layer.system(complex_of(layer.c, u.dtype), u.dtype)
    found = s4_kernels.scan(
      system,
      u,
      mode=mode,
      block=6,
      resets=cuts,
      initial=initial,
      shards=shards,
      reverse=reverse,
    )
    return sum(jnp.sum(jnp.sin(x)) for x in found), found

  return jax.grad(loss, (0, 1), has_aux=True)(u, initial)


SLOW = (
  *((mode, "s4d_lin", True) for mode in ("associative", "recurrent")),
  *(
    (mode, "s4_legs", back)
    for mode in s4_kernels.MODES
    for back in (False, True)
  ),
)


@pytest.mark.parametrize(
  "mode, name, reverse",
  [
    *((mode, "s4d_lin", False) for mode in s4_kernels.MODES),
    *((mode, "s4d_lin", True) for mode in ("convolution", "blocks")),
    *(pytest.param(*one, marks=pytest.mark.slow) for one in SLOW),
  ],
)
def test_parts_give_the_same_as_whole_rows(mode, name, reverse):
  """Outputs, last states and gradients; a state comes in from before."""
  layer, u, cuts = make(name), inputs(), None
  if mode != "convolution":
    cuts = reverse_resets(packed()) if reverse else resets(packed())
    # The first to be run go on from the state in one row, not in the other.
    cuts = cuts.at[0, -1 if reverse else 0].set(False)
  rng = np.random.default_rng(1)
  initial = jnp.float32(rng.standard_normal((ROWS, DIM, 8)))
  whole = "blocks" if mode == "convolution" else mode
  expected = scan(layer, u, cuts, initial, whole, 1, reverse)
  assert np.abs(expected[0][1]).max() > 0.1
  shards = (1, 4) if mode == "convolution" else (4,)
  for count in shards:
    found = scan(layer, u, cuts, initial, mode, count, reverse)
    tiny.assert_close(found, expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("packs", [True, False])
def test_both_directions_over_divided_rows(packs):
  """By blocks, and by convolution."""
  layer = make("s4d_lin", bidirectional=True)
  ctx = packed() if packs else context()
  expected = run(layer, inputs(), ctx)[0]
  with MESH.activate():
    # Another function to jit: what it traced does not know of the mesh.
    found = jax.jit(lambda x: layer(x, ctx)[0])(inputs())
  np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize("mode", ["convolution", "blocks", "associative"])
@pytest.mark.parametrize("name", ["s4_legs", "s4d_lin"])
def test_parts_never_have_all_of_their_states_in_memory(name, mode):
  """Neither forward nor backward."""
  length, state_dim = 8192, 32
  layer, u = make(name, state_dim=state_dim), inputs(length=length, rows=1)

  def loss(layer, u):
    system = layer.system(complex_of(layer.c, u.dtype), u.dtype)
    y, _ = s4_kernels.scan(
      system, u, mode=mode, block=64, resets=None, shards=8
    )
    return jnp.sum(jnp.sin(y))

  program = jax.make_jaxpr(jax.grad(loss, (0, 1)))(layer, u).jaxpr
  assert largest(program) <= u.size * state_dim / 4


@pytest.mark.parametrize("axis", ["data", "sequence"])
def test_rows_are_transformed_where_they_are(axis):
  """The compiler alone would gather them for an FFT, and for its gradient."""
  rng = np.random.default_rng(0)
  u, kernel = (rng.standard_normal(s) for s in ((4, 8, 22, 6), (6, 22)))
  u, kernel = jnp.float32(u), jnp.float32(kernel)

  def loss(u, kernel):
    return jnp.sum(jnp.sin(s4_convolution.convolve(u, kernel)))

  gradient = jax.grad(loss, (0, 1))
  expected = jax.jit(gradient)(u, kernel)
  with MESH.activate():
    spec = {"data": ("data",), "sequence": (None, "sequence")}[axis]
    spec = jax.sharding.PartitionSpec(*spec)
    u = jax.device_put(u, jax.sharding.NamedSharding(MESH.mesh, spec))
    compiled = jax.jit(lambda *x: gradient(*x)).lower(u, kernel).compile()
    found = compiled(u, kernel)
  tiny.assert_close(found, expected, rtol=1e-4, atol=1e-4)
  text = compiled.as_text()
  rows = "2,8" if axis == "data" else "4,2"
  assert f"c64[{rows},6," in text and " fft(" in text
  assert "all-gather" not in text
