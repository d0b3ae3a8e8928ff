"""Signals to the launcher, and to one of two processes that predict."""

import json
import shutil
import signal

import pytest

from tests.e2e import commands
from tests.multiprocess import processes

pytestmark = pytest.mark.slow

_LAUNCH = ("launch", "--processes=2", f"--devices={processes.DEVICES}", "--")


@pytest.mark.parametrize(
  "number, code", [(signal.SIGTERM, 75), (signal.SIGINT, 130)]
)
def test_a_signal_to_the_launcher_goes_to_all(
  tmp_path, user, cache, number, code
):
  command = commands.command(
    *_LAUNCH, "train", f"--workdir={tmp_path}/run", *processes.TRAIN,
    "--gin.TRAIN_STEPS=100000", "--gin.EVALUATE_FIRST=False",
  )  # fmt: skip
  log, output = tmp_path / "run" / "metrics.jsonl", tmp_path / "output.txt"
  env = commands.environment(XLA_FLAGS=processes.FLAGS, **cache)
  launcher = processes.spawn(command, output, cwd=user, env=env)
  with processes.Group([launcher], [output]) as group:
    group.until(lambda: log.exists() and len(log.read_text().splitlines()) > 2)
    launcher.send_signal(number)
    assert group.wait(120) == [code], group.everything()
  said = output.read_text()
  for index in range(2):
    what = (
      "stopped by SIGTERM after saving step"
      if number == signal.SIGTERM
      else f"process {index}: interrupted"
    )
    lines = [x for x in said.splitlines() if x.startswith(f"[{index}] ")]
    assert any(what in line for line in lines), said
  assert "Traceback" not in said


def test_infer_goes_on_after_its_last_whole_chunk(folder):
  questions = [{"inputs": f"tell {i}", "id": i} for i in range(400)]
  lines = "".join(json.dumps(question) + "\n" for question in questions)
  (folder / "many.jsonl").write_text(lines)
  shutil.copytree(folder / "run", folder / "stopped")
  arguments = (
    "infer", "--workdir=stopped", "--gin_file=runs/infer.gin",
    "--gin_file=run/config.gin", "--gin.INPUTS=many.jsonl",
    "--gin.CHUNK_SIZE=8",
  )  # fmt: skip
  result = folder / "stopped" / "infer" / "many-2.jsonl"
  parts = result.with_name(f"{result.name}.parts")
  command = commands.command(*arguments)
  with processes.start(2, command, folder) as group:
    group.until(lambda: len(list(parts.glob("0*.jsonl"))) > 1)
    group.children[1].send_signal(signal.SIGTERM)
    assert group.wait(60) == [6, -signal.SIGTERM], group.everything()
  assert "process 1 on" in group.said(0)
  made = [path.read_bytes() for path in sorted(parts.glob("0*.jsonl"))]
  assert not result.exists() and 1 < len(made) < 50
  processes.run(2, *arguments, cwd=folder)
  text = result.read_bytes()
  assert text.startswith(b"".join(made))
  assert [json.loads(x)["id"] for x in text.splitlines()] == list(range(400))
