"""Features, weights and normalizations of the text-to-text objective."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite import errors, losses, metrics, objectives
from t5x_lite.objectives import base
from tests import tiny

NORMALIZATIONS = [None, 7.0, *base.NORMALIZATIONS]


class Fixed:
  """A model whose logits are given, one set for each id of the targets.

  The logits of a token depend on the token, so that they are the same however
  the examples lie in rows.
  """

  def __init__(self):
    rng = np.random.default_rng(0)
    table = rng.standard_normal((tiny.VOCAB, tiny.VOCAB))
    self.table = table.astype(np.float32)

  def hidden(self, batch, *, key):
    return jnp.asarray(self.table)[batch["decoder_target_tokens"]]

  def readout(self):
    return lambda logits: logits

  def loss_of(self, tokens, z_loss):
    token = losses.cross_entropy(
      jnp.asarray(self.table)[tokens], tokens, z_loss=z_loss
    )
    return np.asarray(token.cross_entropy + token.z_loss, np.float64)


def convert(rows):
  return objectives.Seq2Seq().convert(tiny.pack(rows, (24, 24)))


def test_features_of_a_packed_row_spelled_out():
  first = np.array([11, 12]), np.array([21, 22, 1])
  second = np.array([13]), np.array([23, 1])
  features = objectives.Seq2Seq().convert(
    tiny.pack([[first, second]], lengths=(4, 6))
  )
  assert {name: value.tolist()[0] for name, value in features.items()} == {
    "encoder_input_tokens": [11, 12, 13, 0],
    "encoder_segment_ids": [1, 1, 2, 0],
    "encoder_positions": [0, 1, 0, 0],
    "decoder_target_tokens": [21, 22, 1, 23, 1, 0],
    "decoder_input_tokens": [0, 21, 22, 0, 23, 0],
    "decoder_loss_weights": [1.0, 1.0, 1.0, 1.0, 1.0, 0.0],
    "decoder_segment_ids": [1, 1, 1, 2, 2, 0],
    "decoder_positions": [0, 1, 2, 0, 1, 0],
  }
  for name, value in features.items():
    kind = np.float32 if name == "decoder_loss_weights" else np.int32
    assert value.dtype == kind, name


def test_decoder_inputs_begin_with_start():
  first, second = ([11], [21, 22]), ([12], [23])
  batch = tiny.pack([[first, second]], lengths=(4, 5))
  features = objectives.Seq2Seq(start=9).convert(batch)
  assert features["decoder_input_tokens"].tolist() == [[9, 21, 9, 0, 0]]


def test_prompts_are_the_inputs_alone():
  batch = tiny.pack([[([11, 12, 1], [])], []], lengths=(4, 1))
  prompt = objectives.Seq2Seq(start=9).prompt(batch, (1,))
  assert {name: value.tolist() for name, value in prompt.items()} == {
    "encoder_input_tokens": [[11, 12, 1, 0], [0] * 4],
    "encoder_segment_ids": [[1, 1, 1, 0], [0] * 4],
    "encoder_positions": [[0, 1, 2, 0], [0] * 4],
  }


def expected_loss(normalization, examples, shape):
  """The loss in plain words, and in float64."""
  z_loss = 1e-2
  each = [Fixed().loss_of(targets, z_loss) for _, targets in examples]
  total = sum(values.sum() for values in each)
  if normalization is None:
    return total
  if normalization == "real_target_tokens":
    return total / sum(len(values) for values in each)
  if normalization == "total_target_tokens":
    return total / np.prod(shape)
  if normalization == "average_per_sequence":
    return np.mean([values.mean() for values in each])
  return total / normalization


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_normalized_loss_is_the_same_packed_or_not(normalization):
  examples = tiny.examples(6)
  objective = objectives.Seq2Seq(z_loss=1e-2, normalization=normalization)
  for rows in (
    [[e] for e in examples],
    [examples[:3], examples[3:5], examples[5:], []],
  ):
    batch = jax.tree.map(jnp.asarray, convert(rows))
    total, _ = objective.loss(Fixed(), batch, None)
    shape = batch["decoder_target_tokens"].shape
    np.testing.assert_allclose(
      total / objective.normalizer(batch),
      expected_loss(normalization, examples, shape),
      rtol=1e-5,
    )


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_a_batch_of_padding_gives_zero_and_not_nan(normalization):
  objective = objectives.Seq2Seq(normalization=normalization)
  batch = jax.tree.map(jnp.asarray, convert([[], []]))
  total, values = objective.loss(Fixed(), batch, None)
  assert total / objective.normalizer(batch) == 0.0
  assert set(metrics.values(values).values()) == {0.0}


def test_metrics_are_means_over_tokens_whatever_the_normalization():
  examples = tiny.examples(5)
  batch = jax.tree.map(jnp.asarray, convert([examples[:3], examples[3:]]))
  tokens = np.concatenate([targets for _, targets in examples])
  model = Fixed()
  plain, whole = model.loss_of(tokens, 0.0), model.loss_of(tokens, 0.5)
  expected = {
    "loss": whole.mean(),
    "cross_entropy": plain.mean(),
    "z_loss": (whole - plain).mean(),
    "accuracy": np.mean(model.table[tokens].argmax(-1) == tokens),
  }
  for normalization in NORMALIZATIONS:
    objective = objectives.Seq2Seq(z_loss=0.5, normalization=normalization)
    _, values = objective.loss(model, batch, None)
    assert metrics.values(values) == pytest.approx(expected, rel=1e-5)
    assert float(values["loss"].weight) == len(tokens)


def test_settings_that_make_no_sense_are_refused():
  with pytest.raises(errors.ConfigError, match="did you mean 'real_target"):
    objectives.Seq2Seq(normalization="real_targets_tokens")
  with pytest.raises(errors.ConfigError, match="normalization 0"):
    objectives.Seq2Seq(normalization=0)
  with pytest.raises(errors.ConfigError, match=r"1\.0 is not in \[0, 1\)"):
    objectives.Seq2Seq(label_smoothing=1.0)
  with pytest.raises(errors.ConfigError, match="got Fixed"):
    objectives.Seq2Seq().check(Fixed())
  objectives.Seq2Seq().check(tiny.fill(tiny.t5()))
