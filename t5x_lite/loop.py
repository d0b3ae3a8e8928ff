"""The training loop: step, log, evaluate, save, stop.

The host runs ahead: the metrics of a step are read when the next step has
been dispatched.  Where something is due (an evaluation, a checkpoint, a stop),
they are read at once, so that nothing non-finite is ever evaluated or saved.
"""

import contextlib
import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence

from t5x_lite import (
  checkpoints,
  errors,
  evaluators,
  history,
  hosts,
  metrics,
  preemption,
  prefetch,
  profiling,
  stopwatch,
  telemetry,
  utilization,
)
from t5x_lite.progress import Progress, count_tokens
from t5x_lite.summaries import Summaries
from t5x_lite.train_state import TrainState
from t5x_lite.trainer import Trainer


@dataclasses.dataclass(frozen=True)
class _Pending:
  """A dispatched step whose metrics were not read yet."""

  step: int
  metrics: metrics.Metrics
  tokens: int


@dataclasses.dataclass(kw_only=True)
class Loop:
  """What the loop works with, and when it does what; see `train.train`."""

  trainer: Trainer
  session: checkpoints.Session
  batches: prefetch.Batches
  evaluators: Sequence[evaluators.Evaluator]
  summaries: Summaries
  progress: Progress
  telemetry: telemetry.Telemetry
  workdir: pathlib.Path
  num_steps: int
  eval_every: int
  evaluate_first: bool
  log_every: int
  save_every: int
  profile: profiling.Profile
  tokens: int = 0  # since the last log point
  steps: int = 0  # likewise

  def run(self, state: TrainState, start: int) -> None:
    """Trains from `start`; the last step is evaluated and saved."""
    # What one process has read of the history is true of all.
    if hosts.on_first(lambda: self._owes_evaluation(start)):
      self._evaluate(state, start)
    pending: _Pending | None = None
    with (
      contextlib.closing(self.batches),
      preemption.watch() as preempted,
      profiling.tracing(self.profile, self.workdir) as trace,
    ):
      for step in range(start + 1, self.num_steps + 1):
        trace(step)
        state, latest = self._step(state, step, first=step == start + 1)
        # Read one step late: the device has the next one to work on.
        self._read(pending)
        pending = latest
        evaluate = step % self.eval_every == 0 or step == self.num_steps
        stop = preempted(step) and step < self.num_steps
        save = stop or step % self.save_every == 0
        if evaluate or save or step == self.num_steps:
          self._read(pending)
          pending = None
        # A stop must be quick: an evaluation due now waits for the next start.
        values = self._evaluate(state, step) if evaluate and not stop else {}
        if save or step == self.num_steps:
          self._save(step, state, values)
        if stop:
          with self.progress.stopwatch.part(stopwatch.CHECKPOINT):
            self.session.wait()
          raise errors.Preempted(preemption.MESSAGE.format(step=step))
    with self.progress.stopwatch.part(stopwatch.CHECKPOINT):
      self.session.wait()

  def _owes_evaluation(self, start: int) -> bool:
    """Whether one is due at the first step and not in the history."""
    if start % self.eval_every or (start == 0 and not self.evaluate_first):
      return False
    rows = history.read(self.workdir / history.FILENAME)
    done = [key for row in rows if row["step"] == start for key in row]
    return any(
      not any(key.startswith(f"{evaluator.name}/") for key in done)
      for evaluator in self.evaluators
    )

  def _step(
    self, state: TrainState, step: int, *, first: bool
  ) -> tuple[TrainState, _Pending]:
    with self.progress.stopwatch.part(stopwatch.DATA):
      fetched = next(self.batches, None)
      if fetched is None:
        raise errors.DataError(
          f"the training data ended before step {step} of {self.num_steps}:"
          " set Dataset.num_epochs to None to repeat it, or TRAIN_STEPS to"
          f" {step - 1}"
        )
    rows, batch = fetched
    if first:
      with self.progress.stopwatch.part(stopwatch.COMPILE):
        self.trainer.compile(state, batch)
        self.progress.set_utilization(
          utilization.of_all_devices(
            self.trainer.abstract.model,
            batch,
            self.trainer.program,
            self.trainer.partitioner.mesh.size,
            self.trainer.objective,
          )
        )
    with self.progress.stopwatch.part(stopwatch.STEP):
      state, values = self.trainer.step(state, batch)
    aligned = self.trainer.objective.aligned
    tokens = count_tokens(rows, aligned)
    # Those of the rows of other hosts are about as many.
    every = next(iter(batch.values())).shape[0]
    tokens *= every // len(next(iter(rows.values())))
    return state, _Pending(step, values, tokens)

  def _read(self, pending: _Pending | None) -> None:
    """Waits for a step's metrics, checks and logs them."""
    if pending is None:
      return
    with self.progress.stopwatch.part(stopwatch.STEP):
      values = metrics.values(pending.metrics)
    self.tokens += pending.tokens
    for name in ("loss", "gradient_norm"):
      if not math.isfinite(values[name]):
        raise errors.NonFiniteError(
          f"step {pending.step}: {name} is {values[name]}. Nothing of this"
          f" step is saved; {self._last_checkpoint()}. Lower the learning"
          " rate, clip gradients (clip_norm), or look at the data of this step"
        )
    self.progress.advance(pending.step)
    self.telemetry.step_done()
    self.steps += 1
    if pending.step % self.log_every == 0 or pending.step == self.num_steps:
      speeds = self.progress.update(pending.step, values, self.tokens)
      self.summaries.scalars(
        pending.step,
        {f"train/{name}": value for name, value in values.items()}
        | {f"speed/{name}": value for name, value in speeds.items()}
        | self.telemetry.log_point(self.steps),
      )
      self.tokens = self.steps = 0

  def _last_checkpoint(self) -> str:
    with contextlib.suppress(errors.CheckpointError):  # not to hide the first
      self.session.wait()
    step = self.session.latest_step()
    if step is None:
      return "no checkpoint was saved before"
    return f"the last good checkpoint is step {step} in {self.workdir}"

  def _evaluate(self, state: TrainState, step: int) -> dict[str, float]:
    with self.progress.stopwatch.part(stopwatch.EVALUATION):
      found = evaluators.run(self.evaluators, self.trainer, state)
    if found:
      self.summaries.scalars(step, found)
      self.progress.note(_one_line(step, found))
    return found

  def _save(
    self, step: int, state: TrainState, values: Mapping[str, float]
  ) -> None:
    with self.progress.stopwatch.part(stopwatch.CHECKPOINT):
      # What is on disk before the checkpoint is never lost after a crash.
      self.summaries.flush()
      self.session.save(step, state, self.batches, values, force=True)


def _one_line(step: int, values: Mapping[str, float]) -> str:
  numbers = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
  return f"evaluated at step {step}: {numbers}"
