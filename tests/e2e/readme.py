"""The commands of the README, on models of a few numbers.

They run section by section in two test files, which pytest-xdist can put on
two workers; readme_test.py asserts that none is left out.
"""

import itertools
import json
import pathlib
import random
import re
import shlex

from tests.e2e import benchmarks, commands, published

TEXT = (commands.ROOT / "README.md").read_text()
# Appended to the command: the same command, of seconds.
SMALLER = {
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


def blocks(language: str, text: str = TEXT) -> list[str]:
  """Code of a language."""
  return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


def commands_of(text: str) -> list[list[str]]:
  """Words of every command, in order."""
  lines = "".join(blocks("sh", text)).splitlines()
  return [shlex.split(line) for line in lines if line]


def _sections() -> dict[str, list[list[str]]]:
  """Commands by the heading that they stand under, of headings with any."""
  before, *parts = re.split(r"^## (.*)\n", TEXT, flags=re.M)
  texts = {"": before} | dict(zip(parts[::2], parts[1::2], strict=True))
  found = {heading: commands_of(text) for heading, text in texts.items()}
  return {heading: some for heading, some in found.items() if some}


SECTIONS = _sections()
# Half of the time: what goes on from runs/books/, and what needs no other.
OWN_TEXT = (
  "Train on text of your own",
  "Models",
  "Instruction tuning",
  "Decode",
)
# The other half: what goes on from published checkpoints, and new sections.
OTHERS = tuple(heading for heading in SECTIONS if heading not in OWN_TEXT)


def write(folder: pathlib.Path, corpus: pathlib.Path) -> None:
  """Writes what a reader has at hand: text, pairs, questions, a task."""
  (folder / "books").mkdir()
  draw = random.Random(0)
  syllables = [a + b for a in "bdfgklmnprst" for b in ("a", "en", "i", "or")]
  for book in range(40):
    text = " ".join(
      "".join(draw.choices(syllables, k=draw.randint(1, 4)))
      + "." * (number % 10 == 9)
      for number in range(300)
    )
    (folder / "books" / f"{book}.txt").write_text(text)
  words = corpus.joinpath("one.txt").read_text().split()
  pairs = [
    {"inputs": f"after {a}?", "targets": b}
    for a, b in itertools.pairwise(words[:200])
  ]
  lines = "".join(json.dumps(pair) + "\n" for pair in pairs)
  (folder / "pairs.jsonl").write_text(lines)
  (folder / "questions.txt").write_text("after a?\nafter model?\n")
  (folder / "novel.txt").write_text(" ".join(words[:300]))
  alpaca = [
    {"instruction": "Go on.", "input": p["inputs"], "output": p["targets"]}
    for p in pairs
  ]
  (folder / "alpaca_data.json").write_text(json.dumps(alpaca))
  benchmarks.write(folder / "tfds", 8, whole_tests=["sst2"])
  rows = "".join(f"{p['inputs']}\t{p['targets']}\n" for p in pairs)
  for name in ("train.tsv", "dev.tsv"):
    (folder / name).write_text(rows)
  (module,) = blocks("python")
  (folder / "my_tasks.py").write_text(module)


def run(section: str, folder: pathlib.Path) -> None:
  """Runs the commands of a section in order; sections before it have run."""
  for program, name, *arguments in SECTIONS[section]:
    assert program == "t5x_lite"
    commands.run(
      *(name, *arguments, *_smaller(name, arguments)),
      cwd=folder,
      T5X_LITE_CACHE=str(folder / "cache"),
      TFDS_DATA_DIR=str(folder / "tfds"),
    )


def _smaller(name: str, arguments: list[str]) -> list[str]:
  """What makes a command one of seconds."""
  smaller = list(SMALLER[name])
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
  return smaller
