"""The help of the command line."""

import re

import pytest

from t5x_lite import commands, main
from t5x_lite.config import reader


def test_overview(capsys):
  assert main.main(["--help"]) == 0
  out = capsys.readouterr().out
  for command in commands.COMMANDS.values():
    assert f"  {command.name}" in out
    assert command.summary in out
  for code in (0, 1, 2, 3, 4, 5, 6, 7, 75, 130):
    assert re.search(rf"^  {code} ", out, re.MULTILINE)
  assert main.main([]) == 2


def test_version(capsys):
  assert main.main(["--version"]) == 0
  assert re.fullmatch(r"t5x_lite \d+\.\d+\.\d+\n", capsys.readouterr().out)


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_help_teaches(name, capsys, monkeypatch, tmp_path):
  command = commands.COMMANDS[name]
  shipped = tmp_path / command.run_file
  shipped.parent.mkdir()
  shipped.write_text("# Which task.\nMIXTURE = %gin.REQUIRED\nWIDTH = 8")
  monkeypatch.setattr(reader, "SHIPPED", tmp_path)
  assert main.main([name, "--help"]) == 0
  out = capsys.readouterr().out
  assert command.about in out
  assert len(command.examples) == 3
  joined = out.replace(" \\\n        ", " ")
  for purpose, line in command.examples:
    assert purpose in out
    assert line in joined
  assert f"macros of {command.run_file}:" in out
  assert "MIXTURE = (required)" in out
  assert "Which task." in out
  assert max(map(len, out.splitlines())) <= 88


@pytest.fixture
def run_gin(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "run.gin").write_text(
    "BATCH_SIZE = 8\n# The task to train on,\n# by its name.\n"
    "MIXTURE = %gin.REQUIRED\nTRAIN_STEPS = 5  # how long to train\n"
  )


def test_help_about_given_files(run_gin, capsys):
  assert main.main(["train", "--gin_file=run.gin", "--help"]) == 0
  out = capsys.readouterr().out
  assert "macros of run.gin:" in out
  assert "how long to train" in out


def test_macros_are_listed(run_gin, capsys):
  argv = ["train", "--gin_file=run.gin", "--list_macros", "--gin.BATCH_SIZE=4"]
  assert main.main(argv) == 0
  lines = capsys.readouterr().out.splitlines()
  assert lines[0].split() == ["BATCH_SIZE", "=", "4", "--gin.BATCH_SIZE=4"]
  assert ["MIXTURE", "=", "(required)", "run.gin:4"] in map(str.split, lines)
  assert "    The task to train on, by its name." in lines
