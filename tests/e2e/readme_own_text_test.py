"""Commands of the README that start from text of the reader's own."""

import json
import pathlib

import pytest

from tests.e2e import readme

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory, corpus) -> pathlib.Path:
  made = tmp_path_factory.mktemp("reader")
  readme.write(made, corpus)
  return made


@pytest.mark.parametrize("section", readme.OWN_TEXT)
def test_commands_in_order(folder, section) -> None:
  readme.run(section, folder)


def test_files_that_they_left(folder) -> None:
  answers = list((folder / "runs/books/answers/infer").glob("*.jsonl"))
  assert len(answers) == 1
  assert len(answers[0].read_text().splitlines()) == 2
  beams = (folder / "beams.jsonl").read_text().splitlines()
  assert len(json.loads(beams[0])["predictions"]) == 2
  assert "prediction" not in (folder / "scores.jsonl").read_text()
  for workdir in ("books/pretrain", "books/seed1", "books/answers"):
    report = folder / "runs" / workdir / "report.html"
    assert "<html" in report.read_text()
