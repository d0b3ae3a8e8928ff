"""`eval` and `infer` as a user calls them after training on own files."""

import json
import pathlib

import pytest

from tests.e2e import commands

pytestmark = pytest.mark.slow

RECORD = "--gin_file=run/config.gin"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
  """A user's folder with a trained run."""
  folder = tmp_path_factory.mktemp("user")
  pairs = [{"inputs": f"say {i}", "targets": str(i)} for i in range(200)]
  lines = "".join(json.dumps(pair) + "\n" for pair in pairs)
  (folder / "pairs.jsonl").write_text(lines)
  commands.run(
    "train",
    "--workdir=run",
    *commands.TINY,
    "--gin_file=runs/pretrain.gin",
    "--gin_file=vocabularies/bytes.gin",
    "--gin_file=data/files.gin",
    "--gin.FILES=pairs.jsonl",
    "--gin.FILES_OBJECTIVE=seq2seq",
    *commands.SMALL,
    "--gin.TRAIN_STEPS=2",
    "--gin.SAVE_EVERY=1",
    "--gin.EVAL_BATCHES=1",
    cwd=folder,
  )
  return folder


def test_eval(folder):
  arguments = ("--workdir=run", "--gin_file=runs/evaluate.gin", RECORD)
  done = commands.run("eval", *arguments, "--gin.STEPS=all", cwd=folder)
  for step in (1, 2):
    assert f"Metrics at step {step}" in done.stdout
    path = folder / "run" / "eval" / f"metrics-{step}.json"
    metrics = json.loads(path.read_text())["metrics"]
    assert metrics["validation/loss"] > 1
    assert any(name.endswith("/exact_match") for name in metrics)
  predictions = sorted((folder / "run" / "predictions").iterdir())
  assert len(predictions) == 2
  rows = [json.loads(line) for line in predictions[-1].open()]
  assert all(row["inputs"] == f"say {row['targets']}" for row in rows)


def test_infer_for_a_file_and_for_the_task(folder):
  arguments = ("--workdir=run", "--gin_file=runs/infer.gin", RECORD)
  questions = [{"inputs": f"say {i}", "id": i} for i in range(5)]
  lines = "".join(json.dumps(question) + "\n" for question in questions)
  (folder / "questions.jsonl").write_text(lines)
  commands.run("infer", *arguments, "--gin.INPUTS=questions.jsonl", cwd=folder)
  path = folder / "run" / "infer" / "questions-2.jsonl"
  rows = [json.loads(line) for line in path.open()]
  assert [row["id"] for row in rows] == list(range(5))
  assert all({"inputs", "prediction", "score"} <= set(row) for row in rows)
  commands.run("infer", *arguments, "--gin.OUTPUT=task.jsonl", cwd=folder)
  rows = [json.loads(line) for line in (folder / "task.jsonl").open()]
  assert rows
  assert all(row["inputs"] == f"say {row['targets']}" for row in rows)


def test_what_goes_wrong_is_told_on_one_screen(folder):
  def refused(*extra, code):
    arguments = ("--workdir=run", "--gin_file=runs/infer.gin", RECORD)
    return commands.run("infer", *arguments, *extra, cwd=folder, code=code)

  done = refused("--gin.INPUTS=question.jsonl", code=3)
  assert "there is no file question.jsonl" in done.stderr
  done = refused("--gin.STEP=9", code=4)
  assert "no checkpoint of step 9" in done.stderr
  done = refused("--gin.EXTRA_IDS=7", code=2)
  assert "inputs.extra_ids: 100 then, 7 now" in done.stderr
  done = refused("--gin.PREFX=x", code=2)
  assert "did you mean 'PREFIX'" in done.stderr
