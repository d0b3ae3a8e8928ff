"""JSON lines written in chunks: what is written is whole, and not redone.

  out.jsonl.parts/run.json      what the chunks are made from
  out.jsonl.parts/000000.jsonl  the first chunk, under this name when whole
  out.jsonl                     all chunks in order, when the last one is done
  out.run.json                  what it was made from

A chunk, and at the end the file, is written under another name and renamed,
so a process may be killed anywhere: the next one goes on after the last whole
chunk, and the final file is the same as without the interruption.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from t5x_lite import errors

_RECORD = "run.json"


@dataclasses.dataclass(frozen=True)
class Output:
  """Where predictions go, and which part of them this process makes.

  Attributes:
    path: of the file; None is a file in the workdir, named after the input.
    shard: index of this part of the examples.
    num_shards: number of parts, made by as many processes, each with a file
      of its own: out.jsonl becomes out-00000-of-00004.jsonl.  One after the
      other they are the whole.
    chunk_size: number of examples after which the work is safe.
  """

  path: str | None = None
  shard: int = 0
  num_shards: int = 1
  chunk_size: int = 1024

  def __post_init__(self) -> None:
    if not 0 <= self.shard < self.num_shards:
      raise errors.ConfigError(
        f"shard {self.shard} of {self.num_shards}: shards are counted from 0"
        " up to one less than num_shards"
      )
    if self.chunk_size < 1:
      raise errors.ConfigError(f"chunk_size {self.chunk_size} must be positive")

  def file(self, default: pathlib.Path) -> pathlib.Path:
    """The path of this shard's file."""
    path = pathlib.Path(self.path).expanduser() if self.path else default
    if self.num_shards == 1:
      return path
    shard = f"-{self.shard:05d}-of-{self.num_shards:05d}"
    return path.with_name(f"{path.stem}{shard}{path.suffix}")

  def chunks(self, count: int, batch_size: int) -> list[tuple[int, int]]:
    """The ranges [start, stop) of this shard's chunks.

    Args:
      count: number of examples of all shards.
      batch_size: chunks are whole batches, but for the last.
    """
    start = count * self.shard // self.num_shards
    stop = count * (self.shard + 1) // self.num_shards
    size = -(-self.chunk_size // batch_size) * batch_size
    return [(i, min(i + size, stop)) for i in range(start, stop, size)]


@dataclasses.dataclass(frozen=True)
class Writer:
  """A file in the making.

  Attributes:
    path: of the final file.
    record: what determines its content: nested dicts of JSON values.
  """

  path: pathlib.Path
  record: Mapping[str, Any]

  @property
  def _parts(self) -> pathlib.Path:
    return self.path.with_name(self.path.name + ".parts")

  @property
  def _final_record(self) -> pathlib.Path:
    return self.path.with_suffix(".run.json")

  def done(self) -> int | None:
    """Number of chunks that are there, or None if the final file is.

    Raises:
      ConfigError: they were made from something else than `record`.
    """
    self._check(self._parts / _RECORD)
    if not self.path.exists():
      count = 0
      while self._part(count).exists():
        count += 1
      return count
    if not self._final_record.exists():
      raise errors.ConfigError(
        f"{self.path} is there already, and not by `infer`: choose another"
        " OUTPUT"
      )
    self._check(self._final_record)
    return None

  def _check(self, path: pathlib.Path) -> None:
    try:
      found = _flat(json.loads(path.read_text()))
    except FileNotFoundError:
      return
    except ValueError as error:
      raise errors.DataError(f"{path} is damaged: {error}; remove it") from None
    wanted = _flat(json.loads(json.dumps(self.record)))
    rows = [
      f"  {name}: {found.get(name)!r} then, {wanted.get(name)!r} now"
      for name in {**found, **wanted}
      if found.get(name) != wanted.get(name)
    ]
    if rows:
      raise errors.ConfigError(
        "\n".join((f"{self.path} was begun with something else:", *rows))
        + f"\nChoose another OUTPUT, or remove {self.path.stem}.* in"
        f" {self.path.parent} to begin anew"
      )

  def write(self, chunk: int, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes a chunk; whole or not at all."""
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    with self._explained():
      if not chunk:
        self._parts.mkdir(parents=True, exist_ok=True)
        self._replace(self._parts / _RECORD, self._record_lines())
      self._replace(self._part(chunk), lines)

  def finish(self, num_chunks: int) -> None:
    """Joins the chunks to the final file, and removes them."""

    def lines() -> Iterator[str]:
      for chunk in range(num_chunks):
        with self._part(chunk).open(encoding="utf-8") as file:
          yield from file

    with self._explained():
      self._parts.mkdir(parents=True, exist_ok=True)  # without any chunks
      self._replace(self._final_record, self._record_lines())
      self._replace(self.path, lines())
    self.clean()

  def clean(self) -> None:
    """Removes the chunks of a finished file."""
    shutil.rmtree(self._parts, ignore_errors=True)

  def rows(self) -> Iterator[dict[str, Any]]:
    """Yields what the final file holds."""
    with self.path.open(encoding="utf-8") as file:
      yield from map(json.loads, file)

  def _part(self, chunk: int) -> pathlib.Path:
    return self._parts / f"{chunk:06d}.jsonl"

  def _record_lines(self) -> list[str]:
    return [json.dumps(self.record, indent=2) + "\n"]

  def _replace(self, path: pathlib.Path, lines: Iterable[str]) -> None:
    # Named by process, so that two that write the same file do no harm; among
    # the chunks, so that it goes with them.
    temporary = self._parts / f"{path.name}.{os.getpid()}.tmp"
    with temporary.open("w", encoding="utf-8") as file:
      file.writelines(lines)
      file.flush()
      os.fsync(file.fileno())
    temporary.replace(path)

  @contextlib.contextmanager
  def _explained(self) -> Iterator[None]:
    try:
      yield
    except OSError as error:
      raise errors.DataError(
        f"{self.path} cannot be written: {error}; free some space or make the"
        " directory writable, and the same command goes on where it stopped"
      ) from error


def _flat(value: Any, name: str = "") -> dict[str, Any]:
  """Leaves of nested dicts by dotted name."""
  if not isinstance(value, dict):
    return {name: value}
  return {
    key: leaf
    for part, inner in value.items()
    for key, leaf in _flat(inner, f"{name}.{part}" if name else part).items()
  }
