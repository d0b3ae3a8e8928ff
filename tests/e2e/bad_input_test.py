"""Runs that cannot go well: one message, an exit code, nothing lost."""

import pathlib

import pytest

from tests.e2e import commands

pytestmark = pytest.mark.slow


def _flags(corpus: pathlib.Path, *more: str) -> tuple[str, ...]:
  return (
    *commands.TINY,
    "--gin_file=runs/pretrain.gin",
    "--gin_file=data/files.gin",
    "--gin_file=vocabularies/bytes.gin",
    f"--gin.FILES={corpus}",
    "--gin.FILES_FORMAT=lines",
    *commands.SMALL,
    "--gin.TRAIN_STEPS=5",
    "--gin.SAVE_EVERY=1",
    "--gin.KEEP=None",
    "--gin.EVALUATORS=[]",
    *more,
  )


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, corpus) -> None:
  workdir = tmp_path / "run"
  done = commands.run(
    "train",
    f"--workdir={workdir}",
    *_flags(corpus, "--gin.LEARNING_RATE=1e30"),
    cwd=tmp_path,
    code=5,
    T5X_LITE_CACHE=str(tmp_path / "cache"),
  )
  assert "step 2" in done.stderr
  assert "the last good checkpoint is step 1" in done.stderr
  saved = {path.name for path in (workdir / "checkpoints").iterdir()}
  assert {name for name in saved if name.isdigit()} == {"1"}


def test_a_dry_run_shows_all_and_writes_nothing(tmp_path, corpus) -> None:
  workdir = tmp_path / "run"
  done = commands.run(
    "train",
    "--dry_run",
    f"--workdir={workdir}",
    *_flags(corpus),
    cwd=tmp_path,
    T5X_LITE_CACHE=str(tmp_path / "cache"),
  )
  for shown in ("Parameters", "Mesh", "Learning rate", "First example"):
    assert shown in done.stdout
  assert not workdir.exists()


def test_an_unknown_task_is_told_with_its_neighbours(tmp_path) -> None:
  done = commands.run(
    "train",
    f"--workdir={tmp_path / 'run'}",
    *commands.TINY,
    "--gin_file=runs/pretrain.gin",
    "--gin.MIXTURE=wikitext_span_corruption",
    "--gin.TRAIN_STEPS=5",
    cwd=tmp_path,
    code=2,
  )
  assert "did you mean 'wikitext2_span_corruption'" in done.stderr
