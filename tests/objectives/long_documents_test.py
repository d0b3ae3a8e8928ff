"""Language models on long documents: pieces of a row, and what is refused."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite import errors, layers, objectives
from tests import tiny
from tests import toy_long_documents as long

partial = functools.partial
MIXERS = {
  "leaky": long.Leaky,
  "linear_attention": partial(
    layers.LinearAttention, heads=2, head_dim=4, causal=True
  ),
  "retention": partial(
    layers.Retention, heads=2, head_dim=4, rotary=layers.Rotary
  ),
  "mamba": partial(layers.Mamba, state_dim=4, chunk=4),
  "mamba2": partial(layers.Mamba2, state_dim=8, head_dim=8, chunk=4),
  "s4": partial(layers.S4, state_dim=4, block=4),
  "s4d": partial(layers.S4D, state_dim=4, mode="associative"),
}
# Of two that are alike one is enough where there is little time.
SLOW = ("retention", "mamba2", "s4d")


def joined(found):
  """Model features of rows that hold all of the batches."""
  whole = {
    key: np.concatenate([batch[key] for batch in found], axis=1)
    for key in found[0]
    if key != "targets_before"
  }
  # Of the whole row, they count its examples.
  begins = whole["targets_positions"] == 0
  whole["targets_segment_ids"] = np.cumsum(begins, axis=1, dtype=np.int32)
  return objectives.CausalLM().convert(whole)


@jax.jit
def carry(model, batch, states):
  x, states = model.carry(batch, states)
  return model.readout()(x), states


@pytest.mark.parametrize(
  "name",
  [
    pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW))
    for name in MIXERS
  ],
)
def test_pieces_of_a_row_equal_the_row(name):
  model = tiny.fill(long.decoder(MIXERS[name]))
  found = long.batches(4)
  expected = jax.jit(lambda model, batch: model(batch))(model, joined(found))
  states, logits = model.init_carried(long.ROWS), []
  for batch in found:
    row, states = carry(model, long.OBJECTIVE.convert(batch), states)
    logits.append(np.asarray(row))
  np.testing.assert_allclose(
    np.concatenate(logits, axis=1), expected, atol=2e-5, rtol=1e-5
  )
  # They would not, did they begin anew.
  anew, _ = carry(
    model, long.OBJECTIVE.convert(found[-1]), model.init_carried(long.ROWS)
  )
  assert np.abs(anew - logits[-1]).max() > 1e-2


def test_rows_that_begin_with_an_example_need_no_state():
  model = tiny.fill(long.decoder())
  (batch,) = map(long.OBJECTIVE.convert, long.batches(1))
  assert not batch["decoder_positions"][:, 0].any()
  fresh = model.init_carried(long.ROWS)
  expected, _ = carry(model, batch, fresh)
  found, _ = carry(model, batch, jax.tree.map(lambda x: x + 3.0, fresh))
  np.testing.assert_array_equal(found, expected)


def test_no_gradient_flows_to_the_batch_before():
  model = tiny.fill(long.decoder())

  @jax.jit
  @partial(jax.grad, argnums=(0, 1))
  def gradients(model, first, one, two):
    _, states = first.carry(one, first.init_carried(long.ROWS))
    return jnp.sum(jnp.sin(model.readout()(model.carry(two, states)[0])))

  found = map(long.OBJECTIVE.convert, long.batches(2))
  ours, theirs = gradients(model, model, *found)
  assert all(np.abs(x).max() > 0 for x in jax.tree.leaves(ours))
  assert not any(np.abs(x).max() for x in jax.tree.leaves(theirs))


def test_the_first_input_of_a_row_is_the_token_before_it():
  found, seen = long.batches(10, longest=12), set()
  for first, second in itertools.pairwise(found):
    goes_on = second["targets_positions"][:, 0] > 0
    seen |= set(goes_on.tolist())
    inputs = long.OBJECTIVE.convert(second)["decoder_input_tokens"]
    expected = np.where(goes_on, first["targets"][:, -1], long.OBJECTIVE.start)
    np.testing.assert_array_equal(inputs[:, 0], expected)
    plain = objectives.CausalLM().convert(second)["decoder_input_tokens"]
    np.testing.assert_array_equal(inputs[:, 1:], plain[:, 1:])
  assert seen == {True, False}


def attention(**settings):
  return partial(layers.Attention, heads=2, head_dim=4, causal=True, **settings)


@pytest.mark.parametrize(
  ("mixer", "message"),
  [
    (attention(), "mixer/key grows with the text: use a model without"),
    (
      partial(
        layers.Parallel,
        sublayers={"leaky": long.Leaky, "attention": attention()},
      ),
      "mixer/attention/key grows with the text",
    ),
  ],
  ids=["attention", "parallel"],
)
def test_a_state_that_grows_is_refused(mixer, message):
  with pytest.raises(errors.ConfigError, match=message):
    long.run(long.decoder(mixer)).check()


def test_a_model_of_another_kind_is_refused():
  with pytest.raises(errors.ConfigError, match="needs a DecoderOnly"):
    long.run(tiny.t5()).check()


def test_positions_must_reach_to_the_end_of_a_document():
  positions = partial(layers.LearnedPositions, length=99)
  for length in (99, 100):
    objective = objectives.LongDocumentLM(document_length=length)
    made = long.run(long.decoder(positions=positions), objective)
    if length == 99:
      made.check()
    else:
      with pytest.raises(errors.ConfigError, match="99 learned positions"):
        made.check()


def test_a_document_has_a_token():
  with pytest.raises(errors.ConfigError, match="document_length is 0"):
    objectives.LongDocumentLM(document_length=0)
