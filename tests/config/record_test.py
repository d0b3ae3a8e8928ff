"""What a run leaves behind about how it was started."""

import json
import os
import shlex
import subprocess
import sys

import pytest

from t5x_lite import config, errors
from t5x_lite.config import record
from tests.config import toy as toy_lib


def test_record_of_a_start(toy, monkeypatch):
  argv = ["bin/t5x_lite", "train", "--gin.A={'a': 1}", "--gin.B='$b'"]
  monkeypatch.setattr(sys, "argv", argv)
  toy.load(*toy_lib.SETTINGS)
  config.save("w", devices=["cpu:0", "cpu:1"])
  text = (toy.directory / "w/config.gin").read_text()
  assert text.splitlines()[1:5] == [
    "# t5x_lite \\",
    "#     train \\",
    "#     --gin.A=\"{'a': 1}\" \\",
    "#     " + shlex.quote(argv[3]),
  ]
  found = json.loads((toy.directory / "w/environment.json").read_text())
  assert shlex.split(found["command"]) == ["t5x_lite", *argv[1:]]
  assert found["devices"] == ["cpu:0", "cpu:1"]
  assert found["working_directory"] == str(toy.directory)
  import jax

  assert found["versions"]["jax"] == jax.__version__
  assert sorted(os.listdir("w")) == ["config.gin", "environment.json"]


def test_saved_config_repeats_the_run(toy):
  first = toy.run(*toy_lib.SETTINGS, "FEATURE_LENGTHS={'inputs': 1}")
  config.save("w")
  again = toy.run(files=["w/config.gin"])
  assert again["dataset"] == first["dataset"]
  assert again["num_steps"] == first["num_steps"]


def test_later_starts_keep_the_first(toy):
  toy.load(*toy_lib.SETTINGS)
  config.save("w")
  first = (toy.directory / "w/config.gin").read_text()
  toy.load(*toy_lib.SETTINGS, "BATCH_SIZE=2")
  config.save("w")
  config.save("w")
  assert (toy.directory / "w/config.gin").read_text() == first
  assert "BATCH_SIZE = 2" in (toy.directory / "w/config-2.gin").read_text()
  assert sorted(os.listdir("w")) == [
    "config-2.gin",
    "config-3.gin",
    "config.gin",
    "environment-2.json",
    "environment-3.json",
    "environment.json",
  ]


def test_half_a_record_is_not_overwritten(toy):
  (toy.directory / "config.gin").write_text("A = 1")
  toy.load(*toy_lib.SETTINGS)
  config.save(toy.directory)
  assert (toy.directory / "config.gin").read_text() == "A = 1"
  assert (toy.directory / "environment-2.json").exists()


def test_long_and_odd_values_survive(toy):
  mixture = "x" * 200 + " # ' \" \\ %DIM é"
  modules = [f"module_{i}" for i in range(50)]
  settings = (f"MIXTURE={mixture!r}", f"TOY.Dataset.task_modules={modules}")
  first = toy.run(*toy_lib.SETTINGS, *settings)
  assert first["dataset"].mixture == mixture
  config.save("w")
  assert toy.run(files=["w/config.gin"])["dataset"] == first["dataset"]


def test_without_gin_only_the_environment_is_recorded(toy):
  config.save("w")
  assert os.listdir("w") == ["environment.json"]


def test_directory_that_cannot_be_written(toy):
  (toy.directory / "w").write_text("a file")
  with pytest.raises(errors.CheckpointError, match="cannot record the run in"):
    config.save("w")


def test_full_disk_leaves_nothing_half_written(toy, monkeypatch):
  def full(self, target):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr("pathlib.Path.replace", full)
  with pytest.raises(errors.CheckpointError, match="No space left"):
    config.save("w")
  assert os.listdir("w") == []


def test_state_of_the_code(tmp_path):
  def git(*arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run(
      ["git", *identity, *arguments], cwd=tmp_path, check=True, stdout=-1
    )

  assert record._git_state(tmp_path) is None
  git("init", "-q")
  (tmp_path / "code.py").write_text("1")
  assert record._git_state(tmp_path) is None  # nothing of it is tracked
  git("add", "code.py")
  git("commit", "-q", "-m", "first")
  state = record._git_state(tmp_path)
  assert len(state["commit"]) == 40
  assert not state["dirty"]
  (tmp_path / "other.py").write_text("2")
  assert not record._git_state(tmp_path)["dirty"]
  (tmp_path / "code.py").write_text("2")
  assert record._git_state(tmp_path)["dirty"]
