"""Learning rates of their own for parameters by name."""

import gin
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from t5x_lite import errors, layers, optimizers
from tests import model_files, tiny


@pytest.fixture(scope="module")
def model():
  return tiny.fill(tiny.t5(encoder_layers=2, decoder_layers=1))


def gradients(model):
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda x: jnp.asarray(rng.standard_normal(x.shape), x.dtype), model
  )


def run(optimizer, params, grads):
  """Parameters after one step."""

  @jax.jit
  def step(params, grads):
    state = optimizer.transform.init(params)
    updates, _ = optimizer.transform.update(grads, state, params)
    return optax.apply_updates(params, updates)

  return step(params, grads)


def test_groups_have_learning_rates_of_their_own(model):
  grads = gradients(model)
  base = optimizers.adamw(0.01, weight_decay=0.1, clip_norm=1.0)
  rates = {"norm": 0.25, "wi": 0.0, r"wi|\bwo\b": 0.5}
  grouped = optimizers.grouped(base, rates=rates)
  assert grouped.schedule is base.schedule
  before = tiny.leaves(model)
  plain = tiny.leaves(run(base, model, grads))
  moved = tiny.leaves(run(grouped, model, grads))
  factors = set()
  for name, start in before.items():
    # The first that matches counts: "wi" stays although the third has it too.
    found = [
      f
      for part, f in zip(("norm", ".wi.", ".wo."), (0.25, 0, 0.5), strict=True)
      if part in name
    ]
    factor = found[0] if found else 1.0
    factors.add(factor)
    np.testing.assert_allclose(
      moved[name] - start,
      factor * (plain[name] - start),
      atol=2e-7,
      err_msg=name,
    )
    assert factor == 0 or np.abs(moved[name] - start).max() > 1e-4
  assert factors == {0.0, 0.25, 0.5, 1.0}


def test_a_group_of_nothing_is_refused(model):
  base = optimizers.adamw(0.01)
  grouped = optimizers.grouped(base, rates={"norm": 0.1, "log_dt": 0.1})
  with pytest.raises(errors.ConfigError, match="'log_dt'; some of them: .*en"):
    grouped.transform.init(model)
  with pytest.raises(errors.ConfigError, match="factor -1.0 of 'norm'"):
    optimizers.grouped(base, rates={"norm": -1.0})


def test_the_dynamics_of_s4_learn_slowly_and_do_not_decay():
  """As optimizers/s4.gin has it, on the model of models/s4/tiny.gin."""
  gin.clear_config(clear_constants=True)
  gin.add_config_file_search_path(str(model_files.GIN))
  gin.parse_config_files_and_bindings(
    ["optimizers/s4.gin"],
    ["LEARNING_RATE = 0.1", "WEIGHT_DECAY = 0.5", "TRAIN_STEPS = 10"],
  )
  optimizer = gin.query_parameter(
    "OPTIMIZER/macro.value"
  ).scoped_configurable_fn()
  gin.clear_config(clear_constants=True)
  s4 = tiny.fill(lambda rngs: layers.S4(4, state_dim=4, rngs=rngs))
  model = {"s4": s4}
  before = tiny.leaves(model)

  def moved(value):
    grads = jax.tree.map(lambda x: jnp.full_like(x, value), model)
    after = tiny.leaves(run(optimizer, model, grads))
    return {name: after[name] - before[name] for name in before}

  dynamics = {"log_dt", "log_decay", "frequency", "low_rank", "b"}
  for name, change in moved(1e-3).items():
    slow = name.split(".")[1] in dynamics
    # Adam's first step is the learning rate, whatever the gradient.
    decay = 0.0 if slow or "bias" in name else 0.1 * 0.5 * before[name]
    expected = -0.1 * (0.25 if slow else 1.0) - decay
    expected = np.broadcast_to(expected, change.shape)
    np.testing.assert_allclose(change, expected, rtol=1e-3, err_msg=name)
