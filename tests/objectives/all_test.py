"""What every objective promises, with random tiny models."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite import errors, metrics, objectives, trainer
from tests import tiny
from tests.objectives import toy

# Padding counts in the one that is left out.
NORMALIZATIONS = (None, 7.0, "real_target_tokens", "average_per_sequence")
GENERATIVE = ("seq2seq", "causal_lm", "prefix_lm", "causal_prefix_lm")
ROWS = 6  # of all batches, so that each case compiles once


@pytest.fixture(params=toy.CASES, scope="module")
def case(request):
  return request.param


def make(case, **settings):
  return toy.CASES[case][0](**settings)


def convert(objective, rows):
  return toy.convert(objective, [*rows, *[[]] * (ROWS - len(rows))])


@functools.cache
def compiled(case):
  """Batch -> (normalized loss, metrics), gradients."""
  objective, model = make(case), toy.model(case)

  def loss(model, batch):
    total, values = objective.loss(model, batch, None)
    return jnp.sum(total / objective.normalizer(batch)), values

  run = jax.jit(jax.value_and_grad(loss, has_aux=True))
  return lambda batch: run(model, batch)


@functools.cache
def outputs(case):
  """Batch -> what the model says of it, as a model that says just that."""

  @jax.jit
  def run(model, batch):
    if case == "lm_classification":
      return model.outputs(batch)
    found = model(batch)
    return found if isinstance(found, dict) else {"logits": found}

  return lambda batch: toy.Fixed(**run(toy.model(case), batch))


def test_the_model_fits(case):
  make(case).check(toy.model(case))


def test_packed_rows_equal_separate_ones(case):
  objective = make(case)
  examples = toy.examples(objective, 5)
  packed = convert(objective, [examples[:2], examples[2:4], examples[4:]])
  separate = convert(objective, [[example] for example in examples])
  (loss, values), grads = compiled(case)(packed)
  (alone, others), expected = compiled(case)(separate)
  assert np.isfinite(loss) and loss > 0
  np.testing.assert_allclose(loss, alone, rtol=1e-5)
  values, others = metrics.values(values), metrics.values(others)
  assert values == pytest.approx(others, rel=1e-5)
  # Metrics are means, and so is the loss by default.
  assert values["loss"] == pytest.approx(float(loss), rel=1e-5)
  tiny.assert_close(grads, expected, rtol=1e-3, atol=1e-4 * float(loss))
  leaves = tiny.leaves(grads)
  for name, value in leaves.items():
    assert np.isfinite(value).all(), name
  assert any(value.any() for value in leaves.values())


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_normalized_losses_are_the_same_packed_or_not(case, normalization):
  objective = make(case, normalization=normalization)
  examples = toy.examples(objective, 5)

  def loss(rows):
    batch = convert(objective, rows)
    total, _ = objective.loss(outputs(case)(batch), batch, None)
    return float(jnp.sum(total / objective.normalizer(batch)))

  packed = loss([examples[:2], examples[2:4], examples[4:]])
  separate = loss([[example] for example in examples])
  assert packed == pytest.approx(separate, rel=1e-5)
  assert loss([]) == 0.0


@pytest.mark.parametrize(
  "case", ["masked_lm_next_sentence", "lm_classification", "span_extraction"]
)
def test_microbatches_change_nothing(case):
  objective = make(case)
  flat = toy.examples(objective, 7)
  rows = [flat[:3], flat[3:4], [], flat[4:6], flat[6:]]
  batch = convert(objective, rows)
  (_, whole), expected = compiled(case)(batch)

  @jax.jit
  def run(model):
    return trainer.gradients(
      model,
      batch,
      jax.random.key(0),
      objective=objective,
      num_microbatches=3,
    )

  grads, values, _ = run(toy.model(case))
  whole = metrics.values(whole)
  assert metrics.values(values) == pytest.approx(whole, rel=1e-4)
  tiny.assert_close(grads, expected, rtol=1e-3, atol=1e-5)


def test_a_batch_of_padding_gives_zero_and_not_nan(case):
  batch = convert(make(case), [])
  for name, value in batch.items():
    assert not value.any(), name
  (loss, values), grads = compiled(case)(batch)
  assert loss == 0.0
  assert set(metrics.values(values).values()) == {0.0}
  assert not any(value.any() for value in tiny.leaves(grads).values())


def without_weight(batch, case):
  """Name of an output -> [B T], where it has no influence."""
  labels = batch.get("labels")
  if case == "span_extraction":  # all tokens of an example compete
    return {"span": batch["encoder_segment_ids"] == 0}
  if case == "lm_classification":
    return {
      "classification": labels == 0,
      "logits": batch["decoder_loss_weights"] == 0,
    }
  if case == "causal_labelling":
    return {"logits": labels == 0}
  if case in GENERATIVE:
    return {"logits": batch["decoder_loss_weights"] == 0}
  found = {"classification": labels, "tokens": labels, "next_sentence": labels}
  found = {k: v == 0 for k, v in found.items() if v is not None}
  if "encoder_loss_weights" in batch:
    found["masked_lm"] = batch["encoder_loss_weights"] == 0
  return found


def spoilt(model, where):
  """A model with other outputs where `where` says so."""
  noise = np.random.default_rng(0)
  found = {}
  for name, x in model.given.items():
    if name in where:
      other = 9 * noise.standard_normal(x.shape).astype(np.float32)
      found[name] = jnp.where(where[name][..., None], other, x)
  return toy.Fixed(**found)


def test_what_has_no_weight_has_no_influence(case):
  objective = make(case)
  examples = toy.examples(objective, 4)
  batch = convert(objective, [examples[:2], examples[2:]])
  model, where = outputs(case)(batch), without_weight(batch, case)
  assert all(w.any() and not w.all() for w in where.values())
  others = dict(batch)
  for side in ("encoder", "decoder"):
    name = f"{side}_target_tokens"
    if name in batch:
      weights = batch[f"{side}_loss_weights"]
      others[name] = jnp.where(weights == 0, 5, batch[name])
  expected = objective.loss(model, batch, None)
  found = objective.loss(spoilt(model, where), others, None)
  tiny.assert_close(found, expected, rtol=1e-6)
  # The same noise where there is weight does change the loss.
  real = {name: ~value for name, value in where.items()}
  changed, _ = objective.loss(spoilt(model, real), others, None)
  assert np.all(np.abs(changed - expected[0]) > 1e-3)


def test_only_generative_objectives_have_prompts(case):
  found = isinstance(make(case), objectives.Generative)
  assert found == (case in GENERATIVE)


def test_all_features_have_a_dtype_of_the_device(case):
  objective = make(case)
  lengths = dict.fromkeys(objective.features, toy.LENGTH)
  batch = objective.convert(toy.pack([toy.examples(objective, 2)], lengths))
  for name, value in batch.items():
    kind = np.float32 if name.endswith("weights") else np.int32
    assert value.dtype == kind, name
    assert len(value) == 1


def test_other_kinds_of_models_are_refused(case):
  own = type(toy.model(case)).__name__
  name = type(make(case)).__name__
  for other in ("seq2seq", "causal_lm", "classification"):
    model = toy.model(other)
    if type(model).__name__ != own:
      with pytest.raises(errors.ConfigError) as error:
        make(case).check(model)
      assert str(error.value).startswith(f"{name} needs a")
      assert f" {own} model, got {type(model).__name__}: " in str(error.value)
      assert f"another objective file, for this model {other}" in str(
        error.value
      ).replace("masked_lm, masked_lm_next_sentence, ", "")
