"""What a step of decoding leaves where it is, and what a beam search moves."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite.layers import state as states
from tests import tiny


@pytest.fixture(scope="module")
def decoding():
  """A model, and what its prefill leaves, of zeros."""
  model = tiny.fill(tiny.t5(decoder_layers=3))
  batch = {"encoder_input_tokens": jnp.ones((4, 7), jnp.int32)}
  _, state = jax.eval_shape(lambda m: m.prefill(batch, 5), model)
  return model, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), state)


def constants(state):
  return [
    array
    for layer in state.layers
    for array in jax.tree.leaves(layer["cross_attention"])
  ]


def test_only_what_changes_is_mapped():
  state = ({"one": jnp.ones(2), "two": states.Constant({"a": jnp.ones(3)})},)
  ((found),) = states.map_changing(lambda x: x + 1, state)
  np.testing.assert_array_equal(found["one"], [2, 2])
  assert found["two"] is state[0]["two"]


def test_a_step_passes_the_memory_and_the_parameters_through(decoding):
  model, state = decoding
  traced = jax.make_jaxpr(model.step)(jnp.zeros(4, jnp.int32), state).jaxpr
  flat = jax.tree.leaves((jnp.zeros(4, jnp.int32), state))
  _, after = jax.eval_shape(model.step, jnp.zeros(4, jnp.int32), state)
  numbered = jax.tree.unflatten(
    jax.tree.structure((flat[0], state)), range(len(flat))
  )[1]
  outputs = jax.tree.unflatten(
    jax.tree.structure((flat[0], after)), traced.outvars
  )[1]
  same = [*constants(numbered), *jax.tree.leaves(numbered.decoder)]
  found = [*constants(outputs), *jax.tree.leaves(outputs.decoder)]
  assert len(found) == len(same) > 3 * 4
  assert all(
    out is traced.invars[number]
    for out, number in zip(found, same, strict=True)
  )


def test_a_step_reads_the_layers_that_stand_apart(decoding):
  """Slices of stacked parameters would be copies, on a CPU in every step."""
  model, state = decoding

  def slices(state):
    """How many arrays that the step is given it cuts."""
    given = jax.make_jaxpr(lambda m, s: m.step(jnp.zeros(4, jnp.int32), s))
    traced = given(model, state).jaxpr
    return sum(
      equation.primitive.name == "slice" and equation.invars[0] in traced.invars
      for equation in traced.eqns
    )

  stacked = slices(dataclasses.replace(state, decoder=None))
  assert stacked == 3 * len(jax.tree.leaves(model.decoder.layers))
  assert slices(state) == 0


def test_beams_of_a_row_change_places_but_not_their_memory(decoding):
  _, state = decoding
  number = jnp.arange(4.0)
  state = dataclasses.replace(
    state,
    layers=jax.tree.map(
      lambda x: x + number.reshape(4, *[1] * (x.ndim - 1)), state.layers
    ),
  )
  taken = state.take(jnp.asarray([[1, 1], [0, 1]]))
  for before, after in zip(state.layers, taken.layers, strict=True):
    for name in ("key", "value"):
      rows = after["attention"][name][:, 0, 0, 0]
      np.testing.assert_array_equal(rows, [1, 1, 2, 3])
    assert after["cross_attention"] is before["cross_attention"]
