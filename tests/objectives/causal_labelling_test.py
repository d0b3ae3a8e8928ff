"""Answers of a decoder at the tokens that ask for one, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite import errors, metrics, objectives
from tests import tiny
from tests.objectives import toy

ROW = [
  {"inputs": [11, 12, 13], "labels": [0, 8, 3]},
  {"inputs": [14, 15], "labels": [0, 1]},
]
LENGTHS = {"inputs": 6, "labels": 6}


def logits():
  rng = np.random.default_rng(0)
  return np.float32(3 * rng.standard_normal((1, 6, toy.VOCAB)))


def batch():
  return objectives.CausalLabelling().convert(toy.pack([ROW], LENGTHS))


def test_a_row_spelled_out():
  assert {name: value.tolist()[0] for name, value in batch().items()} == {
    "decoder_input_tokens": [11, 12, 13, 14, 15, 0],
    "decoder_segment_ids": [1, 1, 1, 2, 2, 0],
    "decoder_positions": [0, 1, 2, 0, 1, 0],
    "labels": [0, 8, 3, 0, 1, 0],
  }


def test_the_loss_is_that_of_the_tokens_before_their_labels():
  objective, given = objectives.CausalLabelling(), logits()
  total, values = objective.loss(toy.Fixed(logits=given), batch(), None)
  chances = toy.log_softmax(given)[0]
  expected = -(chances[1, 7] + chances[2, 2] + chances[4, 0])
  assert float(total) == pytest.approx(expected, rel=1e-5)
  assert float(objective.normalizer(batch())) == 3
  assert metrics.values(values)["loss"] == pytest.approx(expected / 3, rel=1e-5)


def test_accuracy_is_that_of_the_labelled_tokens():
  given = np.zeros((1, 6, toy.VOCAB), np.float32)
  given[0, [1, 2, 4], [7, 2, 3]] = 9.0  # the last one is wrong
  _, values = objectives.CausalLabelling().loss(
    toy.Fixed(logits=given), batch(), None
  )
  assert metrics.values(values)["accuracy"] == pytest.approx(2 / 3)


def test_predictions_and_labels_meet():
  objective, given = objectives.CausalLabelling(), logits()
  found = objective.predict(toy.Fixed(logits=given), batch())["prediction"]
  best = given[0].argmax(-1)
  assert found.tolist() == [[*best[:5].tolist(), -1]]
  assert objective.label(np.array([0, 8, 3])) == [-1, 7, 2]
  assert isinstance(objective, objectives.Discriminative)


def test_no_answer_sees_what_comes_later():
  """Nor what other answers ought to be: no label is an input."""
  model, features = toy.model("causal_labelling"), batch()

  def answer(embedded):
    x = model.decoder(embedded, context)[0]
    return jnp.sum(model._logits(x)[0, 1])

  context = tiny_context(features)
  tokens = jnp.asarray(features["decoder_input_tokens"])
  slope = jax.grad(answer)(model.embedding(tokens, "float32"))
  assert np.any(np.asarray(slope[0, :2]), axis=-1).all()
  assert not np.any(np.asarray(slope[0, 2:]))


def tiny_context(features):
  from t5x_lite.layers import Context

  return Context(
    jnp.asarray(features["decoder_positions"]),
    jnp.asarray(features["decoder_segment_ids"]),
  )


def test_limits_and_bad_input():
  objective = objectives.CausalLabelling()
  assert objective.limits(toy.model("causal_lm")) == {"labels": toy.VOCAB + 1}
  with pytest.raises(errors.ConfigError, match="needs a DecoderOnly"):
    objective.check(toy.model("classification"))
  ahead = tiny.fill(toy.decoder(causal=False))
  with pytest.raises(errors.ConfigError, match="needs a causal decoder"):
    objective.check(ahead)
  with pytest.raises(errors.ConfigError, match="label_smoothing"):
    objectives.CausalLabelling(label_smoothing=1.0)
  row = [{"inputs": [11, 12], "labels": [1]}]
  with pytest.raises(errors.DataError, match="'labels' must have a value"):
    objective.convert(toy.pack([row], LENGTHS))
