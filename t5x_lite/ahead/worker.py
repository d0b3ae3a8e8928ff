"""Compiles the steps of a run and writes down what can be read off them.

Started by `launch` in a process of its own, with the environment that the
compiler wants: `python -m t5x_lite.ahead.worker REQUEST ANSWER`.
"""

import json
import pathlib
import re
import sys
import time
import traceback
from collections.abc import Mapping
from typing import Any

from t5x_lite import commands, config, errors, machine, sizes
from t5x_lite.ahead import collectives, programs, report, topology

ROOT = "t5x_lite.ahead.Run"
# "... the total memory required for HLO temporaries (1.17T) exceeds available
# HBM (15.75G)", or "Used 17.03G of 15.75G hbm."
_TOO_LARGE = "RESOURCE_EXHAUSTED"
_SIZES = (
  re.compile(r"\(([\d.]+)([KMGTP]?)\) exceeds available"),
  re.compile(r"Used ([\d.]+)([KMGTP]?) of"),
)
_UNITS = {name: 1024**n for n, name in enumerate(("", *"KMGTP"))}


def compiled(request: Mapping[str, Any]) -> dict[str, Any]:
  """Answers a request; see `launch`."""
  roots = [command.root for command in commands.COMMANDS.values()]
  settings = [(name, value) for name, value in request["settings"]]
  loaded = config.load(ROOT, request["files"], settings, commands=roots)
  where = topology.named(request["topology"], request["num_slices"])
  devices = where.devices()
  with machine.described(devices):
    run: programs.Run = loaded.call()
    mesh = run.trainer.partitioner.mesh
    used = list(mesh.devices.flat)
    places = collectives.Places.of(where.chip, used)
    found: dict[str, Any] = {
      "mesh": dict(mesh.shape),
      "steps": [],
    }
    for step in request["steps"]:
      if step == programs.DECODE and not run.decodes():
        continue
      found["steps"].append(_step(run, step, places))
  return found


def _step(
  run: programs.Run, step: str, places: collectives.Places
) -> dict[str, Any]:
  begin = time.monotonic()
  lowered = run.lowered(step)
  try:
    if step == programs.TRAIN:
      made = run.compilation(lowered, places.chip.platform)
    else:
      made = lowered.compile()
  except Exception as error:
    # A kernel too large for VMEM is not the run's fault.
    if _TOO_LARGE not in str(error) or "vmem" in str(error):
      raise
    return _too_large(run, step, places, str(error))
  return report.of(run, step, made, places, time.monotonic() - begin).as_json()


def _too_large(
  run: programs.Run, step: str, places: collectives.Places, message: str
) -> dict[str, Any]:
  """What is known of a program that the compiler refuses for its size."""
  state = run.trainer.abstract
  needed = None
  for pattern in _SIZES:
    if needed is None and (size := pattern.search(message)) is not None:
      needed = int(float(size[1]) * _UNITS[size[2]])
  return {
    "name": step,
    "too_large": {
      "parameters": sizes.on_device(state.model),
      "optimizer": sizes.on_device(state.opt_state),
      "needed": needed,
      "available": places.chip.memory,
      "message": message.splitlines()[0],
    },
  }


def main(request: str, answer: str) -> None:
  """Reads the request, a JSON file, and writes the answer, another."""
  try:
    found = compiled(json.loads(pathlib.Path(request).read_text()))
  except errors.UserError as error:
    found = {"refused": str(error).partition("\n  In call to configurable ")[0]}
  except Exception as error:
    traceback.print_exc()
    found = {"error": f"{type(error).__name__}: {error}"}
  pathlib.Path(answer).write_text(json.dumps(found))


if __name__ == "__main__":
  main(*sys.argv[1:])
