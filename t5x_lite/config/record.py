"""The record of a run's start: its configuration and where it ran.

`config.gin` is the configuration, `environment.json` the versions, the state
of the code and the command line.  A later start in the same directory writes
`config-2.gin` and `environment-2.json`; what is there is never overwritten.
"""

import datetime
import importlib.metadata
import itertools
import json
import os
import pathlib
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import t5x_lite
from t5x_lite import errors
from t5x_lite.config import loader

_PACKAGES = (
  "jax",
  "jaxlib",
  "libtpu",
  "flax",
  "optax",
  "orbax-checkpoint",
  "seqio",
  "tensorflow",
  "tensorflow-datasets",
  "numpy",
  "clu",
  "gin-config",
)


def save(workdir: str | os.PathLike, devices: Sequence[Any] = ()) -> None:
  """Records this start in `workdir`; call it on one process of a run.

  Args:
    workdir: made if it does not exist.
    devices: what the run computes on, such as `jax.devices()`.

  Raises:
    errors.CheckpointError: the directory cannot be written.
  """
  directory = _path(workdir)
  found = environment()
  found["devices"] = [str(device) for device in devices]
  try:
    directory.mkdir(parents=True, exist_ok=True)
    config_gin, environment_json = _free_names(directory)
    if loader.current is not None:
      command = " \\\n#     ".join(_command())
      header = f"# {found['time']}, t5x_lite {t5x_lite.__version__}\n"
      _write(config_gin, f"{header}# {command}\n{loader.current.text}")
    _write(environment_json, json.dumps(found, indent=2) + "\n")
  except OSError as error:
    raise errors.CheckpointError(
      f"cannot record the run in {directory}: {error}"
    ) from error


def environment() -> dict[str, Any]:
  """Versions, platform, code state and command line of this process."""
  versions: dict[str, str | None] = {"python": platform.python_version()}
  versions["t5x_lite"] = t5x_lite.__version__
  for package in _PACKAGES:
    try:
      versions[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      versions[package] = None
  now = datetime.datetime.now(datetime.UTC)
  return {
    "time": now.isoformat(timespec="seconds"),
    "command": " ".join(_command()),
    "executable": sys.executable,
    "working_directory": os.getcwd(),
    "versions": versions,
    "platform": platform.platform(),
    "host": platform.node(),
    "code": _git_state(pathlib.Path(__file__).resolve().parent),
    "own_code": _git_state(pathlib.Path.cwd()),
  }


def _command() -> list[str]:
  """The words of the command line, quoted for a shell and for readers."""
  program, *arguments = sys.argv
  program = os.path.basename(program)
  return [
    "t5x_lite" if program == "__main__.py" else program,
    *map(_quote, arguments),
  ]


def _quote(word: str) -> str:
  if shlex.quote(word) == word:
    return word
  if set('"$`\\!') & set(word):
    return shlex.quote(word)
  name, equals, value = word.partition("=")
  return f'{name}="{value}"' if equals else f'"{word}"'


def _git_state(directory: pathlib.Path) -> dict[str, Any] | None:
  """Commit and whether tracked files differ from it; None if not tracked."""

  def git(*arguments: str) -> str:
    return subprocess.run(
      ["git", "-C", str(directory), *arguments],
      check=True,
      capture_output=True,
      text=True,
      timeout=10,
    ).stdout.strip()

  try:
    if not git("ls-files", "."):  # installed within another checkout
      return None
    changes = git("status", "--porcelain", "--untracked-files=no")
    return {"commit": git("rev-parse", "HEAD"), "dirty": bool(changes)}
  except (OSError, subprocess.SubprocessError):
    return None


def _path(workdir: str | os.PathLike) -> Any:
  if "://" not in str(workdir):
    return pathlib.Path(workdir)
  from etils import epath  # a bucket; slow to import

  return epath.Path(workdir)


def _free_names(directory: Any) -> tuple[Any, Any]:
  for number in itertools.count(1):
    suffix = f"-{number}" if number > 1 else ""
    config_gin = directory / f"config{suffix}.gin"
    environment_json = directory / f"environment{suffix}.json"
    if not config_gin.exists() and not environment_json.exists():
      return config_gin, environment_json
  raise AssertionError


def _write(path: Any, text: str) -> None:
  """Writes all of a file or nothing."""
  partial = path.with_name(f".{path.name}.{os.getpid()}")
  try:
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
  except OSError:
    partial.unlink(missing_ok=True)
    raise
