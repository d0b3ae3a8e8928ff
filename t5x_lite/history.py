"""The history of a run, metrics.jsonl: one JSON object a line, one a step.

  {"step": 100, "train/loss": 6.91, "train/learning_rate": 0.01}

Steps rise from line to line.  Numbers that are not finite are null.  A line
is with the operating system once `add` returns, so that a killed process
loses none; a full disk delays lines and loses none while the process lives.
"""

import errno
import json
import logging
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from t5x_lite import errors

_log = logging.getLogger(__name__)

FILENAME = "metrics.jsonl"

Row = dict[str, Any]


def read(path: str | os.PathLike[str]) -> list[Row]:
  """All rows of a history; none if there is no such file.

  A last line that a crash left incomplete is dropped.

  Raises:
    DataError: a line, not the last, is no row.
  """
  return [json.loads(line) for line in _lines(pathlib.Path(path))]


def _lines(path: pathlib.Path) -> list[bytes]:
  """The lines that are rows, without their ends."""
  data = path.read_bytes() if path.exists() else b""
  *lines, _ = data.split(b"\n")
  for number, line in enumerate(lines, start=1):
    try:
      int(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError):
      if number == len(lines):
        return lines[:-1]
      raise errors.DataError(
        f"{path}, line {number} is not a row of metrics:"
        f" {line[:60].decode(errors='replace')!r}; remove the line or the file"
      ) from None
  return lines


class History:
  """Writes a history.

  Args:
    path: the file; made if absent.
    resume_step: the step restored from: rows beyond it are removed, because
      they will come again.  None keeps all.
  """

  def __init__(
    self, path: str | os.PathLike[str], resume_step: int | None = None
  ):
    self._path = pathlib.Path(path)
    lines = _lines(self._path)
    kept = [
      line
      for line in lines
      if resume_step is None or json.loads(line)["step"] <= resume_step
    ]
    if self._path.exists() and self._path.stat().st_size != _size(kept):
      _replace(self._path, kept)
    self._waiting: dict[int, Row] = {}
    self._warned = False
    self._open()

  def _open(self) -> None:
    """Opens the file after its last row, which may be added to."""
    lines = _lines(self._path)
    self._line = lines[-1] + b"\n" if lines else b""  # of the last row
    self._row: Row = json.loads(self._line) if lines else {"step": -1}
    self._begin = _size(lines) - len(self._line)  # of the last row
    flags = os.O_WRONLY | os.O_CREAT
    self._file = os.open(self._path, flags, 0o644)

  def add(self, step: int, values: Mapping[str, float]) -> None:
    """Adds numbers to the row of a step, which may have a row already."""
    self._waiting.setdefault(step, {}).update(
      {name: _number(value) for name, value in values.items()}
    )
    self._write_waiting()

  def flush(self) -> None:
    """Waits until the disk has all rows."""
    self._write_waiting()
    try:
      os.fsync(self._file)
    except OSError as error:
      self._warn(error)

  def close(self) -> None:
    """Flushes; tells if rows are lost."""
    self.flush()
    os.close(self._file)
    if self._waiting:
      _log.error(
        "%s: %d rows could not be written and are lost",
        self._path,
        len(self._waiting),
      )

  def _write_waiting(self) -> None:
    for step in sorted(self._waiting):
      try:
        self._write(step, self._waiting[step])
      except OSError as error:
        self._warn(error)
        return
      del self._waiting[step]

  def _write(self, step: int, values: Row) -> None:
    """Writes one row, or raises OSError and leaves the file as it was."""
    last = self._row["step"]
    if step < last:
      self._insert(step, values)
      return
    merges = step == last
    row = {**self._row, **values} if merges else {"step": step, **values}
    begin = self._begin if merges else self._begin + len(self._line)
    before = self._line if merges else b""
    # One write, at least as long as what it replaces: a kill cannot tear it.
    line = json.dumps(row).encode().ljust(len(before) - 1) + b"\n"
    try:
      if os.pwrite(self._file, line, begin) < len(line):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError:
      os.pwrite(self._file, before, begin)  # its space is there already
      os.ftruncate(self._file, begin + len(before))
      raise
    self._row, self._begin, self._line = row, begin, line

  def _insert(self, step: int, values: Row) -> None:
    """Adds to an earlier step, by writing the file anew."""
    rows = {row["step"]: row for row in read(self._path)}
    rows[step] = {"step": step, **rows.get(step, {}), **values}
    _replace(
      self._path, [json.dumps(rows[step]).encode() for step in sorted(rows)]
    )
    os.close(self._file)
    self._open()

  def _warn(self, error: OSError) -> None:
    if not self._warned:
      _log.warning(
        "%s cannot be written (%s); training goes on, and rows wait in memory",
        self._path,
        error,
      )
    self._warned = True


def _number(value: Any) -> float | None:
  number = float(value)
  return number if math.isfinite(number) else None


def _size(lines: list[bytes]) -> int:
  return sum(len(line) + 1 for line in lines)


def _replace(path: pathlib.Path, lines: list[bytes]) -> None:
  """Writes the file anew, at once or not at all."""
  temporary = path.with_name(path.name + ".new")
  try:
    with open(temporary, "wb") as f:
      f.writelines(line + b"\n" for line in lines)
      f.flush()
      os.fsync(f.fileno())
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)
