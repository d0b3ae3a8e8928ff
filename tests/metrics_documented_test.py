"""docs/metrics.md names all that is logged, and nothing else."""

import io
import json
import pathlib
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite import (
  device_memory,
  errors,
  flops,
  loop,
  objectives,
  optimizers,
  partitioning,
  prefetch,
  profiling,
  progress,
  schedules,
  stopwatch,
  summaries,
  telemetry,
  trainer,
  utilization,
)
from tests import tiny

TEXT = (pathlib.Path(__file__).parents[1] / "docs/metrics.md").read_text()
GROUPS = ("train", "speed", "time", "memory")
STEPS = 3


def documented(group):
  """Names in the first column of the page's tables."""
  return set(re.findall(rf"^\| `({group}/\w+)` \|", TEXT, re.MULTILINE))


MODEL = jax.eval_shape(lambda: tiny.fill(tiny.t5()))
BATCH_OF_RUN = tiny.batch()


class Source:
  """The same rows again and again; an error at the end of `steps`."""

  def __init__(self, steps=STEPS):
    self.steps = steps
    flat = tiny.examples(8)
    self.rows = tiny.pack([flat[i : i + 2] for i in range(0, 8, 2)])

  def __next__(self):
    self.steps -= 1
    if self.steps < 0:
      raise errors.DataError("no more")
    return self.rows

  def save(self, directory, ahead=()):
    pass


class Session:
  """Saves nothing but what it is told."""

  def __init__(self):
    self.saved = []

  def save(self, step, state, iterator, metrics, force):
    self.saved.append(step)

  def wait(self):
    pass

  def latest_step(self):
    return max(self.saved, default=None)


class Held:
  name = "eval"

  def __call__(self, run, state):
    rows = Source().rows
    found = run.eval_step(state.model, run.put(rows))
    return {name: float(m.total / m.weight) for name, m in found.items()}


@pytest.fixture(scope="module")
def make(tmp_path_factory):
  """Runs the loop; returns the rows of its history and the session."""
  made = trainer.Trainer(
    tiny.t5(),
    objectives.Seq2Seq(),
    optimizers.adafactor(schedules.constant(0.02)),
    partitioning.Partitioner({"data": 1}, {}, num_devices=1),
  )

  def run(ahead, source):
    workdir = tmp_path_factory.mktemp("run")
    watch, session = stopwatch.Stopwatch(), Session()
    with (
      summaries.Summaries(workdir, tensorboard=False) as written,
      progress.Progress(STEPS, stopwatch=watch, stream=io.StringIO()) as shown,
    ):
      loop.Loop(
        trainer=made,
        session=session,
        batches=prefetch.batches(source, made.put, size=ahead, limit=STEPS),
        evaluators=[Held()],
        summaries=written,
        progress=shown,
        telemetry=telemetry.Telemetry(watch),
        workdir=workdir,
        num_steps=STEPS,
        eval_every=STEPS,
        evaluate_first=False,
        log_every=1,
        save_every=2,
        profile=profiling.Profile(),
      ).run(made.init(), 0)
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines], session

  return run


@pytest.fixture(scope="module")
def rows(make):
  found, session = make(2, Source())
  assert session.saved == [2, 3]
  return found


def test_reading_ahead_changes_no_number(make, rows):
  others, _ = make(0, Source())
  kept = ("train/", "eval/")
  for row, other in zip(rows, others, strict=True):
    for name, value in row.items():
      if name.startswith(kept):
        assert value == other[name], name


def test_an_error_of_the_data_ends_the_loop_with_its_type(make):
  with pytest.raises(errors.DataError, match="no more"):
    make(2, Source(steps=1))


def test_a_source_that_ends_too_early_is_told(make):
  class Ends(Source):
    def __next__(self):
      try:
        return super().__next__()
      except errors.DataError:
        raise StopIteration from None

  with pytest.raises(errors.DataError, match="ended before step 2 of 3"):
    make(1, Ends(steps=1))


def test_all_that_a_run_logs_is_documented(rows):
  assert [row["step"] for row in rows] == [1, 2, 3]
  logged = {name for row in rows for name in row} - {"step"}
  own = {name for name in logged if not name.startswith("eval/")}
  assert own <= {name for group in GROUPS for name in documented(group)}
  # The rest has the objective's names, as the page says.
  held_out = {name.removeprefix("eval/") for name in logged - own}
  assert held_out
  assert {f"train/{name}" for name in held_out} == {
    name for name in own if name.startswith("train/")
  } - {"train/gradient_norm", "train/learning_rate"}


def test_all_that_is_documented_of_time_is_logged(rows):
  logged = set(rows[-1])
  assert documented("time") == {n for n in logged if n.startswith("time/")}
  assert sum(rows[-1][name] for name in documented("time")) == pytest.approx(1)
  # A CPU has no known peak; the other names of utilization are those of this:
  step = flops.Flops(matmul=1e12)
  on_tpu = utilization.Utilization(step, "TPU v4", 1, hardware=1e12)(1.0)
  speeds = {n for n in logged if n.startswith("speed/")}
  assert documented("speed") == speeds | {f"speed/{name}" for name in on_tpu}


def test_a_device_is_one_that_the_run_uses(rows):
  """One of the eight that there are."""
  for row in rows:
    step = flops.of_training_step(MODEL, BATCH_OF_RUN).total
    expected = step / row["speed/seconds_per_step"] / 1e12
    assert row["speed/teraflops_per_device"] == pytest.approx(expected)


def test_all_that_is_documented_of_memory_is_measured():
  stats = {"bytes_in_use": 1, "peak_bytes_in_use": 1, "bytes_limit": 1}
  device = types.SimpleNamespace(memory_stats=lambda: stats)
  found = device_memory.measure([device])
  assert documented("memory") == {f"memory/{name}" for name in found}


ROWS, LENGTH = 2, 4
LABELS = np.ones((ROWS, LENGTH), np.int32)
BATCH = {
  f"{side}_{name}": np.ones((ROWS, LENGTH), kind)
  for side in ("encoder", "decoder")
  for name, kind in (
    ("target_tokens", np.int32),
    ("loss_weights", np.float32),
    ("segment_ids", np.int32),
  )
} | {"labels": LABELS}


def zeros(classes):
  return jnp.zeros((ROWS, LENGTH, classes))


class Model:
  """Gives every head's logits, as any model would its own."""

  def __init__(self, classes):
    self.classes = classes

  def __call__(self, batch, *, key=None):
    return {
      "logits": zeros(9),
      "masked_lm": zeros(9),
      "next_sentence": zeros(2),
      "classification": zeros(self.classes),
      "span": zeros(2),
    }

  outputs = hidden = __call__

  def readout(self, name="logits", *, key=None):
    return lambda given: given[name]


def test_the_metrics_of_objectives_are_documented():
  """Of every objective that adds names to those of text."""
  objective_classes = {
    objectives.MaskedLM(next_sentence=True): 2,
    objectives.Classification(): 2,
    objectives.Regression(): 1,
    objectives.SpanExtraction(): 2,
    objectives.LMClassification(): 2,
    objectives.CausalLM(): 2,
  }
  found = {"gradient_norm", "learning_rate"}
  for objective, classes in objective_classes.items():
    model = Model(classes)
    _, metrics = jax.eval_shape(
      lambda o=objective, m=model: o.loss(m, BATCH, None)
    )
    found |= set(metrics)
  assert documented("train") == {f"train/{name}" for name in found}
