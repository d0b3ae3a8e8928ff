"""What a workdir was made with, and the refusal to go on with something else.

`run.json` holds the fingerprint of a run: shapes of the model, vocabulary,
data, objective, optimizer.  What may change when a run goes on (its number of
steps, how often it logs or evaluates, its mesh) is not part of it.
"""

import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from t5x_lite import errors

NAME = "run.json"
_SHOWN = 12  # differing fields printed before "and n more"
_WIDTH = 44  # characters of a value that are printed
_ABSENT = "(absent)"


def check(
  workdir: str | os.PathLike[str],
  record: Mapping[str, Any],
  ignore: Sequence[str] = (),
  *,
  bound: bool = True,
  write: bool = True,
) -> None:
  """Writes the record of a new workdir, or compares it with the one there.

  Args:
    workdir: of the run.
    record: nested mappings of JSON values.
    ignore: dotted names of fields, or groups of them, that may differ now
      ("data.batch_size").  The file keeps what it has.
    bound: whether the workdir has something of its run to go on from.  If
      not, a record that differs is replaced: a first attempt that failed
      should not keep the corrected one out.
    write: False on all processes of a run but the first.

  Raises:
    ConfigError: fields differ (with a table), or `ignore` names none.
    CheckpointError: the file cannot be read or written.
  """
  path = pathlib.Path(workdir) / NAME
  current = json.loads(json.dumps(record, sort_keys=True))
  try:
    text = path.read_text() if path.exists() else None
    if text is None or not bound:
      if write:
        _write(path, current)
      return
  except OSError as error:
    raise errors.CheckpointError(
      f"{path}: {error}; see that the workdir exists and is writable"
    ) from error
  try:
    saved = json.loads(text)
  except ValueError as error:
    raise errors.CheckpointError(
      f"{path} is damaged ({error}): put back a copy, or remove it if you are"
      " sure that this is the same run"
    ) from error
  _compare(path, _flat(saved), _flat(current), ignore)


def _write(path: pathlib.Path, record: Mapping[str, Any]) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f"{NAME}.tmp")
  with temporary.open("w") as file:
    file.write(json.dumps(record, indent=2, sort_keys=True) + "\n")
    file.flush()
    os.fsync(file.fileno())
  temporary.replace(path)


def _flat(value: Any, name: str = "") -> dict[str, Any]:
  """Leaves by dotted name; lists are leaves."""
  if not isinstance(value, dict) or not value:
    return {name: value}
  return {
    key: leaf
    for part, inner in value.items()
    for key, leaf in _flat(inner, f"{name}.{part}" if name else part).items()
  }


def _compare(
  path: pathlib.Path,
  saved: Mapping[str, Any],
  current: Mapping[str, Any],
  ignore: Sequence[str],
) -> None:
  names = sorted({*saved, *current})
  for field in ignore:
    if not any(_within(name, field) for name in names):
      raise errors.ConfigError(
        f"{field!r} is to be ignored but {path} has no such field"
        + errors.suggest(field, names)
      )
  rows = [
    (name, _shown(saved, name), _shown(current, name))
    for name in names
    if not any(_within(name, field) for field in ignore)
    and not _alike(name, saved, current)
  ]
  if not rows:
    return
  raise errors.ConfigError(
    f"{path.parent} was made by another run; {len(rows)} of {len(names)}"
    f" fields differ:\n{_table(rows)}\n"
    "Use another --workdir, or the saved values to go on with this run."
  )


def _alike(
  name: str, saved: Mapping[str, Any], current: Mapping[str, Any]
) -> bool:
  if name not in saved:  # younger than the record, and off
    return current[name] is None
  return name in current and saved[name] == current[name]


def _within(name: str, field: str) -> bool:
  return name == field or name.startswith(field + ".")


def _shown(values: Mapping[str, Any], name: str) -> str:
  if name not in values:
    return _ABSENT
  text = json.dumps(values[name], ensure_ascii=False)
  return text if len(text) <= _WIDTH else text[: _WIDTH - 1] + "…"


def _table(rows: Sequence[tuple[str, str, str]]) -> str:
  shown = rows[:_SHOWN]
  name_width = max(len(name) for name, _, _ in shown)
  saved_width = max(len(saved) for _, saved, _ in shown)
  lines = [
    f"  {name + ':':<{name_width + 1}} saved {saved:<{saved_width}} now {now}"
    for name, saved, now in shown
  ]
  if len(rows) > _SHOWN:
    lines.append(f"  and {len(rows) - _SHOWN} more")
  return "\n".join(lines)
