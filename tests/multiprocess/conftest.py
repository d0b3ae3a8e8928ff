"""A user's mixture, whose batches are logged."""

import json
import pathlib
import shutil

import pytest

from tests.e2e import commands
from tests.e2e import conftest as e2e
from tests.multiprocess import processes

corpus = e2e.corpus

USER = """
import json, os, time, zlib
import numpy as np
import seqio
from t5x_lite.pipelines import iterator
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

# Every row of training data that this process reads.
read = iterator.DataIterator.__next__

def logged(self):
  batch = read(self)
  if self._record["split"] == "train" and "IDS" in os.environ:
    time.sleep(float(os.environ.get("SLOWLY", 0)))
    rows = np.concatenate([batch["inputs"], batch["targets"]], axis=1)
    name = f"{{os.environ['IDS']}}/ids-{{os.environ['PROCESS']}}.jsonl"
    with open(name, "a") as f:
      f.write(json.dumps([zlib.crc32(row.tobytes()) for row in rows]) + "\\n")
  return batch

iterator.DataIterator.__next__ = logged
"""


@pytest.fixture(scope="session")
def user(tmp_path_factory, corpus) -> pathlib.Path:
  """A folder with `my_tasks.py`, to run in."""
  folder = tmp_path_factory.mktemp("user")
  (folder / "my_tasks.py").write_text(USER.format(corpus=corpus))
  return folder


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> dict[str, str]:
  return {"T5X_LITE_CACHE": str(tmp_path_factory.mktemp("cache"))}


@pytest.fixture(scope="session")
def train(user, cache):
  """Trains with so many processes; returns them."""

  def run(count, workdir, *flags, code=0, **extra):
    ids = workdir.with_name(f"{workdir.name}-ids")
    ids.mkdir(exist_ok=True)
    return processes.run(
      count,
      "train",
      f"--workdir={workdir}",
      *processes.TRAIN,
      *flags,
      cwd=user,
      code=code,
      IDS=str(ids),
      **cache,
      **extra,
    )

  return run


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
  """A user's folder with a run of one process."""
  folder = tmp_path_factory.mktemp("use")
  pairs = [{"inputs": f"say {i}", "targets": str(i)} for i in range(120)]
  lines = "".join(json.dumps(pair) + "\n" for pair in pairs)
  (folder / "pairs.jsonl").write_text(lines)
  questions = [{"inputs": f"say {i}", "id": i} for i in range(13)]
  lines = "".join(json.dumps(question) + "\n" for question in questions)
  (folder / "questions.jsonl").write_text(lines)
  processes.run(
    1,
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
    "--gin.EVAL_BATCHES=1",
    cwd=folder,
  )
  for count in (1, 2):
    shutil.copytree(folder / "run", folder / f"by-{count}")
  return folder
