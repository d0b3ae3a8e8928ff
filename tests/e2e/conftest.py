"""Text for the commands to work on."""

import pathlib
import random

import pytest

_SENTENCE = """a model reads the data and the data make a model so that every
token has its turn to be hidden found or left alone in a row of many others"""


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> pathlib.Path:
  """A folder of two text files, a document a line."""
  folder = tmp_path_factory.mktemp("corpus")
  draw = random.Random(0)
  words = _SENTENCE.split()
  for name in ("one", "two"):
    lines = [
      " ".join(draw.choices(words, k=draw.randint(3, 40))) for _ in range(150)
    ]
    (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")
  return folder


@pytest.fixture(scope="session")
def mixture_module(tmp_path_factory, corpus) -> pathlib.Path:
  """A folder with `my_tasks.py`: a user's mixture of two tasks of files."""
  folder = tmp_path_factory.mktemp("user")
  (folder / "my_tasks.py").write_text(
    f"""
import seqio
from tasks import files

one, two = (
  files.Files(
    "{corpus}/" + name + ".txt",
    format="lines",
    join_documents=False,
    validation=0.1,
    name="my_" + name,
  ).register()
  for name in ("one", "two")
)
seqio.MixtureRegistry.add("my_mixture", [(one, 3.0), (two, 1.0)])
"""
  )
  return folder
