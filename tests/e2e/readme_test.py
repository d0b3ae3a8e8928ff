"""Every command of the README runs, on a model of a few numbers."""

import itertools
import json
import pathlib
import random
import re
import shlex

import pytest

from tests.e2e import benchmarks, commands, published

pytestmark = pytest.mark.slow

_README = (commands.ROOT / "README.md").read_text()
# Appended to the command: the same command, of seconds.
_SMALLER = {
  "vocab": ("--gin.SIZE=150",),
  "train": (
    "--gin.TRAIN_STEPS=2",
    "--gin.BATCH_SIZE=4",
    "--gin.EVAL_BATCHES=1",
    "--gin.DTYPE=float32",
    "--gin.FEATURE_LENGTHS={'inputs': 64, 'targets': 32}",
    *(f"--gin.{name}=1" for name in ("ENCODER_LAYERS", "DECODER_LAYERS")),
    *(f"--gin.{name}=16" for name in ("DIM", "HEAD_DIM", "HIDDEN")),
  ),
  "eval": ("--gin.BATCH_SIZE=4",),
  "infer": ("--gin.BATCH_SIZE=4",),
  "submit": (),
  "chat": (),
  "tasks": (),
  "cache": (),
  "convert": (),
}
# Of commands that the recorded configuration of a small run serves as it is.
_RECORDED = {"chat": (), "submit": ()}
# Models that are small already.
_STUDY = ("--gin.TRAIN_STEPS=2", "--gin.BATCH_SIZE=4", "--gin.DIM=16")
# Of a decoder for long documents.
_LONG = (
  "--gin.TRAIN_STEPS=2",
  "--gin.BATCH_SIZE=4",
  "--gin.EVAL_BATCHES=1",
  "--gin.FEATURE_LENGTHS={'targets': 64}",
)
# Of a model that is imported: it has a shape of its own.
_IMPORTED = (
  "--gin.TRAIN_STEPS=2",
  "--gin.BATCH_SIZE=4",
  "--gin.EVAL_BATCHES=1",
  "--gin.DTYPE=float32",
  "--gin.FEATURE_LENGTHS={'inputs': 64, 'targets': 32}",
)


def _blocks(language: str) -> list[str]:
  return re.findall(rf"^```{language}\n(.*?)^```$", _README, re.M | re.S)


def _commands() -> list[list[str]]:
  lines = "".join(_blocks("sh")).splitlines()
  return [shlex.split(line) for line in lines if line]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, corpus) -> pathlib.Path:
  """What a reader has at hand: text, pairs, questions, a task."""
  made = tmp_path_factory.mktemp("reader")
  (made / "books").mkdir()
  draw = random.Random(0)
  syllables = [a + b for a in "bdfgklmnprst" for b in ("a", "en", "i", "or")]
  for book in range(40):
    text = " ".join(
      "".join(draw.choices(syllables, k=draw.randint(1, 4)))
      + "." * (number % 10 == 9)
      for number in range(300)
    )
    (made / "books" / f"{book}.txt").write_text(text)
  words = corpus.joinpath("one.txt").read_text().split()
  pairs = [
    {"inputs": f"after {a}?", "targets": b}
    for a, b in itertools.pairwise(words[:200])
  ]
  lines = "".join(json.dumps(pair) + "\n" for pair in pairs)
  (made / "pairs.jsonl").write_text(lines)
  (made / "questions.txt").write_text("after a?\nafter model?\n")
  (made / "novel.txt").write_text(" ".join(words[:300]))
  alpaca = [
    {"instruction": "Go on.", "input": p["inputs"], "output": p["targets"]}
    for p in pairs
  ]
  (made / "alpaca_data.json").write_text(json.dumps(alpaca))
  benchmarks.write(made / "tfds", 8, whole_tests=["sst2"])
  rows = "".join(f"{p['inputs']}\t{p['targets']}\n" for p in pairs)
  for name in ("train.tsv", "dev.tsv"):
    (made / name).write_text(rows)
  published.write(made / "downloads", text=words)
  (module,) = _blocks("python")
  (made / "my_tasks.py").write_text(module)
  return made


def test_commands_in_order(folder, tmp_path_factory) -> None:
  cache = str(tmp_path_factory.mktemp("cache"))
  seen = []
  for program, name, *arguments in _commands():
    assert program == "t5x_lite"
    smaller = list(_SMALLER[name])
    if name == "train" and any(a.endswith("model.gin") for a in arguments):
      smaller = list(_IMPORTED)
      if any("gpt2" in argument for argument in arguments):
        smaller.append(f"--gin.START={published.GPT2_START}")
    elif name == "train" and any("mamba/" in a for a in arguments):
      smaller = list(_LONG)
    elif name == "train" and any("studies/" in a for a in arguments):
      smaller = list(_STUDY)
    elif name == "vocab" and any("studies/" in a for a in arguments):
      smaller = ["--gin.SIZE=120"]
    elif any(argument.endswith("config.gin") for argument in arguments):
      # The recorded configuration is small already.
      smaller = list(_RECORDED.get(name, ("--gin.BATCH_SIZE=4",)))
    if any(argument.endswith("few_shot.gin") for argument in arguments):
      smaller.append("--gin.PROMPT_LENGTHS={'inputs': 64, 'targets': 60}")
    commands.run(
      *(name, *arguments, *smaller),
      cwd=folder,
      T5X_LITE_CACHE=cache,
      TFDS_DATA_DIR=str(folder / "tfds"),
    )
    seen.append(name)
  assert set(seen) == set(_SMALLER)
  answers = list((folder / "runs/books/answers/infer").glob("*.jsonl"))
  assert len(answers) == 1
  assert len(answers[0].read_text().splitlines()) == 2
  beams = (folder / "beams.jsonl").read_text().splitlines()
  assert len(json.loads(beams[0])["predictions"]) == 2
  assert "prediction" not in (folder / "scores.jsonl").read_text()
  submitted = folder / "runs/sst2_bert/submission/GLUE/SST-2.tsv"
  assert len(submitted.read_text().splitlines()) == 1 + 1821
  exported = folder / "runs/gpt2_exported"
  assert json.loads((exported / "config.json").read_text())["n_layer"] == 1
  assert (exported / "model.safetensors").exists()
  for workdir in ("books/pretrain", "books/seed1", "books/answers"):
    report = folder / "runs" / workdir / "report.html"
    assert "<html" in report.read_text()


def test_files_that_are_named_exist() -> None:
  links = re.findall(r"\]\(([\w/.-]+)\)", _README)
  assert links
  for link in links:
    assert (commands.ROOT / link).exists(), link
