"""An optimizer that lies in the host's memory: losses stay."""

import jax
import pytest

from t5x_lite import errors, objectives, optimizers, partitioning, trainer
from tests import partitioning_test as common
from tests import tiny

SHAPE = {"data": 4, "model": 2}
TENSOR = {"batch": "data", **common.TENSOR}


def run(memory="device"):
  return trainer.Trainer(
    tiny.t5(),
    objectives.Seq2Seq(),
    optimizers.adamw(1e-3),
    partitioning.Partitioner(SHAPE, TENSOR, optimizer_memory=memory),
  )


@pytest.fixture(scope="module")
def expected():
  return common.train(run())


def test_an_optimizer_in_the_hosts_memory_computes_the_same(expected):
  history, state = common.train(run("pinned_host"))
  common.assert_same((history, state), expected)
  kinds = {
    x.sharding.memory_kind for x in jax.tree.leaves(state.opt_state) if x.ndim
  }
  assert kinds == {"pinned_host"}
  kinds = {x.sharding.memory_kind for x in jax.tree.leaves(state.model)}
  assert kinds == {"device"}


def test_memory_that_devices_do_not_have_is_refused(monkeypatch):
  chosen = run("pinned_host")
  monkeypatch.setattr(partitioning, "MEMORIES", ("device", "elsewhere"))
  with pytest.raises(errors.ConfigError, match="'host' is not one of device"):
    partitioning.Partitioner(SHAPE, {}, optimizer_memory="host")
  absent = partitioning.Partitioner(SHAPE, {}, optimizer_memory="elsewhere")
  with pytest.raises(errors.ConfigError, match="'cpu' has device, .* 'device'"):
    absent.kept(chosen.abstract.opt_state)
