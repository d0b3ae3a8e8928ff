"""Held-out loss, and several evaluators in a row."""

import dataclasses
import functools

import pytest

from t5x_lite import (
  errors,
  evaluators,
  metrics,
)
from tests import tiny, toy_tasks


@pytest.fixture(scope="module", autouse=True)
def tasks():
  toy_tasks.register()


@pytest.fixture(scope="module")
def trainer():
  return toy_tasks.trainer()


@pytest.fixture(scope="module")
def model():
  return tiny.fill(tiny.t5(vocab=384))


def test_loss_is_that_of_the_whole_split(trainer, model):
  """Packed or not, in one batch or in many, on all devices."""
  rows = [next(toy_tasks.dataset(pack=False).iterator())]
  total = functools.reduce(
    metrics.merge,
    (trainer.eval_step(model, trainer.put(batch)) for batch in rows),
  )
  expected = metrics.values(total)
  assert float(total["loss"].weight) == sum(
    len(target.encode()) + 1 for _, target in toy_tasks.PAIRS
  )
  for dataset in (toy_tasks.dataset(), toy_tasks.dataset(pack=False)):
    found = evaluators.LossEvaluator("x", dataset)(
      trainer, toy_tasks.state(model)
    )
    assert found == pytest.approx(expected, rel=1e-5)
  assert expected["loss"] > 1


def test_loss_of_the_first_batches_is_always_of_the_same(trainer, model):
  dataset = toy_tasks.dataset(num_epochs=None, shuffle=True, seed=3, pack=False)
  evaluator = evaluators.LossEvaluator("x", dataset, num_batches=2)
  first = evaluator(trainer, toy_tasks.state(model))
  assert evaluator(trainer, toy_tasks.state(model)) == first
  iterator = dataset.iterator()
  parts = [
    trainer.eval_step(model, trainer.put(next(iterator))) for _ in range(2)
  ]
  assert first == metrics.values(metrics.merge(*parts))
  one = dataclasses.replace(evaluator, num_batches=1)
  assert one(trainer, toy_tasks.state(model)) == metrics.values(parts[0])


def test_loss_mistakes(trainer, model):
  with pytest.raises(errors.ConfigError, match="would never end"):
    evaluators.LossEvaluator("x", toy_tasks.dataset(num_epochs=None))
  with pytest.raises(errors.ConfigError, match="num_batches is 0"):
    evaluators.LossEvaluator("x", toy_tasks.dataset(), num_batches=0)
  with pytest.raises(errors.DataError, match="no examples"):
    evaluators.LossEvaluator("x", toy_tasks.dataset("nothing"))(
      trainer, toy_tasks.state(model)
    )


def test_run_names_metrics_after_their_evaluators(trainer, tmp_path):
  class Constant:
    def __init__(self, name):
      self.name = name

    def __call__(self, trainer, state):
      return {"one": 1.0}

  several = evaluators.in_workdir(
    [toy_tasks.evaluator("pairs", name="held_out"), Constant("b")], tmp_path
  )
  values = evaluators.run(several, trainer, toy_tasks.COPY)
  assert set(values) == {
    "held_out/pairs/accuracy",
    "held_out/pairs/count",
    "b/one",
  }
  assert (tmp_path / "predictions" / "pairs-7.jsonl").exists()
  with pytest.raises(errors.ConfigError, match="two evaluators .* 'b'"):
    evaluators.run([Constant("b"), Constant("b")], trainer, toy_tasks.COPY)
