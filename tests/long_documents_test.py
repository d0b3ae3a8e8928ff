"""Training on documents longer than a row: states go from batch to batch."""

import dataclasses

import jax
import numpy as np
import pytest

from t5x_lite import (
  checkpoints,
  datasets,
  errors,
  evaluators,
  metrics,
  objectives,
)
from tests import tiny, toy_data
from tests import toy_long_documents as long
from tests.checkpoints import toy


@pytest.fixture(scope="module")
def alone():
  """On one device, all rows at once."""
  return long.run()


@pytest.fixture(scope="module")
def divided():
  """On two devices, in two microbatches."""
  return long.run(devices=2, num_microbatches=2)


def steps(one, state, found):
  """The state after batches, and the loss of each."""
  losses = []
  for batch in found:
    state, values = one.step(state, one.put(batch))
    losses.append(metrics.values(values)["loss"])
  return state, losses


def test_steps_go_on_from_the_batch_before(alone):
  found = long.batches(3)
  _, losses = steps(alone, alone.init(), found)
  state, _ = steps(alone, alone.init(), found[:2])
  model, third = state.model, alone.put(found[2])
  sums = [
    jax.jit(long.OBJECTIVE.carry)(model, third, None, carried)[0]
    for carried in (state.carried, model.init_carried(long.ROWS))
  ]
  means = [float(x / long.OBJECTIVE.normalizer(third)) for x in sums]
  assert losses[2] == pytest.approx(means[0], rel=1e-5)
  assert abs(means[1] - means[0]) > 1e-4


def test_devices_and_microbatches_change_nothing(alone, divided):
  abstract = divided.abstract.carried
  for x in jax.tree.leaves(abstract):
    assert x.sharding.shard_shape(x.shape) == (2, long.ROWS // 2, 8)
  found = long.batches(3)
  one, losses = steps(alone, alone.init(), found)
  two, same = steps(divided, divided.init(), found)
  assert losses == pytest.approx(same, rel=1e-5)
  tiny.assert_close(one.carried, two.carried, rtol=1e-4, atol=1e-5)
  for x, y in zip(
    jax.tree.leaves(two.carried), jax.tree.leaves(abstract), strict=True
  ):
    assert x.sharding.is_equivalent_to(y.sharding, x.ndim)


@pytest.fixture(scope="module")
def task(tmp_path_factory):
  folder = tmp_path_factory.mktemp("long")
  rng = np.random.default_rng(0)
  texts = [f"{i:02}:" + "abcdefg" * rng.integers(1, 18) for i in range(40)]
  toy_data.write(folder, texts, 4)
  return toy_data.task(folder, features=("targets",))


def test_a_run_goes_on_bit_for_bit(tmp_path, task, divided):
  data = datasets.Dataset(
    task,
    {"targets": long.LENGTH},
    long.ROWS,
    num_shards=2,
    document_length=200,
    shuffle_buffer=5,
    task_modules=(),
  )
  iterator = data.iterator()
  found = [next(iterator) for _ in range(5)]
  state, _ = steps(divided, divided.init(), found)
  with checkpoints.Checkpointer(every=1).open(tmp_path) as session:
    session.save(5, state, iterator)
    found = [next(iterator) for _ in range(5)]
    state, losses = steps(divided, state, found)
  assert any(batch["targets_before"].any() for batch in found)
  iterator = data.iterator()
  with checkpoints.Checkpointer(every=1).open(tmp_path) as session:
    restored = session.restore(divided.abstract, iterator)
  assert all(np.any(x) for x in jax.tree.leaves(restored.carried))
  found = [next(iterator) for _ in range(5)]
  other, same = steps(divided, restored, found)
  assert losses == same
  toy.assert_same(other, state)


def test_others_carry_nothing():
  one = long.run(objective=objectives.CausalLM())
  assert one.abstract.carried == ()
  names = checkpoints.specs(one.abstract)
  assert {name.split("/")[0] for name in names} == {
    *("step", "model", "opt_state")
  }
  # Nor does one that only evaluates.
  assert long.run(batch_size=0).abstract.carried == ()


def test_evaluation_begins_rows_anew(alone):
  model, (_, second) = alone.init().model, long.batches(2)
  second.pop("targets_before")
  found = metrics.values(alone.eval_step(model, alone.put(second)))
  plain = long.run(objective=objectives.CausalLM())
  expected = metrics.values(plain.eval_step(model, plain.put(second)))
  assert found == pytest.approx(expected)


def test_an_evaluator_of_rows_that_go_on_is_refused():
  data = datasets.Dataset("any", {"targets": 8}, 4, num_epochs=1)
  evaluators.LossEvaluator("eval", data)
  data = dataclasses.replace(data, document_length=100)
  with pytest.raises(errors.ConfigError, match="begins every row anew"):
    evaluators.LossEvaluator("eval", data)
