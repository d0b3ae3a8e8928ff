"""A run that is killed or stopped goes on to the bit.

With packing, shuffling and a mixture: every loss, the evaluations and the
final state are those of a run that nobody disturbed.
"""

import json
import pathlib
import signal
import subprocess
import time

import jax
import numpy as np
import pytest

from tests.e2e import commands

pytestmark = pytest.mark.slow

_STEPS = 30
_FLAGS = (
  *commands.TINY,
  "--gin_file=runs/pretrain.gin",
  "--gin_file=vocabularies/bytes.gin",
  "--gin.MIXTURE=my_mixture",
  *commands.SMALL,
  f"--gin.TRAIN_STEPS={_STEPS}",
  "--gin.LOG_EVERY=1",
  "--gin.EVAL_EVERY=10",
  "--gin.EVAL_BATCHES=2",
  "--gin.SAVE_EVERY=7",
  "--gin.DROPOUT=0.1",
  "--gin.TASK_MODULES=('my_tasks',)",
)


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> dict[str, str]:
  return {"T5X_LITE_CACHE": str(tmp_path_factory.mktemp("cache"))}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, mixture_module, environment) -> pathlib.Path:
  workdir = tmp_path_factory.mktemp("undisturbed")
  commands.run(
    "train", f"--workdir={workdir}", *_FLAGS, cwd=mixture_module, **environment
  )
  return workdir


def _disturb(
  workdir: pathlib.Path, cwd: pathlib.Path, step: int, how: int, env
) -> int:
  """Starts the run, sends the signal after the step, returns the exit code."""
  process = subprocess.Popen(
    commands.command("train", f"--workdir={workdir}", *_FLAGS),
    cwd=cwd,
    env=commands.environment(**env),
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  )
  log = workdir / "metrics.jsonl"
  try:
    while process.poll() is None:
      if log.exists() and len(log.read_text().splitlines()) > step:
        process.send_signal(how)
        break
      time.sleep(0.002)
    return process.wait(timeout=120)
  finally:
    process.kill()


def _arrays(workdir: pathlib.Path, step: int = _STEPS) -> dict[str, np.ndarray]:
  import orbax.checkpoint as ocp

  last = workdir / "checkpoints" / str(step)
  checkpointer = ocp.PyTreeCheckpointer()

  def restore(path: pathlib.Path):
    # As numpy: the devices may have been those of several processes.
    tree = checkpointer.metadata(path).item_metadata.tree
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(np.ndarray), tree)
    return checkpointer.restore(path, restore_args=as_numpy)

  tree = {part: restore(last / part) for part in ("model", "optimizer")}
  flat: dict[str, np.ndarray] = {}

  def walk(node, name: str) -> None:
    if isinstance(node, dict):
      for key, value in node.items():
        walk(value, f"{name}/{key}")
    else:
      flat[name] = np.asarray(node)

  walk(tree, "")
  return flat


def _assert_same(workdir: pathlib.Path, undisturbed: pathlib.Path) -> None:
  assert commands.history(workdir) == commands.history(undisturbed)
  assert len(commands.history(workdir)) == _STEPS + 1  # and the step 0
  ours, theirs = _arrays(workdir), _arrays(undisturbed)
  assert ours.keys() == theirs.keys()
  for name, value in theirs.items():
    np.testing.assert_array_equal(ours[name], value, err_msg=name)


@pytest.mark.parametrize("step", [2, 9, 17])
def test_killed(
  tmp_path, mixture_module, environment, undisturbed, step
) -> None:
  killed = _disturb(tmp_path, mixture_module, step, signal.SIGKILL, environment)
  assert killed == -signal.SIGKILL
  commands.run(
    "train", f"--workdir={tmp_path}", *_FLAGS, cwd=mixture_module, **environment
  )
  _assert_same(tmp_path, undisturbed)


@pytest.mark.parametrize("step", [4, 19])
def test_terminated(
  tmp_path, mixture_module, environment, undisturbed, step
) -> None:
  code = _disturb(tmp_path, mixture_module, step, signal.SIGTERM, environment)
  assert code == 75
  saved = max(
    int(path.name)
    for path in (tmp_path / "checkpoints").iterdir()
    if path.name.isdigit()
  )
  assert saved > step - 1  # of the step at which it stopped
  commands.run(
    "train", f"--workdir={tmp_path}", *_FLAGS, cwd=mixture_module, **environment
  )
  _assert_same(tmp_path, undisturbed)


def test_finished_run_is_left_alone(
  mixture_module, environment, undisturbed
) -> None:
  before = (undisturbed / "metrics.jsonl").read_bytes()
  done = commands.run(
    "train",
    f"--workdir={undisturbed}",
    *_FLAGS,
    cwd=mixture_module,
    **environment,
  )
  assert "nothing is left to train" in done.stderr
  assert (undisturbed / "metrics.jsonl").read_bytes() == before


def test_another_run_is_refused(
  mixture_module, environment, undisturbed
) -> None:
  before = json.loads((undisturbed / "run.json").read_text())
  done = commands.run(
    "train",
    f"--workdir={undisturbed}",
    *_FLAGS,
    "--gin.DIM=32",
    "--gin.BATCH_SIZE=4",
    cwd=mixture_module,
    code=2,
    **environment,
  )
  assert "data.batch_size" in done.stderr
  assert "model." in done.stderr
  assert json.loads((undisturbed / "run.json").read_text()) == before
