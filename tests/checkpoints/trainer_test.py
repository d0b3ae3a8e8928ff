"""Checkpoints of a real model and optimizer, between steps of training."""

import jax
import pytest

from t5x_lite import checkpoints, objectives, optimizers, partitioning, trainer
from tests import tiny
from tests.checkpoints import toy

RULES = {
  "batch": "data",
  "embed": "data",
  "vocab": "model",
  "mlp": "model",
  "heads": "model",
}


@pytest.mark.parametrize("memory", ["device", "pinned_host"])
def test_training_goes_on_bit_for_bit(tmp_path, memory):
  one = trainer.Trainer(
    tiny.t5(encoder_layers=1, decoder_layers=1),
    objectives.Seq2Seq(),
    optimizers.adafactor(1e-2),
    partitioning.Partitioner(
      {"data": 2, "model": 4}, RULES, optimizer_memory=memory
    ),
  )
  batch = one.partitioner.put(tiny.batch())
  state, _ = one.step(one.init(), batch)
  with checkpoints.Checkpointer(every=1).open(tmp_path) as session:
    assert session.save(1, state)
    state, metrics = one.step(state, batch)  # Donates what is being saved.
    session.wait()
    restored = session.restore(one.abstract)
  kinds = {
    x.sharding.memory_kind
    for x in jax.tree.leaves(restored.opt_state)
    if x.ndim
  }
  assert kinds == {memory}
  again, metrics_again = one.step(restored, batch)
  toy.assert_same(again, state)
  toy.assert_same(metrics_again, metrics)
