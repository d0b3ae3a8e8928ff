"""Which files make up a checkpoint, and what is in them, by sha256.

A step directory is sealed by a file MANIFEST just before it gets its final
name.  A missing, cut or changed file is found when the step is read, before
any of it reaches a model.  From the second line on, it is what `sha256sum`
writes, so `sha256sum -c MANIFEST` in a step directory checks it too; the
digest in the first line is of the rest of that line and of all lines below.

  # t5x_lite checkpoint, format 1, seal: 5d41402abc4b...
  9f86d081884c...  model/manifest.ocdbt
"""

import concurrent.futures
import hashlib
import os
import pathlib
from collections.abc import Iterable

from t5x_lite import errors

NAME = "MANIFEST"
FORMAT = 1
_HEADER = f"# t5x_lite checkpoint, format {FORMAT}, seal: "
_THREADS = 4

# Orbax writes these after the seal.  They hold dates and class names, and
# nothing is read from them.
_UNSEALED = frozenset({NAME, "_CHECKPOINT_METADATA", "commit_success.txt"})


def _digest(path: pathlib.Path) -> str:
  with path.open("rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def _files(directory: pathlib.Path) -> list[str]:
  """Relative paths of the files below a step directory, sorted."""
  found = (p for p in directory.rglob("*") if p.is_file())
  relative = (p.relative_to(directory).as_posix() for p in found)
  return sorted(name for name in relative if name not in _UNSEALED)


def _seal_of(start: bytes, body: bytes) -> bytes:
  return hashlib.sha256(start + body).hexdigest().encode()


def seal(directory: pathlib.Path) -> None:
  """Writes the MANIFEST of the files now in the directory."""
  # One thread: this runs beside training, and may take its time.
  lines = [f"{_digest(directory / name)}  {name}" for name in _files(directory)]
  body = "".join(line + "\n" for line in lines).encode()
  start = _HEADER.encode()
  with (directory / NAME).open("wb") as file:
    file.write(start + _seal_of(start, body) + b"\n" + body)
    file.flush()
    os.fsync(file.fileno())


def read(directory: pathlib.Path) -> dict[str, str]:
  """The sha256 of every file of a step directory, by relative path.

  Raises:
    ValueError: the manifest is missing or damaged.
    CheckpointError: another version of this library wrote it.
  """
  try:
    header, _, body = (directory / NAME).read_bytes().partition(b"\n")
  except FileNotFoundError:
    raise ValueError(f"{NAME} is missing") from None
  start, colon, digest = header.rpartition(b": ")
  if digest != _seal_of(start + colon, body):
    raise ValueError(f"{NAME} is damaged")
  if start + colon != _HEADER.encode():
    raise errors.CheckpointError(
      f"{directory} was written in another format ({start.decode()}; this"
      f" version reads format {FORMAT}): use the version that wrote it"
    )
  pairs = (line.split("  ", 1) for line in body.decode().splitlines())
  return {name: digest for digest, name in pairs}


def _problem(path: pathlib.Path, digest: str) -> str | None:
  if not path.is_file():
    return "is missing"
  if _digest(path) != digest:
    return f"has changed since it was written ({path.stat().st_size:,} bytes)"
  return None


def problems(
  directory: pathlib.Path, parts: Iterable[str] | None = None
) -> list[str]:
  """What is wrong with the files of a step directory; nothing if it is [].

  Args:
    directory: of the step.
    parts: the subdirectories to check; by default all files.

  Raises:
    OSError: a file cannot be read, which says nothing about its content.
  """
  try:
    digests = read(directory)
  except ValueError as error:
    return [str(error)]
  if parts is not None:
    chosen = tuple(f"{part}/" for part in parts)
    digests = {k: v for k, v in digests.items() if k.startswith(chosen)}
    if not digests:
      return [f"there is no {' or '.join(chosen)} in it"]
  with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
    found = pool.map(
      lambda name: _problem(directory / name, digests[name]), digests
    )
    return [
      f"{n} {what}" for n, what in zip(digests, found, strict=True) if what
    ]
