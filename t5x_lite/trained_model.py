"""The parameters of a run, for the commands that use a model as it is."""

import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import optax

from t5x_lite import errors, optimizers, run_record, trainer
from t5x_lite.auto_mesh import Automatic
from t5x_lite.objectives import Objective
from t5x_lite.partitioning import Partitioner
from t5x_lite.train_state import TrainState


def trainer_of(
  model: Callable[..., Any],
  objective: Objective,
  partitioner: Partitioner | Automatic,
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
  newest = int(latest.name)
  is_step = latest == pathlib.Path(checkpoint).absolute()
  if steps == "latest" or (steps == "all" and is_step):
    return {newest: latest}
  if steps == "all":
    names = [path.name for path in latest.parent.iterdir()]
    steps = [int(name) for name in names if name.isdecimal()]
  if isinstance(steps, str):
    raise errors.ConfigError(
      f"steps {steps!r} is not 'latest', 'all', a step or a list of steps"
      f"{errors.suggest(steps, ('latest', 'all'))}"
    )
  chosen = sorted({steps} if isinstance(steps, int) else set(steps))
  if is_step and chosen != [newest]:
    raise errors.CheckpointError(
      f"{latest} holds step {newest} only, not {', '.join(map(str, chosen))}:"
      f" give {latest.parent}"
    )
  return {step: checkpoints.resolve(latest.parent, step) for step in chosen}


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


def check_vocabulary(
  checkpoint: str, used: Mapping[str, Mapping[str, Any]]
) -> None:
  """Raises ConfigError if the run was made with other vocabularies.

  A checkpoint that no run of ours made, and so has no record, passes.

  Args:
    checkpoint: a workdir, its checkpoints directory, or that of one step.
    used: fingerprints by feature, as in `datasets.Dataset.fingerprint`.
  """
  path = pathlib.Path(checkpoint).absolute()
  records = [
    directory / run_record.NAME for directory in (path, *path.parents[:2])
  ]
  record = next((path for path in records if path.exists()), None)
  if record is None:
    return
  try:
    saved = json.loads(record.read_text())["data"]["vocabulary"]
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise errors.CheckpointError(
      f"{record} cannot be read: {type(error).__name__} {error}"
    ) from error
  fields = [
    f"\n  {feature}.{field}: {then.get(field)!r} then, {now.get(field)!r} now"
    for feature, now in json.loads(json.dumps(used)).items()
    if (then := saved.get(feature)) is not None
    for field in {**then, **now}
    if then.get(field) != now.get(field)
  ]
  if fields:
    raise errors.ConfigError(
      f"the run in {record.parent} was made with another vocabulary:"
      f"{''.join(fields)}\nSet VOCABULARY to that of the run"
    )
