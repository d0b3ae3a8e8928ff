"""Orbax's writing of one item, and the digests of what each process wrote.

A manifest needs the sha256 of every file.  One process would take an hour for
some terabytes, so each reads its own files, which its host still has in memory,
and leaves their digests in the item's directory; `collect` takes them from
there, once all processes have written.
"""

import functools
import pathlib
from collections.abc import Sequence
from typing import Any

import jax

from t5x_lite.checkpoints import manifest

_DIGESTS = "digests.{}"  # of a process


class _Digested:
  """A future as Orbax has them: this process has written, and its digests."""

  def __init__(self, directory: pathlib.Path, writes: Sequence[Any]):
    self._directory, self._writes = directory, writes

  def result(self, timeout: float | None = None) -> None:
    """Waits for both."""
    for write in self._writes:
      write.result(timeout)
    process = jax.process_index()
    # What lies in d/ is never written twice; the rest is merged by process 0.
    own = self._directory.glob(f"*.process_{process}/d/*")
    names = sorted(p.relative_to(self._directory).as_posix() for p in own)
    text = manifest.text(manifest.digests(self._directory, names))
    (self._directory / _DIGESTS.format(process)).write_text(text)


@functools.cache
def save_args() -> type:
  """The class of the arguments with which Orbax saves a tree, and digests."""
  import orbax.checkpoint as ocp

  class Handler(ocp.PyTreeCheckpointHandler):
    """Orbax's handler of trees; `directory` may yet have to be made."""

    async def async_save(
      self, directory: Any, *args: Any, **kwargs: Any
    ) -> list[Any]:
      writes = await super().async_save(directory, *args, **kwargs)
      path = pathlib.Path(getattr(directory, "path", directory))
      return [_Digested(path, writes or [])]

  @ocp.args.register_with_handler(Handler, for_save=True)
  class Save(ocp.args.PyTreeSave):
    """The tree to save."""

  # Orbax wants a pair of them, though `arrays` restores in its own way.
  @ocp.args.register_with_handler(Handler, for_restore=True)
  class Restore(ocp.args.PyTreeRestore):
    """A tree to restore."""

  return Save


def collect(directory: pathlib.Path) -> dict[str, str]:
  """The digests that all processes left in an item's directory; removes them.

  Returns:
    sha256 by path in the directory.

  Raises:
    FileNotFoundError: a process left none.
  """
  found: dict[str, str] = {}
  for process in range(jax.process_count()):
    path = directory / _DIGESTS.format(process)
    found |= manifest.parse(path.read_text())
    path.unlink()
  return found
