"""Runs a user's commands in processes of their own, on a tiny model."""

import json
import os
import pathlib
import subprocess
import sys

from tests import cheap_compiles

ROOT = pathlib.Path(__file__).resolve().parents[2]
TINY = (
  "--gin_file=models/byt5/tiny.gin",
  "--gin_file=objectives/seq2seq.gin",
)
SMALL = (
  "--gin.DTYPE=float32",
  "--gin.BATCH_SIZE=8",
  "--gin.FEATURE_LENGTHS={'inputs': 48, 'targets': 16}",
)


def environment(**extra: str) -> dict[str, str]:
  """One CPU device, and this checkout first."""
  path = os.pathsep.join(filter(None, [str(ROOT), os.getenv("PYTHONPATH")]))
  return os.environ | {
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": cheap_compiles.flags(),
    "PYTHONPATH": path,
    **extra,
  }


def command(*arguments: object) -> list[str]:
  """`t5x_lite ARGUMENTS` as a command line of this interpreter."""
  return [sys.executable, "-m", "t5x_lite", *map(str, arguments)]


def run(
  *arguments: object, cwd: pathlib.Path, code: int = 0, **extra: str
) -> subprocess.CompletedProcess[str]:
  """Runs `t5x_lite ARGUMENTS` and asserts its exit code."""
  done = subprocess.run(
    command(*arguments),
    cwd=cwd,
    env=environment(**extra),
    stdin=subprocess.DEVNULL,
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert done.returncode == code, done.stdout + done.stderr
  if code:  # a message, not a traceback
    assert "Traceback" not in done.stderr, done.stderr
  return done


def history(workdir: pathlib.Path) -> dict[int, dict[str, float]]:
  """Rows of metrics.jsonl by step, without what the machine decides."""
  rows = {}
  for line in (workdir / "metrics.jsonl").read_text().splitlines():
    row = json.loads(line)
    step = row.pop("step")
    assert step not in rows, f"step {step} stands twice in {workdir}"
    rows[step] = {
      name: value
      for name, value in row.items()
      if not name.startswith(("speed/", "time/", "memory/"))
    }
  return rows
