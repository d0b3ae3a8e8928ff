"""Tries remat policies, microbatches and meshes, and ranks what fits."""

import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence

from pallas_kernels import testing
from t5x_lite import errors
from t5x_lite.ahead import programs, text
from t5x_lite.ahead.launch import Answer

# Compiles a trial: gin files and settings to an answer.
Compile = Callable[[Sequence[str], Sequence[tuple[str, str]]], Answer]


@dataclasses.dataclass(frozen=True)
class Trial:
  """One combination.

  Attributes:
    mesh: a gin file, or "" for the run's own.
    remat: value of REMAT.
    microbatches: value of NUM_MICROBATCHES.
    answer: of the compiler; None if it was refused.
    refused: why.
  """

  mesh: str
  remat: str
  microbatches: int
  answer: Answer | None = None
  refused: str = ""

  @property
  def fits(self) -> bool:
    """Whether it can be run."""
    return self.answer is not None and self.answer.fits

  @property
  def seconds(self) -> float:
    """Predicted, exchanges not hidden; infinite if it does not fit."""
    if self.answer is None or not self.fits:
      return float("inf")
    return self.answer.steps[0].seconds_exposed

  @property
  def flags(self) -> str:
    """What to add to the command line."""
    mesh = f"--gin_file={self.mesh} " if self.mesh else ""
    # What is near to None needs quotes, also in a shell.
    remat = "\"'none'\"" if self.remat == "none" else self.remat
    return (
      f"{mesh}--gin.REMAT={remat} --gin.NUM_MICROBATCHES={self.microbatches}"
    )

  @property
  def settings(self) -> list[tuple[str, str]]:
    """Macros and their values, as in a gin file."""
    return [
      ("REMAT", repr(self.remat)),
      ("NUM_MICROBATCHES", str(self.microbatches)),
    ]


@dataclasses.dataclass(frozen=True)
class Search:
  """What is tried.

  Attributes:
    meshes: gin files; "" is the run's own mesh.
    remat: policies, the fastest first; each is the same numbers.
    microbatches: rising.
    trials: so many at most.
  """

  meshes: Sequence[str] = ("", "meshes/fsdp.gin", "meshes/two_d.gin")
  remat: Sequence[str] = ("none", "minimal", "full")
  microbatches: Sequence[int] = (1, 2, 4, 8)
  trials: int = 12

  def __post_init__(self):
    for name in ("meshes", "remat", "microbatches"):
      if not getattr(self, name):
        raise errors.ConfigError(f"Search.{name} is empty: name what to try")
    if self.trials < 1:
      raise errors.ConfigError(f"Search.trials is {self.trials}: use 1 or more")

  def run(self, compile_: Compile) -> list[Trial]:
    """The trials, the fastest that fits first.

    On each mesh, microbatches rise until the policy that recomputes least
    fits; of a number of microbatches, the first policy that fits is the last
    one tried: others only recompute more.
    """
    tried: list[Trial] = []
    for trial in self._order(tried):
      if len(tried) == self.trials:
        print(f"stopped after {self.trials} trials", file=sys.stderr)
        break
      tried.append(_try(trial, compile_))
      print(f"{trial.flags}: {_outcome(tried[-1])}", file=sys.stderr)
    return sorted(tried, key=lambda trial: trial.seconds)

  def _order(self, tried: Sequence[Trial]) -> Iterator[Trial]:
    for mesh in self.meshes:
      for count in self.microbatches:
        for remat in self.remat:
          yield Trial(mesh, remat, count)
          if tried[-1].fits or tried[-1].answer is None:
            break
        if tried[-1].answer is None:
          break  # it does not suit the model, or does not divide
        if tried[-1].fits and tried[-1].remat == self.remat[0]:
          break


def _try(trial: Trial, compile_: Compile) -> Trial:
  files = [trial.mesh] if trial.mesh else []
  try:
    return dataclasses.replace(trial, answer=compile_(files, trial.settings))
  except (errors.ConfigError, testing.CompileError) as error:
    return dataclasses.replace(trial, refused=str(error).splitlines()[0])


def _outcome(trial: Trial) -> str:
  if trial.answer is None:
    return f"refused: {trial.refused}"
  if not trial.fits:
    return "does not fit"
  step = trial.answer.steps[0]
  used = text.size(step.memory.used)
  return f"{text.seconds(step.seconds_exposed)}, {used} of HBM"


def table(trials: Sequence[Trial]) -> list[Mapping[str, str]]:
  """Rows for people."""
  rows: list[Mapping[str, str]] = []
  for trial in trials:
    cells = {"step": "does not fit", "MFU": "", "HBM": "", "free": ""}
    if trial.answer is None:
      cells["step"] = "refused"
    elif trial.fits:
      step = trial.answer.steps[0]
      cells = {
        "step": text.seconds(step.seconds_exposed),
        "MFU": f"{step.mfu(step.seconds_exposed):.1%}",
        "HBM": text.size(step.memory.used),
        "free": text.size(step.memory.free),
      }
    rows.append({**cells, "flags": trial.flags})
  return rows


STEPS = (programs.TRAIN,)  # of a trial: the largest, and what is to be fast
