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
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from t5x_lite import errors

T = TypeVar("T")

NAME = "MANIFEST"
FORMAT = 1
_HEADER = f"# t5x_lite checkpoint, format {FORMAT}, seal: "
_CORES = os.cpu_count() or 1
_THREADS = max(4, min(16, _CORES // 2))
_THREADS_BESIDE = max(1, min(8, _CORES // 4))  # those that training can spare

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


def text(found: Mapping[str, str]) -> str:
  """Digests by relative path, as `sha256sum` writes them."""
  return "".join(f"{digest}  {name}\n" for name, digest in found.items())


def parse(lines: str) -> dict[str, str]:
  """What `text` wrote."""
  pairs = (line.split("  ", 1) for line in lines.splitlines())
  return {name: digest for digest, name in pairs}


def _each(
  work: Callable[[str], T], names: Iterable[str], threads: int
) -> dict[str, T]:
  """What `work` returns for each name, in their order."""
  names = list(names)
  with concurrent.futures.ThreadPoolExecutor(threads) as pool:
    return dict(zip(names, pool.map(work, names), strict=True))


def digests(directory: pathlib.Path, names: Iterable[str]) -> dict[str, str]:
  """The sha256 of files, by the given relative paths; beside training."""
  return _each(lambda name: _digest(directory / name), names, _THREADS_BESIDE)


def seal(
  directory: pathlib.Path, known: Mapping[str, str] | None = None
) -> None:
  """Writes the MANIFEST of the files now in the directory.

  Args:
    directory: of the step.
    known: digests of files that need not be read for it, by relative path.
  """
  known, names = known or {}, _files(directory)
  new = digests(directory, (name for name in names if name not in known))
  found = {**known, **new}
  body = text({name: found[name] for name in names}).encode()
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
  return parse(body.decode())


def _problem(path: pathlib.Path, digest: str) -> str | None:
  if not path.is_file():
    return "is missing"
  if _digest(path) != digest:
    return f"has changed since it was written ({path.stat().st_size:,} bytes)"
  return None


def problems(
  directory: pathlib.Path,
  parts: Iterable[str] | None = None,
  share: tuple[int, int] = (0, 1),
) -> list[str]:
  """What is wrong with the files of a step directory; nothing if it is [].

  Args:
    directory: of the step.
    parts: the subdirectories to check; by default all files.
    share: (i, n): check the i-th of n parts of the files.

  Raises:
    OSError: a file cannot be read, which says nothing about its content.
  """
  try:
    expected = read(directory)
  except ValueError as error:
    return [str(error)]
  if parts is not None:
    chosen = tuple(f"{part}/" for part in parts)
    expected = {k: v for k, v in expected.items() if k.startswith(chosen)}
    if not expected:
      return [f"there is no {' or '.join(chosen)} in it"]
  # By digest, for by name the large files could all be in one part.
  index, count = share
  names = sorted(sorted(expected, key=expected.__getitem__)[index::count])
  found = _each(
    lambda name: _problem(directory / name, expected[name]), names, _THREADS
  )
  return [f"{name} {what}" for name, what in found.items() if what]
