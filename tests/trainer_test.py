"""The training step: microbatches, seeds, one compilation, one state."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite import (
  errors,
  metrics,
  objectives,
  optimizers,
  partitioning,
  schedules,
  trainer,
)
from tests import tiny

COMPILE = "/jax/core/compile/backend_compile_duration"


def single():
  return partitioning.Partitioner({"data": 1}, {}, num_devices=1)


def make(model=None, objective=None, **kwargs):
  return trainer.Trainer(
    model or tiny.t5(),
    objective or objectives.Seq2Seq(),
    optimizers.adafactor(schedules.constant(0.02)),
    single(),
    **kwargs,
  )


def features(seed=0):
  """Task features of 4 rows of two examples."""
  flat = tiny.examples(8, seed)
  return tiny.pack([flat[i : i + 2] for i in range(0, 8, 2)])


@pytest.fixture(scope="module")
def run():
  return make()


@pytest.fixture(scope="module")
def initial(run):
  """The fresh state, on the host."""
  return jax.device_get(run.init())


@pytest.fixture
def compilations():
  """Durations of the compilations since the test began."""
  durations = []

  def listen(event, duration, **_):
    if event == COMPILE:
      durations.append(duration)

  jax.monitoring.register_event_duration_secs_listener(listen)
  yield durations
  jax.monitoring.unregister_event_duration_listener(listen)


def test_one_compilation_per_function(initial, compilations):
  jax.jit(lambda x: x + 1).lower(0.0).compile()
  assert len(compilations) == 1, "the listener hears nothing"
  fresh = make(num_microbatches=2)
  state = jax.device_put(initial, fresh.shardings)
  batches = [fresh.put(features(seed)) for seed in range(4)]
  compilations.clear()
  for batch in batches:
    state, _ = fresh.step(state, batch)
  assert len(compilations) == 1
  for batch in batches:
    fresh.eval_step(state.model, batch)
  assert len(compilations) == 2


@pytest.mark.parametrize("normalization", [None, "average_per_sequence"])
def test_microbatches_change_nothing(normalization):
  model = tiny.fill(tiny.t5())
  objective = objectives.Seq2Seq(normalization=normalization)
  batch = jax.tree.map(jnp.asarray, objective.convert(features()))
  results = [
    jax.jit(
      trainer.gradients, static_argnames=("objective", "num_microbatches")
    )(
      model,
      batch,
      jax.random.key(0),
      objective=objective,
      num_microbatches=count,
    )
    for count in (1, 2, 4)
  ]
  largest = max(np.abs(x).max() for x in jax.tree.leaves(results[0][0]))
  for other in results[1:]:
    tiny.assert_close(results[0][0], other[0], atol=1e-6 * largest, rtol=1e-5)
    tiny.assert_close(results[0][1], other[1], rtol=1e-5)


def test_gradients_are_those_of_the_normalized_loss():
  model = tiny.fill(tiny.t5())
  objective = objectives.Seq2Seq(normalization=3.0)
  batch = jax.tree.map(jnp.asarray, objective.convert(features()))
  key = jax.random.key(0)
  grads, *_ = jax.jit(
    lambda model: trainer.gradients(model, batch, key, objective=objective)
  )(model)
  # Along a random direction, against a difference of losses.
  rng = np.random.default_rng(0)
  direction = jax.tree.map(
    lambda x: jnp.asarray(rng.standard_normal(x.shape), x.dtype), model
  )
  loss = jax.jit(lambda model: objective.loss(model, batch, None)[0] / 3.0)

  def at(step):
    return float(
      loss(jax.tree.map(lambda x, d: x + step * d, model, direction))
    )

  slope = (at(1e-3) - at(-1e-3)) / 2e-3
  dots = jax.tree.map(lambda g, d: jnp.vdot(g, d), grads, direction)
  assert slope == pytest.approx(float(sum(jax.tree.leaves(dots))), rel=2e-2)


def test_training_learns_and_counts_and_tells(run, initial):
  state = jax.device_put(initial, run.shardings)
  batch = run.put(features())
  history = []
  for _ in range(30):
    state, values = run.step(state, batch)
    history.append(metrics.values(values))
  assert int(state.step) == 30
  assert history[-1]["loss"] < history[0]["loss"] - 0.3
  assert set(history[0]) == {
    *("loss", "cross_entropy", "z_loss", "accuracy"),
    *("gradient_norm", "learning_rate"),
  }
  assert history[0]["learning_rate"] == pytest.approx(0.02)
  assert history[0]["gradient_norm"] > 0
  loss = history[0]["cross_entropy"] + history[0]["z_loss"]
  assert history[0]["loss"] == pytest.approx(loss, rel=1e-5)


def test_parameters_are_a_function_of_the_seed(initial):
  tiny.assert_close(make(seed=0).init(), initial, rtol=0, atol=0)
  other = jax.device_get(make(seed=1).init())
  for name, leaf in tiny.leaves(other.model).items():
    if "scale" not in name:
      assert np.abs(leaf - tiny.leaves(initial.model)[name]).max() > 0.01, name


def test_steps_are_the_same_bits_every_time(run, initial):
  batch = run.put(features())

  def final():
    state = jax.device_put(initial, run.shardings)
    for _ in range(3):
      state, _ = run.step(state, batch)
    return jax.device_get(state)

  tiny.assert_close(final(), final(), rtol=0, atol=0)


def test_dropout_differs_from_step_to_step_and_not_otherwise(initial):
  fresh = make(tiny.t5(dropout=0.2))
  initial = jax.tree.unflatten(
    jax.tree.structure(fresh.abstract), jax.tree.leaves(initial)
  )
  batch = fresh.put(features())

  def loss(step):
    state = type(initial)(np.int32(step), initial.model, initial.opt_state)
    state = jax.device_put(state, fresh.shardings)
    return metrics.values(fresh.step(state, batch)[1])["loss"]

  assert loss(0) == loss(0)
  assert loss(0) != loss(1)
  without = fresh.eval_step(jax.device_put(initial.model), batch)
  assert metrics.values(without)["loss"] != loss(0)


def test_the_old_state_is_given_to_the_new_one(run, initial):
  state = jax.device_put(initial, run.shardings)
  batch = run.put(features())
  kernel = state.model.head.kernel[...]
  run.step(state, batch)
  assert kernel.is_deleted()


def test_abstract_describes_what_init_makes(run, initial):
  def same(abstract, array):
    assert (abstract.shape, abstract.dtype) == (array.shape, array.dtype)

  jax.tree.map(same, run.abstract, initial)


def test_evaluation_is_the_objective_without_dropout(run, initial):
  model, batch = initial.model, run.put(features(3))
  values = metrics.values(run.eval_step(model, batch))
  loss = jax.jit(lambda model: run.objective.loss(model, batch, None)[1])
  expected = loss(model)
  assert values == pytest.approx(metrics.values(expected), rel=1e-5)


def test_metrics_of_parts_add_up_to_those_of_the_whole(run, initial):
  model, rows = initial.model, features()
  halves = [
    run.eval_step(model, run.put({k: v[part] for k, v in rows.items()}))
    for part in (slice(0, 2), slice(2, 4))
  ]
  whole = metrics.values(run.eval_step(model, run.put(rows)))
  merged = metrics.values(metrics.merge(*halves))
  assert merged == pytest.approx(whole, rel=1e-5)


def test_a_model_of_another_kind_is_refused():
  class Other(type(tiny.fill(tiny.t5()).head)):
    pass

  run = make(tiny.partial(Other, 4, 4))
  with pytest.raises(errors.ConfigError, match="needs an EncoderDecoder"):
    run.check()
