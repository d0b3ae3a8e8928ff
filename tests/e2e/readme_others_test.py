"""The README's other commands: published checkpoints, tasks, benchmarks."""

import json
import pathlib

import pytest

from tests.e2e import published, readme

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory, corpus) -> pathlib.Path:
  made = tmp_path_factory.mktemp("reader")
  readme.write(made, corpus)
  words = corpus.joinpath("one.txt").read_text().split()
  published.write(made / "downloads", text=words)
  return made


@pytest.mark.parametrize("section", readme.OTHERS)
def test_commands_in_order(folder, section) -> None:
  readme.run(section, folder)


def test_files_that_they_left(folder) -> None:
  submitted = folder / "runs/sst2_bert/submission/GLUE/SST-2.tsv"
  assert len(submitted.read_text().splitlines()) == 1 + 1821
  exported = folder / "runs/gpt2_exported"
  assert json.loads((exported / "config.json").read_text())["n_layer"] == 1
  assert (exported / "model.safetensors").exists()
