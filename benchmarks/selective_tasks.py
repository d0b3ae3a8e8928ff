"""Can a state space select?  S4 and Mamba on the two tasks that ask it.

Trains decoders of equal size on selective copying and on induction heads (Gu
and Dao 2023, section 4.1), by the shipped gin files and the ordinary command,
one after the other; then prints accuracy beside the paper's, and accuracy at
lengths that were never trained on, as tables and as a picture.  A run that is
there already is read, and one that was stopped goes on.

  python benchmarks/selective_tasks.py [--workdir runs/selection]
      [--tasks selective_copying,induction_heads] [--mixers s4,mamba]
      [--seeds 0] [--picture docs/induction_heads.png]
      [--gin TRAIN_STEPS=100 ...]
"""

import argparse
import dataclasses
import json
import math
import os
import pathlib
import re
import resource
import statistics
import subprocess
import sys

import curves

ROOT = pathlib.Path(__file__).resolve().parents[1]
TASKS = ("selective_copying", "induction_heads")
NAMES = {"s4": "S4", "mamba": "Mamba", "attention": "attention (rotary)"}
# Selective copying, table 1: of 4,096 tokens, 16 of them to be copied.
PAPER = {
  "selective_copying": {"s4": "18.3", "mamba": "99.8 (97.0 without the gate)"}
}


@dataclasses.dataclass(frozen=True)
class Run:
  """What a finished run tells.

  Attributes:
    parameters: their number.
    steps: of training.
    trained: the length that was trained on.
    accuracy: in percent, by length.
    cpu_seconds: of the command; None if the run was there already.
  """

  parameters: int
  steps: int
  trained: int
  accuracy: dict[int, float]
  cpu_seconds: float | None


def train(
  task: str, mixer: str, seed: int, folder: pathlib.Path, settings: list[str]
) -> Run:
  """Trains, or reads what is there."""
  workdir = folder / task / f"{mixer}_{seed}"
  files = (f"studies/{task}.gin", f"studies/selection_{mixer}.gin")
  command = [
    *(sys.executable, "-m", "t5x_lite", "train", f"--workdir={workdir}"),
    *(f"--gin_file={name}" for name in files),
    *(f"--gin.{setting}" for setting in (f"SEED={seed}", *settings)),
  ]
  path = os.pathsep.join(
    filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
  )
  before = _cpu()
  subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, check=True)
  spent = _cpu() - before
  return read(workdir, None if spent < 30 else spent)


def _cpu() -> float:
  usage = resource.getrusage(resource.RUSAGE_CHILDREN)
  return usage.ru_utime + usage.ru_stime


def read(workdir: pathlib.Path, cpu_seconds: float | None = None) -> Run:
  """Reads a run's record and the last accuracies of its history."""
  record = json.loads((workdir / "run.json").read_text())
  shapes = [
    re.findall(r"\[(.*)\]", spec)[0] for spec in record["model"].values()
  ]
  parameters = sum(math.prod(map(int, shape.split())) for shape in shapes)
  rows = [
    json.loads(line)
    for line in (workdir / "metrics.jsonl").read_text().splitlines()
  ]
  accuracy = {
    int(name.split("/")[1]): 100 * value
    for row in rows
    for name, value in row.items()
    if re.fullmatch(r"length/\d+/accuracy", name)
  }
  return Run(
    parameters,
    rows[-1]["step"],
    record["data"]["feature_lengths"]["inputs"],
    dict(sorted(accuracy.items())),
    cpu_seconds,
  )


def mean(runs: list[Run]) -> dict[int, float]:
  """The mean accuracy over seeds, by length."""
  return {
    length: statistics.mean(run.accuracy[length] for run in runs)
    for length in runs[0].accuracy
  }


def spread(runs: list[Run], length: int) -> str:
  """The mean over seeds, and the range if there are several."""
  values = [run.accuracy[length] for run in runs]
  if len(values) == 1:
    return f"{values[0]:.1f}"
  least, most = min(values), max(values)
  return f"{statistics.mean(values):.1f} ({least:.1f} to {most:.1f})"


def table(task: str, found: dict[str, list[Run]]) -> str:
  """Accuracy by length in Markdown; over several seeds the mean and range."""
  first = next(iter(found.values()))[0]
  lengths = [
    f"**{length:,}**" if length == first.trained else f"{length:,}"
    for length in first.accuracy
  ]
  paper = PAPER.get(task, {})
  heads = [f"{task.replace('_', ' ')}, accuracy %", "parameters", "steps"]
  heads += ["CPU min", *lengths, *(["paper"] if paper else [])]
  lines = [_row(heads), _row(["---", *["--:"] * (len(heads) - 1)])]
  for mixer, runs in found.items():
    spent = [run.cpu_seconds for run in runs if run.cpu_seconds]
    minutes = f"{statistics.mean(spent) / 60:.1f}" if spent else "-"
    cells = [NAMES[mixer], f"{runs[0].parameters:,}", f"{runs[0].steps:,}"]
    cells += [minutes, *(spread(runs, length) for length in first.accuracy)]
    lines.append(_row(cells + ([paper.get(mixer, "-")] if paper else [])))
  return "\n".join(lines)


def _row(cells: list[str]) -> str:
  return f"| {' | '.join(cells)} |"


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--workdir", type=pathlib.Path, default="runs/selection")
  parser.add_argument("--tasks", default=",".join(TASKS))
  parser.add_argument("--mixers", default="s4,mamba")
  parser.add_argument("--seeds", default="0")
  parser.add_argument("--picture", type=pathlib.Path)
  parser.add_argument(
    "--gin", nargs="*", default=[], help="further settings, NAME=VALUE"
  )
  flags = parser.parse_args()
  mixers = flags.mixers.split(",")
  seeds = [int(seed) for seed in flags.seeds.split(",")]
  found = {
    task: {
      mixer: [
        train(task, mixer, seed, flags.workdir, flags.gin) for seed in seeds
      ]
      for mixer in mixers
    }
    for task in flags.tasks.split(",")
  }
  print("\n\n".join(table(task, runs) for task, runs in found.items()))
  if flags.picture:
    panels = {
      f"{task.replace('_', ' ')}, accuracy %": {
        NAMES[mixer]: list(mean(runs).items()) for mixer, runs in each.items()
      }
      for task, each in found.items()
    }
    [[first, *_], *_] = next(iter(found.values())).values()
    curves.draw(flags.picture, panels, marked=(first.trained, "trained on"))


if __name__ == "__main__":
  main()
