"""Compiles a function for a chip that is absent, in a process of its own."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pallas_kernels.testing import chips, gpu, report, tpu

_PLATFORMS = {"tpu": tpu, "gpu": gpu}
_WORKER = "pallas_kernels.testing.worker"
# Of a dead process's output: what tells why, else the end.
_TELLING = re.compile(
  r"LLVM ERROR|[Ff]atal|Check failed|CHECK|[Aa]ssert|\b[Ee]rror\b|^F\d{4} "
)
_FLAGS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")
_LINES_KEPT = 20
_MESSAGE_LIMIT = 6000


class CompileError(RuntimeError):
  """The function did not compile; the message is the compiler's own.

  Attributes:
    log: all that the compiling process wrote.
  """

  def __init__(self, message: str, log: str):
    super().__init__(message)
    self.log = log


class MissingCompiler(RuntimeError):
  """A compiler is not installed; the message says which package brings it."""


def missing(chip: str) -> str | None:
  """Returns what to install before `chip` can be compiled for, or None.

  Raises:
    ValueError: there is no chip of this name.
  """
  named = chips.chip_named(chip)
  return _PLATFORMS[named.platform].missing(named)


def compile_for(
  chip: str,
  target: str | Callable[..., Any],
  arguments: Mapping[str, Any] | None = None,
  *,
  topology: str | None = None,
  mesh: Mapping[str, int] | None = None,
  keep: str | os.PathLike[str] | None = None,
  timeout: float = 600,
) -> report.Report:
  """Compiles a function for `chip`, which need not be there.

  It happens in a process of its own: a wrong kernel may abort the process, and
  the compilers read their settings once.

  Args:
    chip: a name in `CHIPS`.
    target: a function that returns `(function, shapes)`: what to compile, and
      its positional arguments as `jax.ShapeDtypeStruct`s or pytrees of them.
      Given as "package.module:name", "path/to/file.py:name", or itself if it
      stands in a module.
    arguments: keyword arguments of `target`, as JSON can hold them.
    topology: a larger machine than the chip's usual one, such as "v5e:4x4", or
      "1x1x8" for eight GPUs.
    mesh: axis -> number of devices, to compile for several.  `target` then
      gets the `jax.sharding.Mesh` as `mesh=` and gives its shapes shardings.
    keep: a directory for the compiler's dumps ("dumps"), what it wrote
      ("log.txt") and the program ("compiled.hlo.txt"); deleted otherwise.
    timeout: seconds.

  Raises:
    ValueError: there is no such chip.
    MissingCompiler: its compiler is not installed.
    CompileError: it does not compile.
  """
  named = chips.chip_named(chip)
  platform = _PLATFORMS[named.platform]
  if lacking := platform.missing(named):
    raise MissingCompiler(lacking)
  request = {
    "chip": chip,
    "target": _importable(target),
    "arguments": dict(arguments or {}),
    "topology": topology or named.topology,
    "mesh": dict(mesh) if mesh else None,
  }
  with _directory(keep) as directory:
    dumps = directory / "dumps"
    shutil.rmtree(dumps, ignore_errors=True)  # of the time before
    dumps.mkdir()
    # Flags of the caller, such as to optimize less, would change the figures.
    cleared = dict.fromkeys(_FLAGS)
    answer = ask(
      _WORKER,
      request,
      {**cleared, **platform.environment(named, dumps)},
      directory,
      timeout,
      what=f"{request['target']} for {request['chip']}",
    )
    (directory / "compiled.hlo.txt").write_text(answer["hlo"])
    return report.Report(
      chip=chip,
      memory=report.Memory(**answer["memory"]),
      flops=answer["flops"],
      bytes_accessed=answer["bytes_accessed"],
      kernels=platform.kernels(named, dumps, answer["hlo"]),
      hlo=answer["hlo"],
    )


@contextlib.contextmanager
def _directory(keep: str | os.PathLike[str] | None) -> Iterator[pathlib.Path]:
  if keep is None:
    with tempfile.TemporaryDirectory(prefix="compile_for_") as name:
      yield pathlib.Path(name)
    return
  path = pathlib.Path(keep).resolve()
  path.mkdir(parents=True, exist_ok=True)
  yield path


def _importable(target: str | Callable[..., Any]) -> str:
  if isinstance(target, str):
    return target
  if not isinstance(target, types.FunctionType) or "<" in target.__qualname__:
    raise ValueError(f"{target!r} is not a function at the top of a module")
  place = target.__module__
  if place == "__main__":
    place = str(pathlib.Path(target.__code__.co_filename).resolve())
  return f"{place}:{target.__qualname__}"


def ask(
  worker: str,
  request: Mapping[str, Any],
  environment: Mapping[str, str | None],
  directory: pathlib.Path,
  timeout: float,
  *,
  what: str,
) -> dict[str, Any]:
  """Runs a module that compiles, in a process of its own.

  Args:
    worker: the module; `python -m worker REQUEST ANSWER` reads the first file
      and writes the second, both JSON.
    request: what it is asked; JSON values.
    environment: variables that differ from this process's; None for none.
    directory: for the files and `log.txt`, what the process wrote.
    timeout: seconds.
    what: is compiled, for messages.

  Raises:
    CompileError: the answer has "error", or there is none.
  """
  question, answer = directory / "request.json", directory / "answer.json"
  question.write_text(json.dumps(request))
  answer.unlink(missing_ok=True)
  paths = [path or os.getcwd() for path in sys.path]
  variables = {
    **os.environ,
    "JAX_PLATFORMS": "cpu",
    "PYTHONPATH": os.pathsep.join(paths),
    **environment,
  }
  done = subprocess.Popen(
    [sys.executable, "-m", worker, str(question), str(answer)],
    env={k: v for k, v in variables.items() if v is not None},
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    errors="replace",
  )
  try:
    log, _ = done.communicate(timeout=timeout)
  except subprocess.TimeoutExpired as expired:
    done.kill()
    log, _ = done.communicate()
    raise CompileError(
      f"{what}: not compiled in {timeout:g} s", log
    ) from expired
  (directory / "log.txt").write_text(log)
  if not answer.exists():
    raise CompileError(f"{what}: {_death(done.returncode, log)}", log)
  found: dict[str, Any] = json.loads(answer.read_text())
  if "error" in found:
    raise CompileError(f"{what}: {found['error'][:_MESSAGE_LIMIT]}", log)
  return found


def _death(code: int, log: str) -> str:
  """Says how the process ended without an answer."""
  how = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
  lines = [line for line in log.splitlines() if line.strip()]
  telling = [line for line in lines if _TELLING.search(line)]
  kept = "\n".join((telling or lines)[-_LINES_KEPT:])
  return f"the compiler ended the process ({how}):\n{kept}"[:_MESSAGE_LIMIT]
