"""Real processes of a command, on virtual devices of the CPU."""

import itertools
import json
import pathlib
import socket
import subprocess
import time

from tests.e2e import commands

# Compiles in half the time; the same in all processes that are compared.
FLAGS = "--xla_backend_optimization_level=0"
DEVICES = 4
STEPS = 12
TRAIN = (
  *commands.TINY,
  "--gin_file=runs/pretrain.gin",
  "--gin_file=vocabularies/bytes.gin",
  "--gin.MIXTURE=my_mixture",
  *commands.SMALL,
  f"--gin.TRAIN_STEPS={STEPS}",
  "--gin.LOG_EVERY=1",
  "--gin.EVAL_EVERY=6",
  "--gin.EVAL_BATCHES=2",
  "--gin.SAVE_EVERY=6",
  "--gin.DROPOUT=0.1",
  "--gin.TASK_MODULES=('my_tasks',)",
)


def environment(devices: int, **extra: str) -> dict[str, str]:
  flags = f"{FLAGS} --xla_force_host_platform_device_count={devices}"
  return commands.environment(XLA_FLAGS=flags, **extra)


def place(count: int, index: int, port: int) -> list[str]:
  return [
    f"--coordinator_address=localhost:{port}",
    f"--num_processes={count}",
    f"--process_id={index}",
  ]


def free_port() -> int:
  with socket.create_server(("localhost", 0)) as server:
    return server.getsockname()[1]


def spawn(command, log, *, cwd, env) -> subprocess.Popen:
  """Starts a process; what it says goes to the file `log`."""
  with log.open("w") as file:
    return subprocess.Popen(
      command,
      cwd=cwd,
      env=env,
      stdin=subprocess.DEVNULL,
      stdout=file,
      stderr=subprocess.STDOUT,
    )


class Group:
  """Processes, and the files that what each says goes to."""

  def __init__(self, children, logs):
    self.children, self.logs = children, logs

  def __enter__(self):
    return self

  def __exit__(self, *unused):
    for child in self.children:
      if child.poll() is None:
        child.kill()
        child.wait()

  def wait(self, seconds=1500) -> list[int]:
    deadline = time.monotonic() + seconds
    return [
      child.wait(timeout=max(deadline - time.monotonic(), 0.1))
      for child in self.children
    ]

  def said(self, index: int) -> str:
    return self.logs[index].read_text()

  def everything(self) -> str:
    return "\n".join(f"== {i}\n{self.said(i)}" for i in range(len(self.logs)))

  def until(self, ready, seconds=1500) -> None:
    """Waits for `ready()`, while all of them run."""
    deadline = time.monotonic() + seconds
    while not ready():
      assert all(c.poll() is None for c in self.children), self.everything()
      assert time.monotonic() < deadline, self.everything()
      time.sleep(0.02)


def start(count, command, cwd, *, devices=DEVICES, **extra) -> Group:
  """Processes of a command that meet."""
  logs = [pathlib.Path(cwd, f"log-{free_port()}-{i}.txt") for i in range(count)]
  port, group = free_port(), Group([], logs)
  for index, log in enumerate(logs):
    own = place(count, index, port) if count > 1 else []
    env = environment(devices // count, PROCESS=str(index), **extra)
    group.children.append(spawn([*command, *own], log, cwd=cwd, env=env))
  return group


def run(count, *arguments, cwd, code=0, **extra) -> Group:
  """`t5x_lite ARGUMENTS` in so many processes, which share 4 devices."""
  with start(count, commands.command(*arguments), cwd, **extra) as group:
    assert group.wait() == [code] * count, group.everything()
  return group


def ids(folder: pathlib.Path, count: int) -> list[list[int]]:
  """The rows of each batch that the processes have read, in their order.

  See `USER` in conftest: mesh and hosts are in the same order.
  """
  read = [
    [json.loads(line) for line in (folder / f"ids-{i}.jsonl").open()]
    for i in range(count)
  ]
  parts = zip(*read, strict=False)
  return [list(itertools.chain(*batch)) for batch in parts]
