"""Losses a few positions at a time: as of the whole, in less memory."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite import (
  errors,
  flops,
  metrics,
  objectives,
  partitioning,
  traced_flops,
)
from t5x_lite.objectives import chunked
from tests import tiny
from tests.objectives import toy

partial = functools.partial
# Of rows of 24, so that the last chunk is not full.
SETTINGS = {"logits_chunk": 5, "z_loss": 0.02}
CASES = {
  "seq2seq": (partial(objectives.Seq2Seq, label_smoothing=0.1), {}),
  "causal_lm": (objectives.CausalLM, {}),
  "prefix_lm": (objectives.PrefixLM, {}),
  "lm_classification": (objectives.LMClassification, {}),
  "masked_lm_next_sentence": (
    partial(objectives.MaskedLM, next_sentence=True),
    {"predictions": 9},
  ),
}


def evaluated(objective, model, batch):
  """Loss, metrics and gradients."""

  @jax.jit
  @partial(jax.value_and_grad, has_aux=True)
  def run(model, batch):
    total, values = objective.loss(model, batch, None)
    return jnp.sum(total / objective.normalizer(batch)), values

  (loss, values), grads = run(model, batch)
  return float(loss), metrics.values(values), grads


@pytest.mark.parametrize("case", CASES)
def test_losses_metrics_and_gradients_are_those_of_the_whole(case):
  make, extra = CASES[case]
  whole = make(z_loss=SETTINGS["z_loss"])
  some = toy.examples(whole, 4)
  batch = toy.convert(whole, [some[:1], some[1:3], some[3:], []])
  model = toy.model(case)
  loss, values, grads = evaluated(whole, model, batch)
  found = evaluated(make(**SETTINGS, **extra), model, batch)
  assert found[0] == pytest.approx(loss, rel=1e-6)
  assert found[1] == pytest.approx(values, rel=1e-6)
  tiny.assert_close(found[2], grads, rtol=1e-4, atol=1e-6)


def test_gradients_equal_float64():
  rng = np.random.default_rng(0)
  x, kernel = rng.standard_normal((2, 7, 4)), rng.standard_normal((4, 11))
  targets = rng.integers(0, 11, (2, 7))
  weights, z_loss, smoothing = rng.random((2, 7)), 0.1, 0.2

  def loss(x, kernel):
    readout = jax.tree_util.Partial(lambda kernel, x: x @ kernel, kernel)
    token = chunked.cross_entropy(
      readout, x, targets, chunk=3, z_loss=z_loss, label_smoothing=smoothing
    )
    return jnp.sum((token.cross_entropy + token.z_loss) * weights)

  found = jax.grad(loss, (0, 1))(jnp.float32(x), jnp.float32(kernel))
  logits = x @ kernel
  log_z = np.log(np.sum(np.exp(logits), axis=-1, keepdims=True))
  soft = np.full((2, 7, 11), smoothing / 10)
  np.put_along_axis(soft, targets[..., None], 1 - smoothing, axis=-1)
  softmax = np.exp(logits - log_z)
  back = softmax - soft + 2 * z_loss * log_z * softmax
  back *= weights[..., None]
  np.testing.assert_allclose(found[0], back @ kernel.T, atol=1e-5)
  expected = np.einsum("btd,btv->dv", x, back)
  np.testing.assert_allclose(found[1], expected, atol=1e-5)


TENSOR = {"embed": "data", "heads": "model", "mlp": "model", "vocab": "model"}


@pytest.mark.parametrize(
  "shape, rules",
  [
    ({"data": 4, "model": 2}, {"batch": "data", **TENSOR}),
    ({"data": 2, "sequence": 4}, {"batch": "data", "length": "sequence"}),
  ],
)
def test_devices_scan_over_parts_of_their_own(shape, rules):
  objective = objectives.CausalLM(logits_chunk=8)
  some = toy.examples(objective, 8)
  batch = toy.convert(objective, [[one] for one in some])
  model = toy.model("causal_lm")
  loss, _, grads = evaluated(objectives.CausalLM(), model, batch)
  partitioner = partitioning.Partitioner(shape, rules)

  def run(model, batch):
    total, _ = objective.loss(model, batch, None)
    return total / objective.normalizer(batch)

  with partitioner.activate():
    placed = jax.device_put(model, partitioner.shardings(model))
    rows = partitioner.put(batch)
    step = jax.jit(jax.value_and_grad(run)).lower(placed, rows).compile()
  found = step(placed, rows)
  assert float(found[0]) == pytest.approx(loss, rel=1e-6)
  tiny.assert_close(found[1], grads, rtol=1e-4, atol=1e-6)
  # Nothing as large as the head is exchanged within a loop.
  parts = shape.get("model", 1)
  head = rf"f32\[16,{toy.VOCAB // parts}\]"
  text = step.as_text()
  loops = set(re.findall(r"body=%?([\w.-]+)", text))
  assert loops
  for part in re.split(r"\n(?=%|ENTRY)", text):
    name = re.match(r"%?([\w.-]+)", part)
    if name and name[1] in loops:
      assert not re.search(rf"= .*{head}.* all-(reduce|gather)\(", part), name


def test_logits_of_all_positions_never_exist():
  model = toy.model("seq2seq")
  batch = toy.convert(objectives.Seq2Seq(), [[]] * 4)

  def sizes(objective):
    def run(model):
      return objective.loss(model, batch, None)[0]

    text = jax.jit(jax.grad(run)).lower(model).compile().as_text()
    shapes = re.findall(r"f32\[([\d,]+)\]", text)
    shapes = [[int(n) for n in shape.split(",")] for shape in shapes]
    return {np.prod(shape) for shape in shapes if toy.VOCAB in shape}

  rows = 4 * toy.VOCAB
  assert max(sizes(objectives.Seq2Seq())) == rows * toy.LENGTH
  # The head's matrix is the largest of what is left.
  head = toy.VOCAB * 16
  assert max(sizes(objectives.Seq2Seq(logits_chunk=3))) == head > rows * 3


def test_logits_that_are_left_out_are_no_flops():
  """Neither in the traced loss nor in the formula."""
  make, extra = CASES["masked_lm_next_sentence"]
  some = toy.examples(make(), 4)
  batch = toy.convert(make(), [some[:1], some[1:3], some[3:], []])
  model = toy.model("masked_lm_next_sentence")
  traced, formula = [], []
  for objective in (make(), make(**extra)):

    def forward(model, batch, objective=objective):
      return objective.loss(model, batch, None)[0]

    traced.append(traced_flops.of_program(forward, model, batch))
    step = flops.of_training_step(model, batch, objective)
    formula.append(step.total_full / 3)
  assert formula[0] > formula[1]
  assert traced[0] - traced[1] == formula[0] - formula[1]


def test_rows_with_more_masked_tokens_than_predictions_are_refused():
  objective = objectives.MaskedLM(predictions=2)
  inputs, targets = np.arange(2, 6), np.array([7, 7, 0, 7])
  rows = [[{"inputs": inputs, "targets": targets}]]
  with pytest.raises(errors.DataError, match="has 3 masked tokens .* is 2"):
    toy.convert(objective, rows)


@pytest.mark.parametrize(
  "make, name",
  [
    (objectives.CausalLM, "logits_chunk"),
    (objectives.LMClassification, "logits_chunk"),
    (objectives.MaskedLM, "predictions"),
  ],
)
def test_sizes_are_positive(make, name):
  with pytest.raises(errors.ConfigError, match=f"{name} is 0; use 1 or more"):
    make(**{name: 0})
