"""Runs that read ahead, are stopped by SIGTERM and go on, bit for bit."""

import json
import os
import signal

import numpy as np
import pytest

from t5x_lite import (
  checkpoints,
  datasets,
  errors,
  objectives,
  optimizers,
  partitioning,
  schedules,
  train,
)
from tests import tiny, toy_data

STEPS = 8
VOCAB = 300


class Stop:
  """An evaluator that measures nothing, and once sends SIGTERM."""

  name = "stop"

  def __init__(self):
    self.sent = False

  def __call__(self, run, state):
    if not self.sent:
      os.kill(os.getpid(), signal.SIGTERM)
    self.sent = True
    return {}

  def vocabularies(self, run):
    return {}


@pytest.fixture(scope="module")
def mixture(tmp_path_factory):
  names = []
  for seed in range(2):
    folder = tmp_path_factory.mktemp("corpus")
    toy_data.write(folder, toy_data.sentences(50, seed), 4)
    names.append(toy_data.task(folder))
  return toy_data.mixture({names[0]: 0.7, names[1]: 0.3})


def run(workdir, mixture, ahead, evaluators=()):
  train.train(
    workdir=workdir,
    model=tiny.t5(vocab=VOCAB, dropout=0.1),
    objective=objectives.Seq2Seq(),
    dataset=datasets.Dataset(
      mixture, toy_data.LENGTHS, 4, shuffle_buffer=10, task_modules=()
    ),
    optimizer=optimizers.adafactor(schedules.constant(0.02)),
    partitioner=partitioning.Partitioner({"data": 1}, {}, num_devices=1),
    checkpointer=checkpoints.Checkpointer(every=3),
    num_steps=STEPS,
    evaluators=evaluators,
    eval_every=4,
    log_every=1,
    prefetch=ahead,
  )


def losses(workdir):
  rows = (workdir / "metrics.jsonl").read_text().splitlines()
  return [json.loads(row)["train/loss"] for row in rows]


@pytest.mark.slow
def test_a_run_stopped_with_batches_ahead_goes_on_to_the_bit(tmp_path, mixture):
  run(tmp_path / "whole", mixture, 0)
  wanted = losses(tmp_path / "whole")
  assert len(wanted) == STEPS
  stopped = tmp_path / "stopped"
  with pytest.raises(errors.Preempted, match="step 5"):
    run(stopped, mixture, 3, [Stop()])
  state = np.load(
    next((stopped / "checkpoints" / "5").rglob("shard-00000-*.npz"))
  )
  # A row a shard of each of the batches ahead: there is something to lose.
  assert 0 < len(state["ahead/inputs"]) <= 3
  run(stopped, mixture, 1)
  assert losses(stopped) == wanted
