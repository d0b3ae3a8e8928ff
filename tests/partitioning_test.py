"""One program on many meshes: the same losses, and arrays really in parts."""

import re

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from t5x_lite import (
  compat,
  errors,
  metrics,
  objectives,
  optimizers,
  partitioning,
  rules,
  schedules,
  trainer,
)
from tests import tiny

TENSOR = {"heads": "model", "mlp": "model", "vocab": "model"}
MESHES = {
  "data": ({"data": -1}, {"batch": "data"}),
  "fsdp": ({"data": -1}, {"batch": "data", "embed": "data"}),
  "tensor": ({"data": 2, "model": 4}, {"batch": "data", **TENSOR}),
  "two_d": (
    {"data": 4, "model": 2},
    {"batch": "data", "embed": "data", **TENSOR},
  ),
}
OPTIMIZERS = {
  "adafactor": lambda: optimizers.adafactor(
    schedules.constant(0.02), min_dim_size_to_factor=16
  ),
  "adamw": lambda: optimizers.adamw(schedules.constant(1e-3)),
}
STEPS = 4


def make(optimizer, partitioner, dropout=0.0, **kwargs):
  return trainer.Trainer(
    tiny.t5(dropout=dropout),
    objectives.Seq2Seq(),
    OPTIMIZERS[optimizer](),
    partitioner,
    **kwargs,
  )


def single():
  return partitioning.Partitioner({"data": 1}, {}, num_devices=1)


def on(name):
  return partitioning.Partitioner(*MESHES[name])


def train(run, steps=STEPS):
  """Metrics of some steps, each on other examples, and the last state."""
  state = type(run.abstract).create(
    tiny.fill(run.model), run.optimizer.transform
  )
  state, history = jax.device_put(state, run.shardings), []
  for step in range(steps):
    flat = tiny.examples(16, seed=step)
    batch = tiny.pack([flat[i : i + 2] for i in range(0, 16, 2)])
    state, values = run.step(state, run.put(batch))
    history.append(metrics.values(values))
  return history, state


def assert_same(first, second):
  for ours, theirs in zip(first[0], second[0], strict=True):
    assert ours == pytest.approx(theirs, abs=1e-5, rel=1e-5)
  tiny.assert_close(first[1], second[1], atol=1e-4, rtol=1e-4)


@pytest.fixture(scope="module", params=OPTIMIZERS)
def reference(request):
  """The optimizer's name, and what it comes to on one device."""
  history, state = train(make(request.param, single()))
  assert {len(x.devices()) for x in jax.tree.leaves(state)} == {1}
  return request.param, (history, jax.device_get(state))


@pytest.mark.parametrize("name", MESHES)
def test_losses_are_those_of_one_device(reference, name):
  optimizer, expected = reference
  run = make(optimizer, on(name))
  history, state = train(run)
  assert_same((history, state), expected)
  same = jax.tree.map(
    lambda x, s: x.sharding.is_equivalent_to(s, x.ndim), state, run.shardings
  )
  assert all(jax.tree.leaves(same))


def test_microbatches_and_dropout_are_those_of_one_device():
  runs = (
    make("adafactor", partitioner, dropout=0.1, num_microbatches=2)
    for partitioner in (single(), on("two_d"))
  )
  assert_same(*(train(run, steps=2) for run in runs))


def test_parameters_are_born_in_parts_and_equal_those_of_one_device():
  state = make("adamw", on("two_d")).init()
  tiny.assert_close(state, make("adamw", single()).init(), atol=1e-6)
  sizes = {"embed": 4, "heads": 2, "mlp": 2, "vocab": 2}
  variables = jax.tree.leaves(state, is_leaf=compat.is_variable)
  for variable in filter(compat.is_variable, variables):
    names = compat.axes_of(variable)
    names = (None,) * (len(variable.shape) - len(names)) + names
    expected = tuple(
      size // sizes.get(name, 1)
      for name, size in zip(names, variable.shape, strict=True)
    )
    shards = {s.data.shape for s in variable[...].addressable_shards}
    assert shards == {expected}, names
  # Both moments are in the same parts as the parameters.
  here, all_of_it = 0, 0
  for array in jax.tree.leaves(state.opt_state):
    here += array.addressable_shards[0].data.size
    all_of_it += array.size
  assert here < all_of_it / 6


def test_statistics_as_large_as_the_parameter_are_sharded_like_it():
  run = make("adafactor", on("two_d"))
  stack = run.shardings.opt_state.encoder.layers
  scale = stack.feed_forward.norm.scale[0]
  (sharding,) = jax.tree.leaves(scale.v)
  assert sharding.spec == PartitionSpec(None, "data")
  wi = stack.feed_forward.sublayer.wi.kernel[0]
  assert wi.v_row.spec == wi.v_col.spec == wi.v.spec == PartitionSpec()


RULES = {"batch": "data", "embed": "data", "mlp": ("model", "data")}


@pytest.mark.parametrize(
  "axes, ndim, expected",
  [
    (("embed", "mlp"), 2, PartitionSpec("data", "model")),
    (("mlp", "embed"), 2, PartitionSpec(("model", "data"), None)),
    (("embed", "mlp"), 3, PartitionSpec(None, "data", "model")),
    (("batch", "length", "embed"), 3, PartitionSpec("data", None, None)),
    ((None, "unheard"), 2, PartitionSpec(None, None)),
    ((), 0, PartitionSpec()),
  ],
)
def test_spec_gives_a_mesh_axis_to_the_first_that_asks(axes, ndim, expected):
  assert rules.spec(axes, RULES, ndim) == expected


def test_constrain_is_the_identity_without_rules():
  x = np.ones((3, 5))
  assert rules.constrain(x, "batch", "length") is x


@pytest.mark.parametrize(
  "shape, devices, expected",
  [
    ({"data": -1}, 8, {"data": 8}),
    ({"data": -1, "model": 2}, 8, {"data": 4, "model": 2}),
    ({"data": 2, "model": 4}, 8, {"data": 2, "model": 4}),
    ({"data": 1}, 1, {"data": 1}),
  ],
)
def test_the_rest_of_the_devices_is_filled_in(shape, devices, expected):
  partitioner = partitioning.Partitioner(shape, {})
  assert partitioner.resolved_shape(devices) == expected


@pytest.mark.parametrize(
  "shape, message",
  [
    ({"data": 3}, "needs 3 devices .* but there are 8"),
    ({"data": 16}, "needs 16 devices .* but there are 8"),
    ({"data": -1, "model": 3}, "needs 3 devices .* but there are 8"),
    ({"data": -1, "model": -1}, "one at most is -1"),
    ({"data": 0}, "sizes are positive"),
  ],
)
def test_meshes_that_do_not_fit_are_refused(shape, message):
  with pytest.raises(errors.ConfigError, match=message):
    _ = partitioning.Partitioner(shape, {}).mesh


def test_more_devices_than_there_are_is_refused():
  with pytest.raises(errors.ConfigError, match="is 9 but there are 8"):
    _ = partitioning.Partitioner({"data": -1}, {}, num_devices=9).mesh


def test_rules_name_axes_of_the_mesh():
  with pytest.raises(errors.ConfigError, match=r"did you mean 'model'\?"):
    partitioning.Partitioner({"data": 1, "model": 1}, {"mlp": "modle"})


@pytest.mark.parametrize(
  "rules, message",
  [
    (
      {"heads": "model"},
      "mesh axis 'model' has size 8 but the model has 4 heads in"
      " .decoder.bias.table: heads must divide evenly; use 4, or the rule"
      " ('heads', None)",
    ),
    ({"embed": ("model",)}, None),
    ({"layers": "model"}, "has size 8 but the model has 2 layers in"),
  ],
)
def test_parameters_that_do_not_divide_are_named(rules, message):
  partitioner = partitioning.Partitioner({"data": 1, "model": 8}, rules)
  run = trainer.Trainer(
    tiny.t5(), objectives.Seq2Seq(), OPTIMIZERS["adamw"](), partitioner
  )
  if message is None:
    run.check()
  else:
    with pytest.raises(errors.ConfigError, match=re.escape(message)):
      run.check()


def test_batches_that_do_not_divide_are_told_what_would():
  partitioner = partitioning.Partitioner(*MESHES["two_d"])
  partitioner.check_batch(16, 2)
  with pytest.raises(errors.ConfigError, match="multiple of 8, such as 8"):
    partitioner.check_batch(12, 2)
  with pytest.raises(errors.ConfigError, match="multiple of 4, such as 4"):
    partitioner.check_batch(3, 1)
