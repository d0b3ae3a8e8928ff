"""The parameters of a run, for the commands that use a model as it is."""

import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from t5x_lite import errors, optimizers, trainer
from t5x_lite.objectives import Objective
from t5x_lite.partitioning import Partitioner
from t5x_lite.train_state import TrainState


def trainer_of(
  model: Callable[..., Any], objective: Objective, partitioner: Partitioner
) -> trainer.Trainer:
  """A trainer that evaluates only: its optimizer has no state.

  Raises:
    ConfigError: model, objective and mesh do not fit.
  """
  nothing = optimizers.Optimizer(optax.identity(), lambda step: 0.0)
  made = trainer.Trainer(model, objective, nothing, partitioner)
  made.check()
  return made


def find(
  checkpoint: str, steps: int | str | Sequence[int] = "latest"
) -> dict[int, pathlib.Path]:
  """Directories of the chosen steps, in rising order.

  Args:
    checkpoint: a workdir, its checkpoints directory, or that of one step.
    steps: "latest", "all", a step or several.

  Raises:
    CheckpointError: there is no such checkpoint.
    ConfigError: `steps` is none of these.
  """
  from t5x_lite import checkpoints

  latest = checkpoints.resolve(checkpoint)
  if not latest.name.isdecimal():
    raise errors.CheckpointError(
      f"the checkpoint {latest} must be called by its step, such as"
      f" {latest.parent / '1000'}"
    )
  if steps == "latest":
    return {int(latest.name): latest}
  if steps == "all":
    root = pathlib.Path(checkpoint).absolute()
    names = [latest] if latest == root else latest.parent.iterdir()
    steps = [int(path.name) for path in names if path.name.isdecimal()]
  if isinstance(steps, str):
    raise errors.ConfigError(
      f"steps {steps!r} is not 'latest', 'all', a step or a list of steps"
      f"{errors.suggest(steps, ('latest', 'all'))}"
    )
  chosen = sorted({steps} if isinstance(steps, int) else set(steps))
  return {step: checkpoints.resolve(checkpoint, step) for step in chosen}


def restore(made: trainer.Trainer, directory: pathlib.Path) -> TrainState:
  """The state of a step, as far as evaluation needs it.

  Args:
    made: of `trainer_of`.
    directory: of the step, named by its number.

  Raises:
    CheckpointError: it is damaged, or of another model.
  """
  from t5x_lite import checkpoints

  step = int(directory.name)
  model = checkpoints.restore_params(
    directory.parent, made.abstract.model, step
  )
  return TrainState(jnp.asarray(step, jnp.int32), model, ())


def parameter_count(made: trainer.Trainer) -> int:
  """Number of parameters; nothing is allocated."""
  return sum(x.size for x in jax.tree.leaves(made.abstract.model))


def check_vocabulary(checkpoint: str, vocabulary: Any) -> None:
  """Raises ConfigError if the run was made with another vocabulary.

  A workdir without a record, such as one of imported parameters, passes.

  Args:
    checkpoint: workdir of the run.
    vocabulary: of `vocabularies`, or None, which passes.
  """
  from t5x_lite import run_record

  path = pathlib.Path(checkpoint) / run_record.NAME
  if vocabulary is None or not path.exists():
    return
  try:
    saved = json.loads(path.read_text()).get("vocabulary")
  except (OSError, ValueError) as error:
    raise errors.CheckpointError(f"{path} cannot be read: {error}") from error
  current = json.loads(json.dumps(vocabulary.fingerprint()))
  if not isinstance(saved, Mapping) or saved == current:
    return
  fields = [
    f"{name} {saved.get(name)!r} then, {current.get(name)!r} now"
    for name in {**saved, **current}
    if saved.get(name) != current.get(name)
  ]
  raise errors.ConfigError(
    f"the run in {checkpoint} was made with another vocabulary"
    f" ({'; '.join(fields)}): set VOCABULARY to that of the run"
  )
