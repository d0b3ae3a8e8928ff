"""The mesh that is chosen, and the reason that is given."""

import logging

import jax
import pytest
from flax import nnx

from t5x_lite import (
  auto_mesh,
  errors,
  objectives,
  optimizers,
  partitioning,
  trainer,
)
from tests import tiny

MODEL = tiny.t5()
ADAM = optimizers.adamw(1e-3)


def needs():
  """Bytes on a device for each mesh, counted by hand: 4 a number."""
  abstract = jax.eval_shape(lambda: MODEL(rngs=nnx.Rngs(0)))
  whole = 4 * sum(x.size for x in jax.tree.leaves(abstract))
  # Parameters, gradients and two moments; all but a little has the width.
  return {"data": 4 * whole, "zero1": 2.3 * whole, "fsdp": 0.7 * whole}


@pytest.mark.parametrize(
  "memory, expected",
  [
    (needs()["data"] * 2 + 64, "data"),
    (needs()["zero1"] * 2, "zero1"),
    (needs()["fsdp"] * 2, "fsdp"),
  ],
)
def test_the_least_communication_that_fits(memory, expected, caplog):
  caplog.set_level(logging.INFO, "t5x_lite")
  automatic = auto_mesh.Automatic(activations=0.5, memory=memory)
  chosen = automatic.for_run(MODEL, ADAM.transform)
  (reason,) = caplog.messages
  assert reason.startswith(f"auto mesh: {expected} {{'data': 8}}, because")
  for name in needs():
    assert f"{name} needs 0.00 GiB" in reason
    if name == expected:
      break
  assert (chosen.rules.get("embed") == "data") == (expected == "fsdp")
  assert (chosen.optimizer is not chosen) == (expected == "zero1")


def test_the_model_is_cut_where_rows_are_too_few():
  automatic = auto_mesh.Automatic()
  chosen = automatic.for_run(MODEL, ADAM.transform, batch_size=4)
  assert chosen.mesh_shape == {"data": -1, "model": 2}


def test_nothing_that_fits_is_refused_with_what_it_would_take():
  automatic = auto_mesh.Automatic(memory=1000.0)
  with pytest.raises(errors.ConfigError, match="no mesh of 8 devices has room"):
    automatic.for_run(MODEL, ADAM.transform)


def test_what_lies_with_the_host_takes_no_room():
  memory = needs()["data"] * 1.1  # parameters and gradients are half of it
  for kind, expected in (
    ("device", None),
    ("pinned_host", {"batch": ("data",)}),
  ):
    automatic = auto_mesh.Automatic(0.4, memory=memory, optimizer_memory=kind)
    chosen = automatic.for_run(MODEL, ADAM.transform)
    assert chosen.optimizer_memory == kind
    assert (chosen.optimizer is chosen and chosen.rules == expected) == (
      kind == "pinned_host"
    )


def test_the_trainer_has_what_was_chosen():
  run = trainer.Trainer(
    MODEL, objectives.Seq2Seq(), ADAM, auto_mesh.Automatic(), batch_size=8
  )
  assert isinstance(run.partitioner, partitioning.Partitioner)
  assert run.partitioner.mesh.shape == {"data": 8}
