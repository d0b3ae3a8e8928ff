"""The `train` command: puts a run together; `loop` is what it then does.

Everything random derives from the seed, so that a run is a function of its
configuration: stopped anywhere and started again with the same command, it
computes the same losses to the bit.
"""

import dataclasses
import logging
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax

from t5x_lite import (
  checkpoints,
  describe,
  errors,
  flops,
  hosts,
  loop,
  pieces,
  profiling,
  report,
  run_record,
  stopwatch,
  telemetry,
  vocabularies,
)
from t5x_lite import evaluators as evaluation
from t5x_lite import prefetch as prefetching
from t5x_lite import watchdog as watchdogs
from t5x_lite.auto_mesh import Automatic
from t5x_lite.compilation import Compilation
from t5x_lite.datasets import Dataset
from t5x_lite.objectives import Objective, Recurrent
from t5x_lite.optimizers import Optimizer
from t5x_lite.partitioning import Partitioner
from t5x_lite.progress import Progress
from t5x_lite.summaries import Summaries
from t5x_lite.trainer import Trainer

_log = logging.getLogger(__name__)


def train(
  *,
  workdir: str | os.PathLike[str],
  model: Callable[..., Any],
  objective: Objective,
  dataset: Dataset,
  optimizer: Optimizer,
  partitioner: Partitioner | Automatic,
  checkpointer: checkpoints.Checkpointer,
  num_steps: int,
  evaluators: Sequence[evaluation.Evaluator] = (),
  eval_every: int = 1000,
  evaluate_first: bool = False,
  log_every: int = 50,
  num_microbatches: int = 1,
  prefetch: int = 2,
  seed: int = 0,
  profile: profiling.Profile = profiling.Profile(),  # noqa: B008 (frozen)
  compilation: Compilation = Compilation(),  # noqa: B008 (frozen)
  watchdog: watchdogs.Watchdog = watchdogs.Watchdog(),  # noqa: B008 (frozen)
  dry_run: bool = False,
) -> None:
  """Trains until `num_steps`, going on from what `workdir` holds.

  Args:
    workdir: receives checkpoints, metrics, the report and the configuration.
    model: constructor, called with rngs=...
    objective: from batch to loss.
    dataset: training data.
    optimizer: transformation and schedule.
    partitioner: mesh and rules, or what chooses them.
    checkpointer: how often to save, what to keep, what to start from.
    num_steps: the step to stop at, counted from the start of the run.
    evaluators: each called every `eval_every` steps and at the end.
    eval_every: steps between evaluations.
    evaluate_first: also before the first step.
    log_every: steps between log points; a log point shows its own step's
      metrics, not an average, so that it does not depend on interruptions.
    num_microbatches: parts that a batch is computed in, to save memory.
    prefetch: batches to read and put on the devices ahead of their step; 0 for
      none.  Of no influence on the examples or their order.
    seed: of parameters and dropout (the dataset has its own).
    profile: steps to trace.
    compilation: XLA's options and its cache.
    watchdog: how long nothing may move.
    dry_run: print what would be done; touch no file.

  Raises:
    ConfigError: parts that do not fit, or a workdir made by another run.
    DataError, CheckpointError, NonFiniteError: as their names say.
    Preempted: SIGTERM came; the state is saved.
    ProcessLost: other processes of the run did not come to a meeting.
  """
  for name, value in (
    ("num_steps", num_steps),
    ("eval_every", eval_every),
    ("log_every", log_every),
    ("num_microbatches", num_microbatches),
  ):
    if value < 1:
      raise errors.ConfigError(f"train.{name} is {value}: use 1 or more")
  profile.check(num_steps)
  prefetching.check(prefetch)
  compilation.use_cache()
  trainer = Trainer(
    model,
    objective,
    optimizer,
    partitioner,
    num_microbatches=num_microbatches,
    seed=seed,
    batch_size=dataset.batch_size,
    compilation=compilation,
  )
  trainer.check()
  trainer.partitioner.check_batch(dataset.batch_size, num_microbatches)
  dataset = dataset.for_model(objective, trainer.abstract.model)
  length = (
    objective.document_length if isinstance(objective, Recurrent) else None
  )
  dataset = pieces.going_on(dataset, length)
  evaluation.check(evaluators, objective)
  vocabularies.check_start(objective, dataset.provider.output_features)
  if dry_run:
    describe.print_run(trainer, dataset, num_steps=num_steps, workdir=workdir)
    return
  watch = stopwatch.Stopwatch()
  watchdogs.follow(watch, watchdog)
  with checkpointer.open(workdir) as session:
    run_record.check(
      workdir,
      _record(trainer, dataset, seed),
      bound=session.latest_step() is not None,
      write=hosts.is_first(),
    )
    with watch.part(stopwatch.START):
      iterator = dataset.iterator(
        host_index=jax.process_index(),
        num_hosts=jax.process_count(),
        rows=trainer.partitioner.rows(dataset.batch_size),
      )
      with watch.part(stopwatch.RESTORE):
        state = session.restore(trainer.abstract, iterator, init=trainer.init)
      if state is None:
        state = trainer.init()
      start = int(state.step)
    if start >= num_steps:
      _log.warning(
        "%s is already at step %d of %d: nothing is left to train; give a"
        " greater number of steps",
        workdir,
        start,
        num_steps,
      )
      return
    enabled = hosts.is_first()
    if enabled:
      _save_config(workdir)
    with (
      Summaries(workdir, resume_step=start, enabled=enabled) as summaries,
      Progress(
        num_steps,
        start_step=start,
        stopwatch=watch,
        num_devices=trainer.partitioner.mesh.size,
        enabled=enabled,
      ) as progress,
    ):
      watched = telemetry.Telemetry(watch)
      training = loop.Loop(
        trainer=trainer,
        session=session,
        batches=prefetching.batches(
          iterator,
          lambda rows: trainer.put(iterator.own(rows)),
          size=prefetch,
          limit=num_steps - start,
        ),
        evaluators=evaluation.in_workdir(evaluators, workdir),
        summaries=summaries,
        progress=progress,
        telemetry=watched,
        workdir=pathlib.Path(workdir),
        num_steps=num_steps,
        eval_every=eval_every,
        evaluate_first=evaluate_first,
        log_every=log_every,
        save_every=checkpointer.every,
        profile=profile,
      )
      try:
        training.run(state, start)
      finally:
        summaries.flush()
        if enabled:
          _report(workdir, trainer, dataset, num_steps, watch, watched)


def _record(trainer: Trainer, dataset: Dataset, seed: int) -> dict[str, Any]:
  """What must not change when a run goes on; see `run_record`."""
  specs = checkpoints.specs(trainer.abstract.model)
  return {
    "model": {name: str(spec) for name, spec in specs.items()},
    "objective": {
      "kind": type(trainer.objective).__name__,
      **dataclasses.asdict(trainer.objective),  # type: ignore[call-overload]
    },
    "data": dataset.fingerprint(),
    "seed": seed,
    "num_microbatches": trainer.num_microbatches,
  }


def _save_config(workdir: str | os.PathLike[str]) -> None:
  from t5x_lite import config  # the only part that knows gin

  config.save(workdir, jax.devices())


def _report(
  workdir: str | os.PathLike[str],
  trainer: Trainer,
  dataset: Dataset,
  num_steps: int,
  watch: stopwatch.Stopwatch,
  watched: telemetry.Telemetry,
) -> None:
  model = trainer.abstract.model
  facts = {
    "mixture": dataset.provider.name,
    "model": type(model).__name__,
    "parameters": flops.num_parameters(model),
    "steps": num_steps,
    "batch size": dataset.batch_size,
    **watched.facts(),
  }
  try:
    report.write(workdir, facts, watch.seconds())
  except (OSError, errors.UserError) as error:  # not to hide the first one
    _log.warning("no report in %s: %s", workdir, error)
