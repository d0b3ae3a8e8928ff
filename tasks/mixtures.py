"""Mixtures of tasks, with the rates of T5 (Raffel et al., 2020, section 3.5.2).

A task m of e_m examples is drawn in proportion to

    fixed         a number given for it
    proportional  min(e_m, K); the limit K keeps large tasks from taking all
    temperature   min(e_m, K) ** (1 / T); all the same as T grows

`proportional` and `temperature` make functions that SeqIO takes for a rate.
`Mixture` is for gin: `MIXTURE = @mixtures.Mixture()`.
"""

import dataclasses
import math
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from t5x_lite import errors

if typing.TYPE_CHECKING:
  import seqio

Rate = Callable[["seqio.Task"], float]

# K of T5's temperature-scaled mixing.
TEMPERATURE_MAXIMUM = 2**21


def proportional(maximum: int | None = None) -> Rate:
  """Returns the rate min(e_m, `maximum`); T5 tries 2**16 to 2**21."""
  return temperature(1.0, maximum)


def temperature(
  value: float, maximum: int | None = TEMPERATURE_MAXIMUM
) -> Rate:
  """Returns the rate min(e_m, `maximum`) ** (1 / `value`).

  Raises:
    errors.ConfigError: a temperature below 1 or a maximum below 1.
  """
  _check(value, maximum)

  def rate(task: "seqio.Task") -> float:
    examples = task.num_input_examples("train")
    if examples is None:
      raise errors.ConfigError(
        f"the rate of task {task.name!r} is to follow its size, which its "
        "source does not tell: give it a fixed rate"
      )
    limited = examples if maximum is None else min(examples, maximum)
    return float(limited) ** (1.0 / value)

  return rate


def _check(value: float, maximum: int | None) -> None:
  if not value >= 1.0:
    raise errors.ConfigError(
      f"mixing temperature {value} must be 1 (proportional) or more"
    )
  if maximum is not None and maximum < 1:
    raise errors.ConfigError(f"mixing maximum {maximum} must be 1 or more")


@dataclasses.dataclass(frozen=True)
class Mixture:
  """A mixture by gin alone; `register` puts it into SeqIO's registry.

  Attributes:
    tasks: names of tasks or mixtures, or objects with a method `register`
      such as `files.Files`; or a mapping from names to fixed rates.
    temperature: how even the rates of `tasks` without given rates are: 1.0
      for proportional to their sizes, `math.inf` for all the same.
    maximum: number of examples from which on a task counts no more.
    name: of the mixture; made up from the rest if not given.
  """

  tasks: Sequence[Any] | Mapping[str, float]
  temperature: float = 1.0
  maximum: int | None = None
  name: str | None = None

  def __post_init__(self) -> None:
    if not self.tasks:
      raise errors.ConfigError("Mixture.tasks is empty: name two or more")
    _check(self.temperature, self.maximum)
    if isinstance(self.tasks, Mapping):
      wrong = {name: r for name, r in self.tasks.items() if not r > 0}
      if wrong:
        raise errors.ConfigError(f"mixing rates must be above 0, not {wrong}")

  def register(self) -> str:
    """Registers the mixture once, and its tasks; returns its name.

    Raises:
      errors.ConfigError: a task of this name is not registered.
    """
    import seqio

    rated = self._rated()
    known = [*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()]
    for task in rated:
      if task not in known:
        raise errors.ConfigError(
          f"no task or mixture is called {task!r}{errors.suggest(task, known)}"
        )
    name = self.name or self._made_up(list(rated))
    if name not in known:
      seqio.MixtureRegistry.add(name, list(rated.items()))
    return name

  def _rated(self) -> dict[str, float | Rate]:
    if isinstance(self.tasks, Mapping):
      return dict(self.tasks)
    names = [t if isinstance(t, str) else t.register() for t in self.tasks]
    if math.isinf(self.temperature):
      return dict.fromkeys(names, 1.0)
    rate = temperature(self.temperature, self.maximum)
    return dict.fromkeys(names, rate)

  def _made_up(self, names: Sequence[str]) -> str:
    from tasks import cache

    rates = dict(self.tasks) if isinstance(self.tasks, Mapping) else None
    temperature = str(self.temperature)
    parts = [list(names), rates, temperature, self.maximum]
    return f"mixture_{cache.digest(parts)}"
