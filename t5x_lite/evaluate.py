"""The `eval` command: metrics of checkpoints, as a table and as JSON.

<workdir>/eval/metrics-<step>.json      {"step", "checkpoint", "metrics"}
<workdir>/predictions/<task>-<step>.jsonl
<workdir>/tensorboard/eval/             the metrics, beside those of the run
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rich import table

from t5x_lite import describe, errors, flops, hosts, summaries, trained_model
from t5x_lite import evaluators as evaluators_lib
from t5x_lite.auto_mesh import Automatic
from t5x_lite.evaluators import Evaluator
from t5x_lite.objectives import Objective
from t5x_lite.partitioning import Partitioner
from t5x_lite.trainer import Trainer

# A metric `majority_accuracy` is what `accuracy` is worth without a model.
BASELINES = ("majority", "lead", "baseline")


def evaluate(
  *,
  workdir: str,
  model: Callable[..., Any],
  objective: Objective,
  partitioner: Partitioner | Automatic,
  evaluators: Sequence[Evaluator],
  checkpoint: str | None = None,
  steps: int | str | Sequence[int] = "latest",
  dry_run: bool = False,
) -> dict[int, dict[str, float]]:
  """Runs the evaluators on the parameters of one step or several.

  Args:
    workdir: of the run; receives metrics and predictions.
    model: constructor of the model.
    objective: from task features to model features.
    partitioner: mesh and rules, or what chooses them.
    evaluators: what is measured.
    checkpoint: a workdir or the directory of a step; by default `workdir`.
    steps: "latest", "all", a number or a list of numbers.
    dry_run: show what would be done.

  Returns:
    Metrics by step.

  Raises:
    ConfigError: nothing to measure, or a vocabulary that is not the run's.
    CheckpointError: no such checkpoint, or one of another model.
    DataError: what an evaluator reads is empty or damaged.
  """
  if not evaluators:
    raise errors.ConfigError("there is nothing to evaluate: give evaluators")
  checkpoint = checkpoint or workdir
  directories = trained_model.find(checkpoint, steps)
  made = trained_model.trainer_of(model, objective, partitioner)
  evaluators_lib.check(evaluators, objective)
  if dry_run:
    describe.show(_plan(made, directories, evaluators, workdir))
    return {}
  for evaluator in evaluators:
    if isinstance(evaluator, evaluators_lib.OfText):
      trained_model.check_vocabulary(checkpoint, evaluator.vocabularies(made))
  placed = evaluators_lib.in_workdir(evaluators, workdir)
  results = {}
  for step, directory in directories.items():
    state = trained_model.restore(made, directory)
    results[step] = evaluators_lib.run(placed, made, state)
    if not results[step]:
      raise errors.ConfigError(
        "nothing was measured: none of the tasks has metrics; add a"
        " LossEvaluator, or give the tasks metric_fns"
      )
    if hosts.is_first():
      _write(workdir, step, directory, results[step])
      summaries.write_scalars(workdir, "eval", step, results[step])
      describe.show([metrics_table(f"Metrics at step {step:,}", results[step])])
  return results


def metrics_table(title: str, values: Mapping[str, float]) -> table.Table:
  """One row a metric, beside what it is worth without a model.

  Args:
    title: of the table.
    values: "<group>/<metric>" -> value; "<group>/majority_<metric>" and the
      like are shown as the baseline of "<group>/<metric>".
  """
  baselines = dict(_baselines(values))
  used = {name for name, _ in baselines.values()}
  shown = table.Table(title=title, title_justify="left", box=None)
  shown.add_column("metric", overflow="fold")
  shown.add_column("value", justify="right", no_wrap=True)
  if baselines:
    shown.add_column("baseline", justify="right", no_wrap=True)
    shown.add_column("difference", justify="right", no_wrap=True)
  for name, value in values.items():
    if name in used:
      continue
    row = [name, _format(value)]
    if name in baselines:
      baseline, kind = baselines[name]
      row += [
        f"{_format(values[baseline])} ({kind})",
        f"{value - values[baseline]:+,.3f}",
      ]
    shown.add_row(*row)
  return shown


def _baselines(
  values: Mapping[str, float],
) -> Iterator[tuple[str, tuple[str, str]]]:
  """Metrics that have a baseline, with its name and kind."""
  for name in values:
    group, slash, metric = name.rpartition("/")
    for kind in BASELINES:
      baseline = f"{group}{slash}{kind}_{metric}"
      if baseline in values:
        yield name, (baseline, kind)
        break


def _format(value: float) -> str:
  return f"{value:,.{0 if value.is_integer() else 3}f}"


def _write(
  workdir: str, step: int, directory: pathlib.Path, values: dict[str, float]
) -> None:
  path = pathlib.Path(workdir, "eval", f"metrics-{step}.json")
  path.parent.mkdir(parents=True, exist_ok=True)
  # Those that an earlier call measured of the same checkpoint stay.
  before = json.loads(path.read_text()) if path.exists() else {}
  if before.get("checkpoint") == str(directory):
    values = before["metrics"] | values
  temporary = path.with_suffix(".tmp")
  content = {"step": step, "checkpoint": str(directory), "metrics": values}
  temporary.write_text(json.dumps(content, indent=2) + "\n")
  temporary.replace(path)


def _plan(
  made: Trainer,
  directories: Mapping[int, pathlib.Path],
  evaluators: Sequence[Evaluator],
  workdir: str,
) -> Iterator[table.Table]:
  """What would be done."""
  *_, last = directories.values()
  yield describe.facts(
    "Evaluation",
    {
      "model": type(made.abstract.model).__name__,
      "parameters": flops.num_parameters(made.abstract.model),
      "checkpoints": last.parent,
      "steps": ", ".join(map(str, directories)),
      "metrics": pathlib.Path(workdir, "eval", "metrics-<step>.json"),
    },
  )
  for evaluator in evaluators:
    settings: dict[str, Any] = {}
    if dataclasses.is_dataclass(evaluator):
      settings = {
        field.name: getattr(evaluator, field.name)
        for field in dataclasses.fields(evaluator)
      }
    yield describe.facts(type(evaluator).__name__, settings)
