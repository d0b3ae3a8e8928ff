"""The command line: exit codes, messages, help, and how soon errors come."""

import dataclasses
import json
import subprocess
import sys

import pytest

from t5x_lite import commands, main
from t5x_lite.config import reader
from tests.config import toy as toy_lib


@pytest.fixture
def toy(tmp_path, monkeypatch):
  for session in toy_lib.session(tmp_path, monkeypatch):
    for name, root in (("train", "train"), ("eval", "evaluate")):
      command = dataclasses.replace(
        commands.COMMANDS[name], root=f"{session.name}.{root}"
      )
      monkeypatch.setitem(commands.COMMANDS, name, command)
    yield session


GOOD = (
  "train",
  "--workdir=w",
  "--gin_file=model.gin",
  "--gin_file=run.gin",
  "--gin.MIXTURE=docs",
  "--gin.TRAIN_STEPS=5",
)


def refuse(capsys, *argv, code=2):
  """Returns the message with which a command line is refused."""
  assert main.main(argv) == code
  out, err = capsys.readouterr()
  assert out == ""
  start = "t5x_lite: error: "
  assert err.startswith(start)
  assert err.endswith("\n")
  assert len(err.splitlines()) <= 24
  return err.removeprefix(start).rstrip("\n")


def test_runs_the_command(toy, capsys):
  assert main.main(GOOD) == 0
  call = sys.modules[toy.name].CALLS[-1]
  assert (call["workdir"], call["dry_run"]) == ("w", False)
  assert call["num_steps"] == 5
  assert capsys.readouterr().err == ""


def test_dry_run_is_handed_over(toy):
  assert main.main([*GOOD, "--dry_run"]) == 0
  assert sys.modules[toy.name].CALLS[-1]["dry_run"]


def test_dry_run_of_a_function_without_one_shows_the_configuration(toy, capsys):
  files = ("--gin_file=model.gin", "--gin_file=evaluate.gin")
  assert main.main(["eval", "--workdir=w", *files, "--dry_run"]) == 0
  assert "MIXTURE = 'dev'  # evaluate.gin:4" in capsys.readouterr().out
  assert sys.modules[toy.name].CALLS == []


def test_settings_with_a_space(toy):
  argv = [*GOOD[:-1], "--gin.TRAIN_STEPS", "7"]
  assert main.main(argv) == 0
  assert sys.modules[toy.name].CALLS[-1]["num_steps"] == 7


@pytest.mark.parametrize(
  ("argv", "message"),
  [
    (["trian"], "there is no command 'trian'; did you mean 'train'?"),
    (["x"], "there is no command 'x'; the commands are train, eval, harness"),
    (
      ["train", "--workdir=w"],
      "no gin file says how to run t5x_lite.train.train; "
      "add --gin_file=runs/pretrain.gin",
    ),
    (
      ["train", "--gin_fil=x"],
      "there is no flag --gin_fil; did you mean '--gin_file'?",
    ),
    (
      ["train", "--gin_file=a.gin", "b.gin"],
      "each gin file has a flag of its own: --gin_file=b.gin",
    ),
    (
      ["train", "BATCH_SIZE=4"],
      "what is 'BATCH_SIZE=4'? To set a macro, write --gin.BATCH_SIZE=4",
    ),
    (
      ["train", "--BATCH_SIZE=4"],
      "no flag --BATCH_SIZE; to set a macro, write --gin.BATCH_SIZE=...",
    ),
    (["train", "--workdir"], "argument --workdir: expected one argument"),
    (
      ["train", "--gin_file=models/t5_1_1/small.gin", "--gin.X"],
      "--gin.X=: the value is missing",
    ),
    (["train", "--dry_run=1"], "argument --dry_run: ignored explicit"),
  ],
)
def test_wrong_command_lines(argv, message, capsys):
  assert refuse(capsys, *argv).startswith(message)


@pytest.mark.parametrize(
  ("setting", "message"),
  [
    ("BATCH_SZ=4", "nothing reads a macro BATCH_SZ; did you mean 'BATCH_SIZE'"),
    ("BATCH_SIZE=x", "BATCH_SIZE (read by"),
    ("Attention.haeds=4", "Attention has no parameter 'haeds'; did you mean"),
    ("encodr/Norm.epsilon=1", "no effect: no reference enters the scope"),
    ("BATCH_SIZE=true", "true is no value; did you mean True?"),
  ],
)
def test_wrong_settings(toy, capsys, setting, message):
  found = refuse(capsys, *GOOD, f"--gin.{setting}")
  assert found.startswith(f"--gin.{setting}: {message}")


ERRORS = """
from t5x_lite import errors

def fail(*, workdir: str, kind: str):
  raised = {"Interrupt": KeyboardInterrupt, "Defect": ZeroDivisionError}
  error = raised.get(kind) or getattr(errors, kind)
  raise error("a message\\nof two lines")

def run(*, workdir: str, inner):
  inner(workdir="w")
"""


@pytest.mark.parametrize(
  ("kind", "code", "start"),
  [
    ("UserError", 1, "t5x_lite: error: "),
    ("ConfigError", 2, "t5x_lite: error: "),
    ("DataError", 3, "t5x_lite: error: "),
    ("CheckpointError", 4, "t5x_lite: error: "),
    ("NonFiniteError", 5, "t5x_lite: error: "),
    ("Preempted", 75, "t5x_lite: "),
  ],
)
def test_errors_of_users_are_messages(
  toy, monkeypatch, capsys, kind, code, start
):
  assert _fail(toy, monkeypatch, kind) == code
  assert capsys.readouterr().err == f"{start}a message\nof two lines\n"


def test_interruption(toy, monkeypatch, capsys):
  assert _fail(toy, monkeypatch, "Interrupt") == 130
  assert capsys.readouterr().err == "t5x_lite: interrupted\n"


def test_defects_keep_their_traceback(toy, monkeypatch):
  with pytest.raises(ZeroDivisionError):
    _fail(toy, monkeypatch, "Defect")


def _fail(toy, monkeypatch, kind):
  """Raises an error below two functions that gin wraps."""
  toy.write(f"{toy.name}_errors.py", ERRORS)
  toy.gin(
    f"""
    import TOY_errors
    TOY_errors.run.inner = @TOY_errors.fail
    TOY_errors.fail.kind = '{kind}'
    """
  )
  command = commands.COMMANDS["train"]
  root = f"{toy.name}_errors.run"
  monkeypatch.setitem(
    commands.COMMANDS, "train", dataclasses.replace(command, root=root)
  )
  return main.main(["train", "--workdir=w", "--gin_file=mine.gin"])


# In a process of its own.

# CPU seconds: other work on the machine does not count.
PROBE = """
import json, sys, time
start = time.process_time()
from t5x_lite import commands, main
import dataclasses
name, *argv = sys.argv[1:]
if name != "t5x_lite":
  command = commands.COMMANDS["train"]
  command = dataclasses.replace(command, root=f"{name}.train")
  commands.COMMANDS["train"] = command
code = main.main(argv)
bridge = sys.modules.get("jax._src.xla_bridge")
print(json.dumps({
  "code": code,
  "seconds": time.process_time() - start,
  "modules": sorted(sys.modules),
  "devices": bool(bridge and bridge.backends_are_initialized()),
}))
"""


def _probe(directory, name, *argv):
  done = subprocess.run(
    [sys.executable, "-c", PROBE, name, *argv],
    cwd=directory,
    env={"PYTHONPATH": str(reader.SHIPPED.parent), "PATH": "/usr/bin:/bin"},
    capture_output=True,
    text=True,
    timeout=60,
  )
  assert done.returncode == 0, done.stderr
  return done, json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def imports():
  """CPU seconds that the libraries of any model take to import here."""
  code = (
    "import time; start = time.process_time(); import jax, flax.nnx, optax; "
    "print(time.process_time() - start)"
  )
  run = [sys.executable, "-c", code]
  return float(subprocess.run(run, capture_output=True, check=True).stdout)


@pytest.mark.parametrize(
  "setting",
  [
    "BATCH_SZ=4",
    "layers.Attention.haeds=4",
    "DIM=wide",
    "encodr/layers.Attention.heads=1",
  ],
)
def test_errors_come_before_devices_and_tensorflow(toy, imports, setting):
  done, found = _probe(
    toy.directory,
    toy.name,
    "train",
    "--workdir=w",
    "--gin_file=models/t5_1_1/small.gin",
    *GOOD[3:],
    f"--gin.{setting}",
  )
  assert done.stderr.startswith(f"t5x_lite: error: --gin.{setting}: ")
  assert found["code"] == 2
  assert found["seconds"] < 3 * imports
  assert not found["devices"]
  assert "tensorflow" not in found["modules"]
  assert not (toy.directory / "w").exists()


def test_errors_of_shipped_runs_come_as_early(tmp_path, imports):
  done, found = _probe(
    tmp_path,
    "t5x_lite",
    "train",
    "--workdir=w",
    "--gin_file=models/t5_1_1/small.gin",
    "--gin_file=objectives/seq2seq.gin",
    "--gin_file=runs/pretrain.gin",
    "--gin.MIXTURE=c4_span_corruption",
    "--gin.TRAIN_STEPS=many",
  )
  assert done.stderr == (
    "t5x_lite: error: --gin.TRAIN_STEPS=many: TRAIN_STEPS (read by "
    "train.train.num_steps) must be int, got 'many' (str)\n"
  )
  assert (found["code"], found["devices"]) == (2, False)
  assert found["seconds"] < 3 * imports
  assert "t5x_lite.train" in found["modules"]
  assert not {"tensorflow", "seqio", "orbax"} & set(found["modules"])
  assert list(tmp_path.iterdir()) == []


def test_help_is_quick(toy, imports):
  done, found = _probe(toy.directory, toy.name, "train", "--help")
  assert "usage: t5x_lite train" in done.stdout
  assert found["seconds"] < imports
  assert "jax" not in found["modules"]


def test_module_entry():
  done = subprocess.run(
    [sys.executable, "-m", "t5x_lite", "train", "--gin_file=no.gin"],
    cwd=reader.SHIPPED.parent,
    capture_output=True,
    text=True,
    timeout=60,
  )
  assert done.returncode == 2
  assert done.stderr.startswith(
    "t5x_lite: error: there is no gin file 'no.gin'"
  )
