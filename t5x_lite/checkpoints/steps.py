"""The step directories of a run: which there are, which are good.

<workdir>/checkpoints/
  1000/                a step, complete and sealed with a manifest
    model/ optimizer/  arrays (arrays.py)
    iterator/          the data iterator's own files
    metrics.json       the metrics of the step, if there were any
  1200.damaged/        failed its check at a restore, and was set aside
  *.orbax-checkpoint-tmp/ staged/ deleted/
                       being written or deleted
"""

import errno
import itertools
import logging
import math
import os
import pathlib
import shutil
from collections.abc import Iterable, Mapping, Sequence
from typing import NoReturn

from t5x_lite import errors, hosts
from t5x_lite.checkpoints import manifest

SUBDIRECTORY = "checkpoints"
STAGED = "staged"
DELETED = "deleted"
TEMPORARY = ".orbax-checkpoint-tmp"
_SHOWN = 5  # damaged files named in a message
_log = logging.getLogger(__name__)


def steps(directory: pathlib.Path) -> list[int]:
  """The complete steps in a directory of checkpoints, in order."""
  if not directory.is_dir():
    return []
  return sorted(
    int(path.name)
    for path in directory.iterdir()
    if path.name.isdecimal() and path.is_dir()
  )


def sweep(directory: pathlib.Path) -> None:
  """Removes what an interrupted save or deletion left."""
  for path in [*directory.glob(f"*{TEMPORARY}*"), directory / STAGED]:
    shutil.rmtree(path, ignore_errors=True)
  empty_trash(directory)


def empty_trash(directory: pathlib.Path) -> None:
  """Frees the space of the steps that are no longer kept."""
  shutil.rmtree(directory / DELETED, ignore_errors=True)


def resolve(
  path: str | os.PathLike[str], step: int | None = None
) -> pathlib.Path:
  """The directory of a step.

  Args:
    path: a workdir, its checkpoints directory, or a directory of a step.
    step: which step; by default the newest.

  Raises:
    CheckpointError: there is no such checkpoint.
  """
  root = pathlib.Path(path).absolute()
  if step is None and (root / manifest.NAME).exists():
    return root
  inner = root / SUBDIRECTORY
  directory = inner if inner.is_dir() else root
  found = steps(directory)
  if not found:
    raise errors.CheckpointError(
      f"there is no checkpoint under {root}: expected the --workdir of a"
      f" training run, with {SUBDIRECTORY}/<step> in it"
    )
  if step is not None and step not in found:
    shown = ", ".join(map(str, found[-10:]))
    raise errors.CheckpointError(
      f"there is no checkpoint of step {step} in {directory}; there are"
      f" {'..., ' if len(found) > 10 else ''}{shown}"
    )
  return directory / str(found[-1] if step is None else step)


def problems(
  directory: pathlib.Path, parts: Iterable[str] | None = None
) -> list[str]:
  """As `manifest.problems`; all processes call it, and share the files.

  Raises:
    CheckpointError: a file cannot be read.
  """

  def check_share() -> list[str]:
    try:
      return manifest.problems(directory, parts, hosts.share())
    except OSError as error:
      raise errors.CheckpointError(
        f"the checkpoint {directory} cannot be read: {error}; {remedy(error)}"
      ) from error

  return sorted(set(itertools.chain(*hosts.on_all(check_share))))


def _damage(directory: pathlib.Path, found: Sequence[str]) -> str:
  lines = list(found[:_SHOWN])
  if len(found) > _SHOWN:
    lines.append(f"and {len(found) - _SHOWN} more")
  listed = "".join(f"\n  {line}" for line in lines)
  return f"the checkpoint {directory} is damaged:{listed}"


def verify(directory: pathlib.Path, parts: Iterable[str] | None = None) -> None:
  """Raises CheckpointError unless the files of a step are as written.

  All processes call it.  The message names the damaged files and the newest
  good step before it.
  """
  found = problems(directory, parts)
  if not found:
    return
  name, parent = directory.name, directory.parent
  before = _before(parent, int(name)) if name.isdecimal() else []
  good = next((s for s in before if not problems(parent / str(s))), None)
  if good is None:
    remedy = "There is no good step before it: get the files from a copy."
  else:
    remedy = f"The newest good step before it is {good}: ask for step {good}."
  _refuse(f"{_damage(directory, found)}\n{remedy}")


def _before(directory: pathlib.Path, step: float) -> list[int]:
  """The steps before one, the newest first; on all processes the same."""
  return hosts.on_first(
    lambda: [s for s in reversed(steps(directory)) if s < step]
  )


def _refuse(message: str) -> NoReturn:
  """Raises CheckpointError; its message is the first process's to say."""

  def refuse() -> NoReturn:
    raise errors.CheckpointError(message)

  hosts.on_first(refuse)
  raise AssertionError("unreachable")


def newest_good(directory: pathlib.Path) -> int | None:
  """The newest step that passes its check; None if there are no steps.

  All processes call it.  Newer, damaged steps are renamed, with a warning.
  Going on from an older step leads to the same state as the damaged one would
  have, so what is lost is the time of the steps between.

  Raises:
    CheckpointError: there are steps but none is good.
  """
  damaged: dict[int, str] = {}
  for step in _before(directory, math.inf):
    found = problems(directory / str(step))
    if not found:
      break
    damaged[step] = _damage(directory / str(step), found)
  else:
    if damaged:
      _refuse(
        "\n".join(damaged.values())
        + "\nNo other step is left: get the files from a copy, or start anew"
        " in another --workdir."
      )
    return None

  if damaged:
    hosts.on_first(lambda: _set_all_aside(directory, damaged, step))
  return step


def _set_all_aside(
  directory: pathlib.Path, damaged: Mapping[int, str], good: int
) -> None:
  """Renames damaged steps, with a warning: what is the matter with each."""
  for step, message in damaged.items():
    aside = set_aside(directory, step)
    _log.warning(
      "%s\nIt is set aside as %s; going on from step %d.", message, aside, good
    )


def set_aside(directory: pathlib.Path, step: int) -> pathlib.Path:
  """Renames a step so that it is no longer one; returns the new path."""
  target, number = directory / f"{step}.damaged", 1
  while target.exists():
    target, number = directory / f"{step}.damaged.{number}", number + 1
  return (directory / str(step)).rename(target)


def error_number(error: BaseException | None) -> int | None:
  """The operating system's number of an error, or of one below it."""
  while error is not None:
    if isinstance(error, OSError) and error.errno is not None:
      return error.errno
    # TensorStore tells it in its text only.
    _, _, text = str(error).partition("[os_error_code='")
    if text.partition("'")[0].isdecimal():
      return int(text.partition("'")[0])
    error = error.__cause__ or error.__context__
  return None


def reason(error: BaseException) -> str:
  """Why something failed, short enough for a message."""
  number = error_number(error)
  if number is not None:
    return os.strerror(number)
  text = str(error).strip().partition("\n")[0] or type(error).__name__
  return text if len(text) <= 300 else text[:299] + "…"


def remedy(error: BaseException) -> str:
  """What to do about an error of the file system."""
  if isinstance(error, TimeoutError):
    return (
      "use a faster file system, or give it longer"
      " (Checkpointer.timeout_minutes)"
    )
  number = error_number(error)
  if number in (errno.ENOSPC, errno.EDQUOT):
    return "free some space, or keep fewer checkpoints (Checkpointer.keep)"
  if number in (errno.EACCES, errno.EPERM, errno.EROFS):
    return "make the directory writable for this user or use another --workdir"
  return "see that the directory exists and that its file system answers"
