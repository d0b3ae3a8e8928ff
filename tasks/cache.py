"""Folders that are made once and appear when they are complete.

They lie under $T5X_LITE_CACHE (~/.cache/t5x_lite unless set), and their names
hold a digest of what they were made from: something else, another folder.
"""

import hashlib
import json
import logging
import os
import pathlib
import shutil
import tempfile
import time
from collections.abc import Callable
from typing import Any

from t5x_lite import errors

# Below the logger whose messages the command line shows.
_log = logging.getLogger(f"t5x_lite.{__name__}")


def root() -> pathlib.Path:
  """Returns the folder of all caches."""
  named = os.environ.get("T5X_LITE_CACHE")
  return pathlib.Path(named or "~/.cache/t5x_lite").expanduser()


def digest(parts: Any) -> str:
  """Returns 16 hex digits that tell `parts`, anything JSON takes, apart."""
  text = json.dumps(parts, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def folder(
  name: str, parts: Any, fill: Callable[[pathlib.Path], object]
) -> pathlib.Path:
  """Returns the folder made from `parts`; calls `fill` if there is none.

  Processes that make the same folder at once do not disturb each other: the
  first to finish wins.

  Raises:
    errors.DataError: the folder cannot be written.
  """
  path = root() / f"{name}-{digest(parts)}"
  if path.is_dir():
    return path
  try:
    root().mkdir(parents=True, exist_ok=True)
    made = pathlib.Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=root()))
  except OSError as error:
    raise _unwritable(error) from error
  _log.info("preparing %s, once", path)
  start = time.monotonic()
  try:
    fill(made)
    made.chmod(0o755)  # mkdtemp's are for their owner alone.
    try:
      made.rename(path)
    except OSError:
      if not path.is_dir():
        raise
  except OSError as error:
    raise _unwritable(error) from error
  finally:
    shutil.rmtree(made, ignore_errors=True)
  _log.info("prepared %s in %.0f s", path.name, time.monotonic() - start)
  return path


def _unwritable(error: OSError) -> errors.DataError:
  return errors.DataError(
    f"the cache {root()} cannot be written ({error.strerror or error}): make "
    "room, or set T5X_LITE_CACHE to another folder"
  )
