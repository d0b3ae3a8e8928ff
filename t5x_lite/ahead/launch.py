"""Asks a process of its own to compile the steps of a run.

A wrong kernel may abort the process, the compilers read their settings once,
and their memory is given back.
"""

import dataclasses
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from pallas_kernels.testing import launch
from t5x_lite import errors
from t5x_lite.ahead.report import Step
from t5x_lite.ahead.topology import Topology

_WORKER = "t5x_lite.ahead.worker"


@dataclasses.dataclass(frozen=True)
class TooLarge:
  """A step that the compiler refused for its size.

  Attributes:
    name: one of `programs.STEPS`.
    parameters: bytes of one device.
    optimizer: likewise.
    needed: bytes that the compiler wanted, if it says.
    available: what the chip lets a program have.
    message: the compiler's own.
  """

  name: str
  parameters: int
  optimizer: int
  needed: int | None
  available: int
  message: str


@dataclasses.dataclass(frozen=True)
class Answer:
  """What became of a request.

  Attributes:
    mesh: axis -> size.
    steps: those that were compiled.
    too_large: those that were refused for their size.
  """

  mesh: Mapping[str, int]
  steps: tuple[Step, ...]
  too_large: tuple[TooLarge, ...]

  @property
  def fits(self) -> bool:
    """Whether all steps fit into the memory of their devices."""
    return not self.too_large and all(s.memory.free >= 0 for s in self.steps)


def compile_steps(
  text: str,
  where: Topology,
  steps: Sequence[str],
  *,
  files: Sequence[str] = (),
  settings: Sequence[tuple[str, str]] = (),
  timeout: float,
) -> Answer:
  """Compiles steps of a run for a machine that need not be there.

  Args:
    text: gin statements that configure an `ahead.Run`.
    where: what to compile for.
    steps: of `programs.STEPS`.
    files: gin files to read after the text, such as another mesh.
    settings: macros to set after these, pairs of a name and a value.
    timeout: seconds.

  Raises:
    ConfigError: the run does not suit the machine, or its compiler is not
      installed.
    CompileError: the compiler failed otherwise.
  """
  if lacking := where.missing():
    raise errors.ConfigError(lacking)
  with tempfile.TemporaryDirectory(prefix="t5x_lite_compile_") as name:
    directory = pathlib.Path(name)
    config = directory / "config.gin"
    config.write_text(text)
    request = {
      "files": [str(config), *files],
      "settings": list(settings),
      "topology": where.name,
      "num_slices": where.num_slices,
      "steps": list(steps),
    }
    found = launch.ask(
      _WORKER,
      request,
      where.environment(),
      directory,
      timeout,
      what=str(where),
    )
  if "refused" in found:
    raise errors.ConfigError(found["refused"])
  return _answer(found)


def _answer(found: Mapping[str, Any]) -> Answer:
  refused = [step for step in found["steps"] if "too_large" in step]
  made = [step for step in found["steps"] if "too_large" not in step]
  return Answer(
    mesh=found["mesh"],
    steps=tuple(map(Step.from_json, made)),
    too_large=tuple(
      TooLarge(name=step["name"], **step["too_large"]) for step in refused
    ),
  )
