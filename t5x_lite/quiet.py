"""A terminal that shows our own messages, and not the libraries' chatter.

TensorFlow's C++ libraries write to the standard error stream while they are
loaded, whatever TF_CPP_MIN_LOG_LEVEL says; so the stream is held back for as
long as `import tensorflow` takes, and given on without the lines known to be
noise.  TensorFlow reads data here and must not take accelerator memory, which
JAX needs: it is hidden from GPUs as soon as it is there.
"""

import contextlib
import importlib.abc
import importlib.machinery
import logging
import os
import re
import sys
import tempfile
import types
from collections.abc import Iterator, Sequence

_NOISE = re.compile(
  rb"WARNING: All log messages before absl::InitializeLog"
  rb"|[IWE]\d{4} .*(cuda|port\.cc|cpu_feature_guard|computation_placer)"
  rb"|To enable the following instructions"
)


def keep_quiet() -> None:
  """Sets up logging and the environment; call before TensorFlow loads."""
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
  os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
  logging.basicConfig(
    level=logging.WARNING,  # of libraries
    format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    datefmt="%H:%M:%S",
  )
  logging.getLogger("t5x_lite").setLevel(logging.INFO)
  logging.getLogger("pallas_kernels").setLevel(logging.INFO)
  # Filters of a logger don't see what its children log; those of handlers do.
  for handler in logging.getLogger().handlers:
    if not any(isinstance(f, _Once) for f in handler.filters):
      handler.addFilter(_Once())
  hooked = any(isinstance(f, _Finder) for f in sys.meta_path)
  if "tensorflow" not in sys.modules and not hooked:
    sys.meta_path.insert(0, _Finder())


class _Once(logging.Filter):
  """Lets pass once what kernels say of themselves each time they are traced."""

  def __init__(self) -> None:
    super().__init__()
    self._seen: set[str] = set()

  def filter(self, record: logging.LogRecord) -> bool:
    if not record.name.startswith("pallas_kernels"):
      return True
    message = record.getMessage()
    new = message not in self._seen
    self._seen.add(message)
    return new


class _Finder(importlib.abc.MetaPathFinder):
  """Stands in the way of one import, that of TensorFlow."""

  def find_spec(
    self,
    fullname: str,
    path: Sequence[str] | None,
    target: types.ModuleType | None = None,
  ) -> importlib.machinery.ModuleSpec | None:
    if fullname != "tensorflow":
      return None
    spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
    if spec is not None and spec.loader is not None:
      spec.loader = _Loader(spec.loader)
    return spec


class _Loader(importlib.abc.Loader):
  """The loader it is given, with the noise left out."""

  def __init__(self, loader: importlib.abc.Loader):
    self._loader = loader

  def create_module(
    self, spec: importlib.machinery.ModuleSpec
  ) -> types.ModuleType | None:
    return self._loader.create_module(spec)

  def exec_module(self, module: types.ModuleType) -> None:
    sys.meta_path[:] = [f for f in sys.meta_path if type(f) is not _Finder]
    module.__loader__ = self._loader
    if module.__spec__ is not None:
      module.__spec__.loader = self._loader
    with _without_noise():
      self._loader.exec_module(module)
    module.config.set_visible_devices([], "GPU")


@contextlib.contextmanager
def _without_noise() -> Iterator[None]:
  """Holds back what anyone writes to file descriptor 2."""
  sys.stderr.flush()
  with tempfile.TemporaryFile() as held:
    terminal = os.dup(2)
    os.dup2(held.fileno(), 2)
    try:
      yield
    finally:
      sys.stderr.flush()
      os.dup2(terminal, 2)
      os.close(terminal)
      held.seek(0)
      for line in held:
        if not _NOISE.match(line):
          os.write(2, line)
