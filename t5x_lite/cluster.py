"""Joining the other processes of a run, before any device is touched.

A process is one of several if flags say so, or the environment it was started
in: a Cloud TPU slice (or several), Slurm's srun, an indexed job or JobSet of
Kubernetes, mpirun.  JAX's own detection tells where process 0 is; where it
cannot, and the environment yet names several processes, that is an error:
each would else train alone, in the same workdir.

JAX is imported inside functions: the help does without.
"""

import contextlib
import ctypes
import dataclasses
import logging
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

import t5x_lite
from t5x_lite import errors, roll_call

WAIT = 300  # seconds for all processes to come
_SETTLE = 12.0  # seconds for the roll call to tell why a collective failed
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class _Launcher:
  """What tells, in the environment, that there are several processes."""

  name: str
  count: str
  index: str


_LAUNCHERS = (
  _Launcher("Open MPI", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
  _Launcher("MPI", "PMI_SIZE", "PMI_RANK"),
  _Launcher("Slurm", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
)


@dataclasses.dataclass(frozen=True)
class Place:
  """Where a process stands among those of a run.

  Attributes:
    coordinator: HOST:PORT, where process 0 listens.
    count: number of processes.
    index: of this one.
    local_devices: which GPUs of the host are this process's; None is all.
  """

  coordinator: str
  count: int
  index: int
  local_devices: tuple[int, ...] | None = None

  def __post_init__(self) -> None:
    if not 0 <= self.index < self.count:
      raise errors.ConfigError(
        f"process_id is {self.index}, of {self.count} processes: it goes from"
        f" 0 to {self.count - 1}"
      )
    host, _, port = self.coordinator.rpartition(":")
    if not host or not port.isdecimal():
      raise errors.ConfigError(
        f"coordinator_address {self.coordinator!r} is not HOST:PORT, such as"
        " node001:8476"
      )


def place(
  coordinator: str | None = None,
  count: int | None = None,
  index: int | None = None,
) -> Place | None:
  """Where this process stands; None if it is alone.

  Args:
    coordinator: of the flags, as are the next two; what they leave out the
      environment tells.
    count: 1 is a run of one process, whatever the environment.
    index: of this process.

  Raises:
    ConfigError: something is missing; the message says what to give.
  """
  if count == 1:
    return None
  from t5x_lite import compat

  coordinator = coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS")
  given = (coordinator, count, index)
  with _asking():
    found = compat.cluster_environment() if None in given else None
  # A batch script of Slurm's has an index, and is yet alone.
  launcher = next(
    (x for x in _LAUNCHERS if {x.count, x.index} <= os.environ.keys()), None
  )
  devices = None
  if found is not None:
    with _asking():
      count = found.get_process_count() if count is None else count
      if count == 1:
        return None
      index = found.get_process_id() if index is None else index
      coordinator = coordinator or found.get_coordinator_address(
        timeout_secs=WAIT,  # for process 0 to have a name
        override_coordinator_port=os.environ.get("JAX_COORDINATOR_PORT"),
      )
      devices = compat.own_gpus(found)
  elif launcher is not None and None in given:
    count = int(os.environ[launcher.count]) if count is None else count
    if count == 1:
      return None
    index = int(os.environ[launcher.index]) if index is None else index
  elif given == (None, None, None):
    _check_alone()
    return None
  if coordinator is None or count is None or index is None:
    _explain(launcher, coordinator, count, index)
  assert coordinator is not None and count is not None and index is not None
  return Place(coordinator, count, index, devices)


@contextlib.contextmanager
def _asking() -> Iterator[None]:
  """Makes of what goes wrong when a launcher is asked an error to mend."""
  try:
    yield
  except Exception as error:
    raise errors.ConfigError(
      "what launched this process cannot be asked about the others:"
      f" {type(error).__name__}: {error}\nGive --coordinator_address,"
      " --num_processes and --process_id, or --num_processes=1 for a run of"
      " this process alone"
    ) from error


def _explain(launcher: _Launcher | None, *given: str | int | None) -> None:
  """Raises ConfigError about what is missing."""
  flags = ("--coordinator_address", "--num_processes", "--process_id")
  missing = [f for f, x in zip(flags, given, strict=True) if x is None]
  count = given[1] or "several"
  who = f"{launcher.name} names" if launcher else "the flags name"
  raise errors.ConfigError(
    f"{who} {count} processes, but not all that is to be known of this one:"
    f" give {' '.join(missing)} too (the address is HOST:PORT of process 0,"
    " with any free port), or --num_processes=1 for a run of this process alone"
  )


def _check_alone() -> None:
  """Raises ConfigError if the environment yet names several processes."""
  tasks = os.environ.get("SLURM_NTASKS", "1")
  if tasks != "1" and "SLURM_STEP_ID" not in os.environ:
    raise errors.ConfigError(
      f"Slurm's job has {tasks} tasks (SLURM_NTASKS) and this is none of them:"
      " start it with srun, or give --num_processes=1 for a run of this"
      " process alone"
    )
  pod = os.environ.get("JOB_COMPLETION_INDEX")
  if pod is not None:
    raise errors.ConfigError(
      f"this is pod {pod} of an indexed job (JOB_COMPLETION_INDEX), and how"
      " many there are only Kubernetes tells: pip install kubernetes, or give"
      " --coordinator_address=HOST:PORT --num_processes=N"
      f" --process_id={pod}, or --num_processes=1 for a run of each pod alone"
    )


class Member:
  """This process as one of a run; of one alone, nothing but a name."""

  def __init__(self) -> None:
    self._roll: roll_call.RollCall | None = None
    self._abort: Any = None  # the handler, which C must find alive

  def join(self, at: Place, *, seconds: float, preemptible: bool) -> None:
    """Meets the others and starts JAX's services.

    Args:
      at: where this process stands.
      seconds: to wait for the others.
      preemptible: whether the command stops by itself after a SIGTERM.

    Raises:
      ProcessLost: some did not come.
      ConfigError: their numbers or versions do not fit.
    """
    import jax

    from t5x_lite import compat

    roll = roll_call.RollCall(at.coordinator, at.count, at.index, self._end)
    self._roll = roll
    roll.meet(
      seconds, f"t5x_lite {t5x_lite.__version__}, jax {jax.__version__}"
    )
    self._explain_aborts()
    compat.initialize_distributed(
      at.coordinator,
      at.count,
      at.index,
      local_devices=at.local_devices,
      preemption=preemptible,
    )
    if at.index:
      # What all have to say, process 0 says.
      logging.getLogger("t5x_lite").setLevel(logging.ERROR)
      sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (until the end)
    else:
      _log.info(
        "%d processes: %s",
        at.count,
        ", ".join(roll.members[i] for i in sorted(roll.members)[:8]),
      )

  @property
  def alone(self) -> bool:
    """Whether it has joined no others."""
    return self._roll is None

  @property
  def prefix(self) -> str:
    """In front of what only this process has to say; "" if it is alone."""
    return f"process {self._roll.index}: " if self._roll else ""

  def settle(self, error: BaseException) -> None:
    """Waits, if others may be the cause of an error, for them to be named.

    A collective fails at once when a peer dies; that the peer is dead is
    known a moment later, and ends this process with what is the matter.
    """
    roll = self._roll
    if roll is None or isinstance(error, errors.ProcessLost):
      return
    cause: BaseException | None = error
    while cause is not None and not _is_of_xla(cause):
      cause = cause.__cause__ or cause.__context__
    if cause is None:
      return
    # By turns, not by the clock: on a machine that is busy, this thread may
    # not run for long, and the roll call's may not have run either.
    for _ in range(round(_SETTLE / 0.1)):
      if roll.trouble:
        self._end(roll.trouble)
      time.sleep(0.1)

  def leave(self, code: int, reason: str = "") -> None:
    """Ends this process's part in the run; with a failure, the process."""
    if self._roll is None:
      return
    if code == 0:
      import jax

      jax.distributed.shutdown()  # waits until all have come to their end
      self._roll.leave(0)
      return
    self._roll.leave(code, reason.partition("\n")[0])
    # JAX's own end would wait for processes that may never come to theirs.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

  def _end(self, reason: str) -> None:
    """Ends this process because another is lost."""
    assert self._roll is not None
    self._roll.tell(errors.ProcessLost.exit_code, reason)
    _tell(f"t5x_lite: error: {self.prefix}{reason}")
    os._exit(errors.ProcessLost.exit_code)

  def _explain_aborts(self) -> None:
    """Lets the roll call speak before JAX aborts the process.

    Its client does so as soon as it has lost process 0, from a thread of its
    own, which a handler of Python's would never hear of.
    """

    def handle(number: int) -> None:
      time.sleep(_SETTLE)
      libc.signal(number, 0)  # the default, which follows

    libc = ctypes.CDLL(None)
    self._abort = ctypes.CFUNCTYPE(None, ctypes.c_int)(handle)
    libc.signal(signal.SIGABRT, self._abort)


def _is_of_xla(error: BaseException) -> bool:
  """Whether it has a status of XLA's, which is not always JAX's own class."""
  return re.match(r"[A-Z_]+: ", str(error)) is not None


def _tell(text: str) -> None:
  """Writes a line, even if the signal or thread came in the midst of one."""
  try:
    os.write(2, f"\n{text}\n".encode())
  except OSError:
    pass
