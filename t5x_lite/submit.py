"""The `submit` command: a model's answers to tests whose labels are secret.

<workdir>/submission/<benchmark>/<file>   what a leaderboard's server reads
<workdir>/submission/<benchmark>.zip      all of it, as soon as none is missing
"""

import dataclasses
import logging
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from rich import table

from t5x_lite import (
  decoding,
  describe,
  errors,
  flops,
  hosts,
  labeler,
  task_metrics,
  trained_model,
  truncation,
  vocabularies,
)
from t5x_lite.auto_mesh import Automatic
from t5x_lite.objectives import Discriminative, Objective
from t5x_lite.partitioning import Partitioner
from t5x_lite.pipelines import providers
from t5x_lite.trainer import Trainer

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Answer:
  """What a model says of an example.

  Attributes:
    example: as its task gives it.
    prediction: after the task's postprocessing, as its metrics see it.
    others: what else is said, such as {"log_probs": [C]}.
  """

  example: Mapping[str, Any]
  prediction: Any
  others: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


class Leaderboards(Protocol):
  """What servers want to know, and how."""

  def file(self, task: str) -> str:
    """The name of the file of a task.

    Raises:
      ConfigError: nobody asks for the task.
    """

  def write(
    self, directory: pathlib.Path, answers: Mapping[str, Sequence[Answer]]
  ) -> list[pathlib.Path]:
    """Writes the answers to tasks, and what can be sent; returns the paths.

    Raises:
      DataError: some answers are missing, or none.
    """


@dataclasses.dataclass(frozen=True)
class Tests:
  """The tests to be taken.

  Attributes:
    mixture: name of a task or mixture; of its tasks those are taken that a
      leaderboard asks for.
    feature_lengths: greatest numbers of tokens, by feature.
    tasks: names of tasks to be taken instead.
    split: of the tasks.
    vocabulary: of all text features, in place of the tasks' own.
    task_modules: modules that register tasks; imported first.
  """

  mixture: Any
  feature_lengths: Mapping[str, int]
  tasks: Sequence[str] | None = None
  split: str = "test"
  vocabulary: vocabularies.Vocabulary | None = None
  task_modules: Sequence[str] = ("tasks",)

  def find(self, boards: Leaderboards) -> dict[str, Any]:
    """The SeqIO tasks that are taken, by name.

    Raises:
      ConfigError: there is no such task, or none that a leaderboard asks for.
    """
    chosen = [self.mixture] if self.tasks is None else list(self.tasks)
    found: dict[str, Any] = {}
    for name in chosen:
      provider = providers.find(
        name,
        task_modules=self.task_modules,
        vocabulary=self.vocabulary,
        features=self.feature_lengths,
      )
      several = providers.tasks(provider)
      for task in several:
        try:
          boards.file(task.name)
        except errors.ConfigError:
          if len(several) == 1:
            raise
          _log.info("no leaderboard asks for task %s", task.name)
        else:
          found[task.name] = task
    if not found:
      raise errors.ConfigError(
        f"no leaderboard asks for a task of {', '.join(map(str, chosen))}:"
        " name some that they do in TASKS"
      )
    return found

  def read(self, task: Any) -> list[dict[str, Any]]:
    """The examples of a task; tells how many have inputs that are cut."""
    lengths = {"inputs": self.feature_lengths["inputs"]}
    examples = task_metrics.examples_of(task, self.split, self.feature_lengths)
    cut = truncation.count(examples, task, lengths)
    truncation.warn(task.name, cut, len(examples), lengths)
    return examples


def submit(
  *,
  workdir: str,
  model: Callable[..., Any],
  objective: Objective,
  partitioner: Partitioner | Automatic,
  tests: Tests,
  leaderboards: Leaderboards,
  batch_size: int,
  decoder: decoding.Search | None = None,
  checkpoint: str | None = None,
  step: int | str = "latest",
  output: str | None = None,
  dry_run: bool = False,
) -> list[pathlib.Path]:
  """Predicts test splits and writes what leaderboards' servers read.

  Args:
    workdir: of the run that trained the model.
    model: its constructor.
    objective: makes batches; tasks answer by text or by labels as it does.
    partitioner: mesh and rules, or what chooses them.
    tests: what is to be predicted.
    leaderboards: what they want of it.
    batch_size: rows predicted at once, over all devices.
    decoder: of text; None is greedy, up to the length of the targets.
    checkpoint: a workdir or the directory of a step; by default `workdir`.
    step: "latest" or a number.
    output: a directory; by default "submission" in the workdir.
    dry_run: show what would be done.

  Returns:
    What was written.

  Raises:
    ConfigError: the objective predicts nothing, no leaderboard asks for the
      tasks, or the vocabulary is not the run's.
    CheckpointError: no such checkpoint, or one of another model.
    DataError: a test is not there, or a prediction is no answer to it.
  """
  if not isinstance(objective, Discriminative):
    decoding.generative(objective)
    decoding.decoder_of(tests.feature_lengths, decoder)  # or tells why not
  checkpoint = checkpoint or workdir
  ((_, directory),) = trained_model.find(checkpoint, step).items()
  made = trained_model.trainer_of(model, objective, partitioner)
  tasks = tests.find(leaderboards)
  place = pathlib.Path(output or pathlib.Path(workdir, "submission"))
  if dry_run:
    files = {name: leaderboards.file(name) for name in tasks}
    describe.show(_plan(made, directory, files, place))
    return []
  for task in tasks.values():
    used = {
      name: providers.fingerprint(task.output_features[name].vocabulary)
      for name in tests.feature_lengths
    }
    trained_model.check_vocabulary(checkpoint, used)
  examples = {name: tests.read(task) for name, task in tasks.items()}
  trained = trained_model.restore(made, directory).model
  answers = {}
  for name, task in tasks.items():
    _log.info("%s: %d examples", name, len(examples[name]))
    if isinstance(objective, Discriminative):
      found = _labels(made, trained, task, examples[name], tests, batch_size)
    else:
      found = _texts(
        made, trained, task, examples[name], tests, batch_size, decoder
      )
    answers[name] = list(found)
  if not hosts.is_first():
    return []
  written = leaderboards.write(place, answers)
  for path in written:
    print(path)
  return written


def _labels(
  made: Trainer,
  model: Any,
  task: Any,
  examples: Sequence[Mapping[str, Any]],
  tests: Tests,
  batch_size: int,
) -> Iterator[Answer]:
  """What the heads of the model say."""
  asked = labeler.Labeler(
    made.objective,
    made.partitioner,
    feature_lengths=tests.feature_lengths,
    batch_size=batch_size,
  )
  for example, said in zip(
    examples, asked.predict(model, examples), strict=True
  ):
    prediction = task.postprocess_fn(
      said.pop("prediction").tolist(), example=example, is_target=False
    )
    yield Answer(example, prediction, said)


def _texts(
  made: Trainer,
  model: Any,
  task: Any,
  examples: Sequence[Mapping[str, Any]],
  tests: Tests,
  batch_size: int,
  decoder: decoding.Search | None,
) -> Iterator[Answer]:
  """What the model writes."""
  vocabulary = task.output_features[decoding.TARGETS].vocabulary
  decoder = decoding.decoder_of(tests.feature_lengths, decoder)
  predictor = decoding.Predictor(
    decoder.completed(eos=vocabulary.eos_id),
    made.objective,
    made.partitioner,
    feature_lengths=tests.feature_lengths,
    batch_size=batch_size,
    vocabulary=vocabulary,
  )
  for example, found in zip(
    examples, predictor.predict(model, examples), strict=True
  ):
    prediction = task.postprocess_fn(
      found.text, example=example, is_target=False
    )
    yield Answer(example, prediction)


def _plan(
  made: Trainer,
  directory: pathlib.Path,
  files: Mapping[str, str],
  place: pathlib.Path,
) -> Iterator[table.Table]:
  """What would be done."""
  yield describe.facts(
    "Submission",
    {
      "model": type(made.abstract.model).__name__,
      "parameters": flops.num_parameters(made.abstract.model),
      "checkpoint": directory,
      "output": place,
      **files,
    },
  )
