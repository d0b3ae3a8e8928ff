"""`t5x_lite launch`: several processes of a command on this machine's CPUs.

What a cluster does is rehearsed: processes of their own, each with its share
of virtual devices, that meet at a port, divide data and devices, and are lost
or preempted together.
"""

import argparse
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import NoReturn

from t5x_lite import commands, errors

SUMMARY = "rehearse a run of several processes on this machine"
_GRACE = 40.0  # seconds for the others to end by themselves when one has failed
_EXAMPLES = """\
examples:
  Four processes with two virtual devices each train together:
    t5x_lite launch --processes=4 --devices=8 -- train \\
        --workdir=/tmp/t5 --gin_file=models/t5_1_1/tiny.gin \\
        --gin_file=objectives/seq2seq.gin --gin_file=runs/pretrain.gin \\
        --gin.MIXTURE=wikitext2_span_corruption --gin.TRAIN_STEPS=100
  Two evaluate it:
    t5x_lite launch --processes=2 -- eval --workdir=/tmp/t5 \\
        --gin_file=runs/evaluate.gin --gin_file=/tmp/t5/config.gin

Each line of their output begins with the number of its process.  A signal
goes to all of them; `kill PID` with the pid of one, which they print, is a
preemption.  When one fails, all end, with its exit code."""
_NOISE = b"[Gloo] Rank "  # a line for each device and computation
_DEVICES = "--xla_force_host_platform_device_count="


class _Parser(argparse.ArgumentParser):
  def error(self, message: str) -> NoReturn:
    raise errors.ConfigError(f"{message}; see t5x_lite launch --help")


def _parser() -> argparse.ArgumentParser:
  parser = _Parser(
    prog="t5x_lite launch",
    usage="t5x_lite launch --processes=N [--devices=D] -- COMMAND ...",
    description=__doc__.partition("\n\n")[2],
    epilog=_EXAMPLES,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  parser.add_argument(
    "--processes", type=int, required=True, metavar="N", help="how many"
  )
  parser.add_argument(
    "--devices",
    type=int,
    metavar="D",
    help="virtual devices in all; by default as many as XLA_FLAGS asks for, or"
    " one for each process",
  )
  return parser


def launch(argv: Sequence[str]) -> int:
  """Runs the command after "--"; returns the exit code (see `result`).

  Raises:
    ConfigError: a wrong command line.
  """
  own, command = list(argv), list[str]()
  if "--" in own:
    place = own.index("--")
    own, command = own[:place], own[place + 1 :]
  if {"-h", "--help"} & set(own):
    print(_parser().format_help())
    return 0
  options = _parser().parse_args(own)
  known = [c.name for c in commands.COMMANDS.values() if c.computes]
  if not command or command[0] not in known:
    given = f"not {command[0]!r}" if command else "and there is none"
    raise errors.ConfigError(
      f'after "--" comes a command that computes ({", ".join(known)}), {given}'
    )
  count = options.processes
  devices = options.devices or _devices_asked_for() or count
  if count < 1 or devices % count:
    raise errors.ConfigError(
      f"{devices} devices cannot be divided among {count} processes: give"
      " --devices, a multiple of --processes"
    )
  return _run(command, count, devices // count)


def _devices_asked_for() -> int | None:
  found = re.search(rf"{_DEVICES}(\d+)", os.environ.get("XLA_FLAGS", ""))
  return int(found[1]) if found else None


def _run(command: list[str], count: int, devices: int) -> int:
  with socket.create_server(("localhost", 0)) as server:
    port = server.getsockname()[1]
  flags = os.environ.get("XLA_FLAGS", "").split()
  flags = [flag for flag in flags if not flag.startswith(_DEVICES)]
  environment = os.environ | {
    "JAX_PLATFORMS": "cpu",
    "PYTHONUNBUFFERED": "1",
    "XLA_FLAGS": " ".join([*flags, f"{_DEVICES}{devices}"]),
  }
  children: list[subprocess.Popen[bytes]] = []
  with _passing_on_signals(children):
    for index in range(count):
      place = [
        f"--coordinator_address=localhost:{port}",
        f"--num_processes={count}",
        f"--process_id={index}",
      ]
      children.append(
        subprocess.Popen(
          [sys.executable, "-m", "t5x_lite", *command, *place],
          env=environment,
          stdin=subprocess.DEVNULL,
          stdout=subprocess.PIPE,
          stderr=subprocess.STDOUT,
          start_new_session=True,  # signals come from here alone
        )
      )
    printing = threading.Lock()
    readers = [
      threading.Thread(target=_show, args=(index, child, printing))
      for index, child in enumerate(children)
    ]
    for reader in readers:
      reader.start()
    ended = _wait(children)
    for reader in readers:
      reader.join(timeout=5)
  return result(ended)


@contextlib.contextmanager
def _passing_on_signals(
  children: Sequence["subprocess.Popen[bytes]"],
) -> Iterator[None]:
  def handle(number: int, frame: FrameType | None) -> None:
    del frame
    for child in children:
      if child.poll() is None:
        child.send_signal(number)

  numbers = (signal.SIGINT, signal.SIGTERM)
  previous = {number: signal.signal(number, handle) for number in numbers}
  try:
    yield
  finally:
    for child in children:
      if child.poll() is None:  # this process fails
        child.kill()
    for number, handler in previous.items():
      signal.signal(number, handler)


def _show(
  index: int, child: "subprocess.Popen[bytes]", printing: threading.Lock
) -> None:
  """Prints what a process says, line by line, with its number in front."""
  assert child.stdout is not None
  for line in child.stdout:
    if line.startswith(_NOISE):
      continue
    with printing:
      text = line.decode(errors="replace").rstrip("\n")
      print(f"[{index}] {text}", flush=True)


def _wait(children: Sequence["subprocess.Popen[bytes]"]) -> list[int]:
  """The exit codes, in the order in which the processes ended."""
  ended, running, deadline = list[int](), list(children), float("inf")
  while running:
    for child in list(running):
      code = child.poll()
      if code is not None:
        running.remove(child)
        ended.append(code)
        if code:
          deadline = min(deadline, time.monotonic() + _GRACE)
    if time.monotonic() > deadline:
      for child in running:
        child.kill()
    time.sleep(0.05)
  return ended


def result(ended: Sequence[int]) -> int:
  """One exit code for all: of the first that failed by itself.

  Args:
    ended: exit codes in the order of the ends; -N is a death by signal N,
      which becomes 128 + N.  That others are lost is no cause where another
      code tells one.
  """
  failed = [code if code > 0 else 128 - code for code in ended if code]
  lost = errors.ProcessLost.exit_code
  causes = [code for code in failed if code != lost]
  return (causes or failed or [0])[0]
