"""The `compile` command: from gin files to a report, or a ranking."""

import functools
import json as json_lib
from collections.abc import Callable, Sequence
from typing import Any

from t5x_lite import errors
from t5x_lite.ahead import launch, programs, text, topology
from t5x_lite.ahead.programs import Run
from t5x_lite.ahead.search import STEPS as SEARCHED
from t5x_lite.ahead.search import Search, table


def compile_run(
  *,
  run: Callable[..., Run],
  topology: str,
  num_slices: int = 1,
  steps: Sequence[str] = programs.STEPS,
  json: bool = False,
  search: bool = False,
  searches: Search = Search(),  # noqa: B008 (frozen)
  timeout: float = 3600.0,
) -> None:
  """Compiles a run's steps for a machine that need not be there.

  Prints what they need and, at most, reach.

  Args:
    run: what is compiled; made in a process of its own.
    topology: such as "v5e:16x16" or "H100:64".
    num_slices: of a TPU.
    steps: of "train", "eval" and "decode"; a model that does not generate has
      no decode step.
    json: print JSON instead of text.
    search: try settings, and rank those that fit.
    searches: which ones.
    timeout: seconds for a compilation.

  Raises:
    ConfigError: unknown names, a run that does not suit the machine, or no
      compiler for it.
    TooLargeError: it does not fit into memory.
  """
  del run  # the other process makes it, of the same configuration
  where = _checked(topology, num_slices, steps)
  if lacking := where.missing():
    raise errors.ConfigError(lacking)
  compile_ = functools.partial(_compile, _configuration(), where, timeout)
  if search:
    _search(searches, compile_, json=json)
    return
  answer = compile_(steps, (), ())
  if json:
    print(json_lib.dumps(as_json(where, answer), indent=2))
  else:
    print(text.describe(where, answer))
  if not answer.fits:
    raise errors.TooLargeError(
      f"the run does not fit on {where}: "
      f"{text.remedies(answer, where.num_chips)}"
    )


def _checked(
  name: str, num_slices: int, steps: Sequence[str]
) -> topology.Topology:
  unknown = [step for step in steps if step not in programs.STEPS]
  if unknown or not steps:
    raise errors.ConfigError(
      f"STEPS {tuple(steps)!r}: give some of {programs.STEPS}"
    )
  return topology.named(name, num_slices)


def _configuration() -> str:
  from t5x_lite import config  # the only part that knows gin

  if config.loader.current is None:
    raise ValueError("compile_run is configured by gin, see runs/compile.gin")
  return config.loader.current.text


def _compile(
  gin: str,
  where: topology.Topology,
  timeout: float,
  steps: Sequence[str],
  files: Sequence[str],
  settings: Sequence[tuple[str, str]],
) -> launch.Answer:
  return launch.compile_steps(
    gin, where, steps, files=files, settings=settings, timeout=timeout
  )


def _search(
  searches: Search, compile_: Callable[..., launch.Answer], *, json: bool
) -> None:
  trials = searches.run(functools.partial(compile_, SEARCHED))
  if json:
    rows = [
      {
        "flags": trial.flags,
        "fits": trial.fits,
        "refused": trial.refused,
        "steps": [s.as_json() for s in trial.answer.steps]
        if trial.answer
        else [],
      }
      for trial in trials
    ]
    print(json_lib.dumps(rows, indent=2))
  else:
    print(text.ranking(table(trials)))
    print(f"\nstep: exchanges not hidden, the fastest first.  {text.LIMITS}")
  if not any(trial.fits for trial in trials):
    raise errors.TooLargeError(
      f"none of {len(trials)} trials fits: take more chips, a smaller"
      " BATCH_SIZE, or more MODEL_PARALLEL"
    )


def as_json(where: topology.Topology, answer: launch.Answer) -> dict[str, Any]:
  """The report for programs."""
  return {
    "topology": where.name,
    "num_slices": where.num_slices,
    "chip": where.chip.name,
    "mesh": dict(answer.mesh),
    "fits": answer.fits,
    "steps": [step.as_json() for step in answer.steps],
    "too_large": [vars(step) for step in answer.too_large],
    "limits": " ".join(text.LIMITS.split()),
  }
