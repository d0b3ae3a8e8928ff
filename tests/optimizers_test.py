"""Adafactor per layer against two other ways to compute it, and AdamW."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from t5x_lite import compat, optimizers, schedules
from tests import tiny

STEPS = 3
# Matrices below 16 x 16 are not factored: the tiny model has both kinds.
MIN_DIM = 16
SETTINGS = {
  "factored": {},
  "unfactored": {"factored": False},
  "momentum": {"momentum": 0.9},
  "weight decay": {"weight_decay": 0.01},
  "bare": {
    "multiply_by_parameter_scale": False,
    "clipping_threshold": None,
    "decay_rate": 0.5,
  },
}


@pytest.fixture(scope="module")
def model():
  """Every kind of parameter: stacked and not, matrices, norms and a table."""
  whole = tiny.fill(tiny.t5(encoder_layers=2, dim=24))
  return {"embedding": whole.embedding, "encoder": whole.encoder}


@pytest.fixture(scope="module")
def grads(model):
  """Gradients of each step, of sizes from 1e-3 to 10."""
  rng = np.random.default_rng(0)

  def one(x):
    return jnp.asarray(
      rng.standard_normal(x.shape) * 10.0 ** rng.uniform(-3, 1), x.dtype
    )

  return [jax.tree.map(one, model) for _ in range(STEPS)]


def run(optimizer, params, grads):
  """Parameters after every step."""
  transform = optimizer.transform

  @jax.jit
  def step(params, state, grads):
    updates, state = transform.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  state, history = jax.jit(transform.init)(params), []
  for each in grads:
    params, state = step(params, state, each)
    history.append(params)
  return history


def matrices(tree):
  """(path, layer) -> the parameter as T5 had it: [in, out] of one layer."""
  result = {}
  flat, _ = jax.tree_util.tree_flatten_with_path(
    tree, is_leaf=compat.is_variable
  )
  for path, param in flat:
    axes, value = compat.axes_of(param), np.asarray(param[...])
    if value.ndim == len(axes):
      value = value[None]
    if axes == ("embed", "heads", "head_dim"):
      value = value.reshape(*value.shape[:2], -1)
    elif axes == ("heads", "head_dim", "embed"):
      value = value.reshape(value.shape[0], -1, value.shape[-1])
    name = jax.tree_util.keystr(path)
    result |= {(name, i): layer for i, layer in enumerate(value)}
  return result


def adafactor(**settings):
  settings = {"min_dim_size_to_factor": MIN_DIM, **settings}
  return optimizers.adafactor(schedules.rsqrt(0.3, 2), **settings)


@pytest.fixture(scope="module", params=SETTINGS)
def case(request, model, grads):
  """Settings of Adafactor, and the parameters that it comes to."""
  settings = SETTINGS[request.param]
  return settings, run(adafactor(**settings), model, grads)


def test_adafactor_equals_optax_on_every_layer_by_itself(case, model, grads):
  settings, together = dict(case[0]), case[1]
  decay = settings.pop("weight_decay", None)
  single = optax.adafactor(
    schedules.rsqrt(0.3, 2),
    min_dim_size_to_factor=MIN_DIM,
    weight_decay_rate=decay,
    **settings,
  )
  separate = run(
    optimizers.from_optax(single, 0.0),
    matrices(model),
    [matrices(g) for g in grads],
  )
  for ours, theirs in zip(together, separate, strict=True):
    tiny.assert_close(matrices(ours), theirs, rtol=2e-6, atol=1e-7)


class Paper:
  """Adafactor of one matrix, by algorithms 4 and 5 of the paper and T5's use.

  Shazeer and Stern 2018, sections 6 to 9, in float64; weight decay and
  momentum as T5X has them.
  """

  def __init__(
    self,
    factored=True,
    decay_rate=0.8,
    clipping_threshold=1.0,
    multiply_by_parameter_scale=True,
    momentum=None,
    weight_decay=0.0,
  ):
    self.factored, self.decay_rate = factored, decay_rate
    self.threshold, self.relative = (
      clipping_threshold,
      (multiply_by_parameter_scale),
    )
    self.momentum, self.weight_decay = momentum, weight_decay
    self.t, self.row, self.column, self.all, self.mean = 0, 0.0, 0.0, 0.0, 0.0

  def second_moment(self, squared):
    decay = 1 - (self.t + 1.0) ** -self.decay_rate
    new = 1 - decay
    if self.factored and squared.ndim == 2 and min(squared.shape) >= MIN_DIM:
      self.row = decay * self.row + new * squared.sum(1)
      self.column = decay * self.column + new * squared.sum(0)
      return np.outer(self.row, self.column) / self.row.sum()
    self.all = decay * self.all + new * squared
    return self.all

  def step(self, param, grad):
    param, grad = np.float64(param), np.float64(grad)

    def rms(x):
      return np.sqrt(np.mean(x**2))

    update = grad / np.sqrt(self.second_moment(grad**2 + 1e-30))
    if self.threshold:
      update /= max(1.0, rms(update) / self.threshold)
    update *= 0.3 / np.sqrt(max(self.t, 2))  # the schedule
    if self.relative:
      update *= max(1e-3, rms(param))
    if self.momentum:
      self.mean = self.momentum * self.mean + (1 - self.momentum) * update
      update = self.mean
    self.t += 1
    return param - update - self.weight_decay * param


def test_adafactor_equals_the_paper(case, model, grads):
  settings, history = case
  params = matrices(model)
  papers = {key: Paper(**settings) for key in params}
  for each, ours in zip(grads, history, strict=True):
    each = matrices(each)
    params = {k: papers[k].step(params[k], each[k]) for k in params}
    tiny.assert_close(matrices(ours), params, rtol=1e-5, atol=1e-6)


def test_parameters_of_almost_zero_still_move(model, grads):
  zeros = jax.tree.map(jnp.zeros_like, model)
  moved = run(adafactor(), zeros, grads[:1])[0]
  # The scale of a parameter counts as 1e-3 at least.
  assert all(np.abs(x).max() > 1e-5 for x in jax.tree.leaves(moved))


def test_state_is_small_where_factored_and_shaped_like_the_parameter_else(
  model,
):
  state = jax.eval_shape(adafactor().transform.init, model)
  wi = state["encoder"].layers.feed_forward.sublayer.wi.kernel[0]
  assert (wi.v_row.shape, wi.v_col.shape) == ((2, 24), (2, 32))
  assert wi.v.shape == (2, 1)
  assert wi.count.shape == ()
  out = state["encoder"].layers.attention.sublayer.out.kernel[0]
  assert sorted([out.v_row.shape, out.v_col.shape]) == [(2, 24), (2, 32)]
  full = jax.eval_shape(adafactor(factored=False).transform.init, model)
  for name in ("query", "out"):
    sublayer = model["encoder"].layers.attention.sublayer
    param = getattr(sublayer, name).kernel
    other = getattr(full["encoder"].layers.attention.sublayer, name).kernel[0]
    assert other.v.shape == param.shape
    assert compat.axes_of(other.v) == compat.axes_of(param)


def test_clip_norm_scales_all_gradients_together(model, grads):
  norm = jax.jit(optax.global_norm)

  def clip(tree):
    factor = min(1.0, 5.0 / float(norm(tree)))
    return jax.tree.map(lambda x: np.asarray(x) * factor, tree)

  small = jax.tree.map(lambda x: np.asarray(x) * 1e-3, grads[0])
  sizes = [small, *grads[1:]]
  assert float(norm(small)) < 5.0 < min(float(norm(g)) for g in grads)
  plain = {"clipping_threshold": None, "min_dim_size_to_factor": MIN_DIM}
  for make in (
    lambda clip_norm: optimizers.adafactor(1e-2, clip_norm=clip_norm, **plain),
    lambda clip_norm: optimizers.adamw(1e-2, clip_norm=clip_norm),
  ):
    clipped = run(make(5.0), model, sizes)[-1]
    expected = run(make(None), model, [clip(g) for g in sizes])[-1]
    tiny.assert_close(clipped, expected, rtol=1e-4, atol=1e-5)
    unclipped = run(make(None), model, sizes)[-1]
    with pytest.raises(AssertionError):
      tiny.assert_close(clipped, unclipped, rtol=1e-4, atol=1e-5)


def test_adamw_decays_matrices_but_neither_norms_nor_biases(model, grads):
  zeros = [jax.tree.map(jnp.zeros_like, grads[0])]
  optimizer = optimizers.adamw(0.1, weight_decay=0.5)
  moved = tiny.leaves(run(optimizer, model, zeros)[0])
  before = tiny.leaves(model)
  kept = {name for name in moved if np.array_equal(moved[name], before[name])}
  assert kept == {n for n in moved if "norm" in n or "bias" in n}
  assert len(kept) == 4  # 2 sublayers, the final norm, the table
  for name in set(moved) - kept:
    np.testing.assert_allclose(moved[name], 0.95 * before[name], rtol=1e-6)


def test_adamw_equals_the_formula(model, grads):
  optimizer = optimizers.adamw(
    schedules.constant(0.01), weight_decay=0.0, clip_norm=None, b2=0.99
  )
  history = run(optimizer, model, grads)
  params, first, second = tiny.leaves(model), {}, {}
  for t, each in enumerate(map(tiny.leaves, grads), 1):
    for name, g in each.items():
      g = np.float64(g)
      first[name] = 0.9 * first.get(name, 0.0) + 0.1 * g
      second[name] = 0.99 * second.get(name, 0.0) + 0.01 * g**2
      mean, square = first[name] / (1 - 0.9**t), second[name] / (1 - 0.99**t)
      params[name] = params[name] - 0.01 * mean / (np.sqrt(square) + 1e-8)
    tiny.assert_close(tiny.leaves(history[t - 1]), params, atol=1e-5)


def test_the_schedule_is_what_the_log_shows():
  assert float(optimizers.adafactor(0.5).schedule(3)) == 0.5
  schedule = schedules.rsqrt()
  assert optimizers.adamw(schedule).schedule is schedule
  sgd = optimizers.from_optax(optax.sgd(0.1), 0.1)
  assert float(sgd.schedule(0)) == pytest.approx(0.1)
