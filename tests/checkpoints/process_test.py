"""A run of two processes with one mesh over their eight devices."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import pytest


def free_port():
  with socket.socket() as server:
    server.bind(("localhost", 0))
    return server.getsockname()[1]


def told(output):
  """What a process printed of the files it read for their digests."""
  found = {}
  for line in output.splitlines():
    if line.startswith("{"):
      found |= json.loads(line)
  return found


@pytest.mark.slow
def test_two_processes_save_and_restore(tmp_path):
  port = str(free_port())
  flags = "--xla_force_host_platform_device_count=4"
  command = [sys.executable, "-m", "tests.checkpoints.process_child"]
  children = [
    subprocess.Popen(
      [*command, str(rank), port, str(tmp_path)],
      cwd=pathlib.Path(__file__).parents[2],
      env={**os.environ, "XLA_FLAGS": flags},
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    for rank in range(2)
  ]
  try:
    outputs = [child.communicate(timeout=240)[0] for child in children]
  finally:
    for child in children:
      child.kill()
  for child, output in zip(children, outputs, strict=True):
    assert child.returncode == 0, output[-4000:]
    assert output.splitlines()[-1] == "done"
  # Only the first process writes, locks and warns.
  assert "set aside" in outputs[0] and "set aside" not in outputs[1]
  left = {path.name for path in (tmp_path / "checkpoints").iterdir()}
  assert left == {"2", "3.damaged"}
  iterators = (tmp_path / "checkpoints/2/iterator").iterdir()
  assert {p.name for p in iterators} == {"shard-0.json", "shard-1.json"}
  # Each reads what it wrote, once a save; the rest is the first's.
  first, second = (told(output) for output in outputs)
  steps_saved = 3
  assert second["saved"]
  assert all(".process_1/d/" in name for name in second["saved"])
  assert not any(".process_1/d/" in name for name in first["saved"])
  own = [name for name in first["saved"] if ".process_0/d/" in name]
  assert len(set(own)) == len(own) and len(own) >= 2 * steps_saved
  # Every file is checked by one of them, and both have about as much to do.
  manifest = (tmp_path / "checkpoints/3.damaged/MANIFEST").read_text()
  sealed = [line.partition("  ")[2] for line in manifest.splitlines()[1:]]
  assert sorted(first["checked"] + second["checked"]) == sorted(sealed)
  assert abs(len(first["checked"]) - len(second["checked"])) <= 1
