"""The `harness` command: EleutherAI's lm-eval, on our models.

<workdir>/harness/results-<step>.json    what lm-eval returns, without samples
<workdir>/harness/samples-<step>.jsonl   a line for each request, if asked for

The tasks are lm-eval's own, or YAML files written for it.
"""

import importlib.util
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich import table

from t5x_lite import (
  describe,
  errors,
  flops,
  harness_layout,
  harness_model,
  hosts,
  trained_model,
  vocabularies,
)
from t5x_lite.auto_mesh import Automatic
from t5x_lite.objectives import Objective
from t5x_lite.partitioning import Partitioner
from t5x_lite.trainer import Trainer

# What lm-eval counts or draws, not what it measures.
_ASIDE = ("alias", "name", "sample_len", "sample_count")


def harness(
  *,
  workdir: str,
  model: Callable[..., Any],
  objective: Objective,
  partitioner: Partitioner | Automatic,
  tasks: Sequence[str],
  feature_lengths: Mapping[str, int],
  batch_size: int,
  vocabulary: vocabularies.Vocabulary | None = None,
  num_fewshot: int | None = None,
  limit: int | float | None = None,
  seed: int = 1234,
  log_samples: bool = False,
  checkpoint: str | None = None,
  step: int | str = "latest",
  dry_run: bool = False,
) -> dict[str, dict[str, Any]]:
  """Runs tasks of lm-eval on the parameters of one step.

  Args:
    workdir: of the run; receives the results.
    model: constructor of the model.
    objective: how inputs and targets are laid out; see `harness_layout`.
    partitioner: mesh and rules, or what chooses them.
    tasks: names that lm-eval knows, or paths of YAML files.
    feature_lengths: greatest numbers of tokens; a decoder's context is as
      long as all of them together.
    batch_size: rows scored or decoded at once, over all devices.
    vocabulary: from text to tokens and back.
    num_fewshot: exemplars in front of each question; None is the task's own.
    limit: the first so many documents of each task, or a share below 1.
    seed: of the choice of exemplars, and of what is drawn in decoding.
    log_samples: whether to write every request with its result.
    checkpoint: a workdir or the directory of a step; by default `workdir`.
    step: "latest" or a number.
    dry_run: show what would be done.

  Returns:
    lm-eval's results, by task.

  Raises:
    ConfigError: lm-eval is not installed, has no such task, or there is no
      vocabulary, or not the run's.
    CheckpointError: no such checkpoint, or one of another model.
    DataError: a task's text does not fit the model.
  """
  _check(tasks, vocabulary)
  assert vocabulary is not None
  checkpoint = checkpoint or workdir
  ((number, directory),) = trained_model.find(checkpoint, step).items()
  fingerprint = vocabulary.fingerprint()
  trained_model.check_vocabulary(
    checkpoint, dict.fromkeys(("inputs", "targets"), fingerprint)
  )
  made = trained_model.trainer_of(model, objective, partitioner)
  settings = harness_layout.Settings(feature_lengths, batch_size, seed)
  settings.check(objective)
  path = pathlib.Path(workdir, "harness", f"results-{number}.json")
  if dry_run:
    describe.show([_plan(made, directory, tasks, path)])
    return {}
  manager, names = _found(tasks)
  lm = harness_model.build(
    trained_model.restore(made, directory).model,
    made,
    vocabulary.build(),
    settings,
  )
  import lm_eval

  found = lm_eval.simple_evaluate(
    model=lm,
    tasks=names,
    num_fewshot=num_fewshot,
    limit=limit,
    task_manager=manager,
    log_samples=log_samples,
    random_seed=seed,
    numpy_random_seed=seed,
    fewshot_random_seed=seed,
  )
  if hosts.is_first():
    _write(path, found)
    title = f"lm-eval at step {number:,}"
    describe.show([results_table(title, found["results"])])
  return found["results"]


def _check(
  tasks: Sequence[str], vocabulary: vocabularies.Vocabulary | None
) -> None:
  if importlib.util.find_spec("lm_eval") is None:
    raise errors.ConfigError(
      "lm-eval is not installed: pip install 't5x_lite[harness]'"
    )
  if isinstance(tasks, str) or not tasks:
    raise errors.ConfigError(
      f"TASKS = {tasks!r} is no list of names: give one, such as"
      " \"('lambada_openai', 'my_task.yaml')\""
    )
  for task in tasks:
    if _is_file(task) and not pathlib.Path(task).expanduser().is_file():
      raise errors.ConfigError(f"there is no task file {task}")
  if vocabulary is None:
    raise errors.ConfigError(
      "lm-eval gives texts, for which a vocabulary is needed: after"
      " runs/harness.gin, add the config.gin of the run that trained the"
      " model, or one of vocabularies/"
    )


def _is_file(task: str) -> bool:
  return pathlib.Path(task).suffix in (".yaml", ".yml")


def _found(tasks: Sequence[str]) -> tuple[Any, list[str]]:
  """lm-eval's task manager, and its names or the paths of the tasks.

  Files alone need no index of lm-eval's own tasks, which takes seconds.
  """
  from lm_eval import tasks as lm_eval_tasks

  own = [task for task in tasks if not _is_file(task)]
  manager = lm_eval_tasks.TaskManager(include_defaults=bool(own))
  for task in own:
    if not manager.match_tasks([task]):
      raise errors.ConfigError(
        f"lm-eval has no task {task!r}"
        f"{errors.suggest(task, manager.all_tasks)}; a file of your own ends"
        " in .yaml"
      )
  return manager, [
    str(pathlib.Path(task).expanduser().absolute()) if _is_file(task) else task
    for task in tasks
  ]


def results_table(
  title: str, results: Mapping[str, Mapping[str, Any]]
) -> table.Table:
  """One row a metric, with its standard error where lm-eval gives one.

  Args:
    title: of the table.
    results: of tasks, "<metric>,<filter>" -> value.
  """
  shown = table.Table(title=title, title_justify="left", box=None)
  for name, justify in (
    ("task", "left"),
    ("metric", "left"),
    ("value", "right"),
    ("standard error", "right"),
  ):
    shown.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
  for task, values in results.items():
    for key, value in values.items():
      name, _, kind = key.partition(",")
      if name in _ASIDE or name.endswith("_stderr"):
        continue
      error = values.get(f"{name}_stderr,{kind}")
      metric = name if kind in ("", "none") else f"{name} ({kind})"
      shown.add_row(task, metric, _number(value), _number(error))
  return shown


def _number(value: Any) -> str:
  return f"{value:.4f}" if isinstance(value, int | float) else ""


def _write(path: pathlib.Path, found: Mapping[str, Any]) -> None:
  from lm_eval import utils

  def dumped(value: Any, indent: int | None = None) -> str:
    return json.dumps(
      value,
      indent=indent,
      default=utils.handle_non_serializable,
      ensure_ascii=False,
    )

  path.parent.mkdir(parents=True, exist_ok=True)
  rest = {key: value for key, value in found.items() if key != "samples"}
  files = {path: dumped(rest, indent=2) + "\n"}
  if "samples" in found:
    name = path.name.replace("results-", "samples-").replace(".json", ".jsonl")
    files[path.with_name(name)] = "".join(
      dumped({"task": task} | sample) + "\n"
      for task, samples in found["samples"].items()
      for sample in samples
    )
  for target, text in files.items():
    temporary = target.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(target)


def _plan(
  made: Trainer,
  directory: pathlib.Path,
  tasks: Sequence[str],
  path: pathlib.Path,
) -> table.Table:
  return describe.facts(
    "lm-eval",
    {
      "model": type(made.abstract.model).__name__,
      "parameters": flops.num_parameters(made.abstract.model),
      "checkpoint": directory,
      "tasks": ", ".join(tasks),
      "results": path,
    },
  )
