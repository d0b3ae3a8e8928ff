"""A run on documents longer than its rows, stopped and gone on with."""

import random

import numpy as np
import pytest

from tests.e2e import commands

pytestmark = pytest.mark.slow

_STEPS = 12
_MODEL = "--gin_file=models/mamba/tiny.gin"
_DATA = (
  "--gin_file=objectives/long_documents.gin",
  "--gin_file=runs/pretrain.gin",
  "--gin_file=data/files.gin",
  "--gin_file=vocabularies/bytes.gin",
  "--gin.FILES=books",
  "--gin.FILES_OBJECTIVE=language_modeling",
  "--gin.FEATURE_LENGTHS={'targets': 64}",
  "--gin.BATCH_SIZE=8",
  "--gin.EVAL_BATCHES=2",
  "--gin.SAVE_EVERY=5",
  "--gin.LOG_EVERY=1",
)
_FLAGS = (_MODEL, *_DATA)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Where `books` are, of up to 2,000 bytes."""
  path = tmp_path_factory.mktemp("long")
  (path / "books").mkdir()
  draw = random.Random(0)
  for book in range(40):
    words = draw.choices(["lo", "mur", "tak", "vendi"], k=draw.randint(9, 400))
    (path / f"books/{book}.txt").write_text(" ".join(words))
  return path


def train(folder, name, *flags, code=0):
  return commands.run(
    "train",
    f"--workdir={name}",
    *flags,
    cwd=folder,
    code=code,
    T5X_LITE_CACHE=str(folder / "cache"),
  )


def arrays(workdir):
  import orbax.checkpoint as ocp

  from t5x_lite.checkpoints import tree

  step = workdir / f"checkpoints/{_STEPS}"
  restore = ocp.PyTreeCheckpointer().restore
  return tree.flatten(
    {item: restore(step / item) for item in ("model", "optimizer")}
  )


@pytest.fixture(scope="module")
def undisturbed(folder):
  train(folder, "undisturbed", *_FLAGS, f"--gin.TRAIN_STEPS={_STEPS}")
  return folder / "undisturbed"


def test_goes_on_bit_for_bit(folder, undisturbed):
  for steps in (7, _STEPS):
    train(folder, "stopped", *_FLAGS, f"--gin.TRAIN_STEPS={steps}")
  found, expected = (
    [row.get("train/loss") for row in commands.history(path).values()]
    for path in (folder / "stopped", undisturbed)
  )
  assert found == expected
  assert len(expected) == _STEPS + 1  # and the evaluation at step 0
  found, expected = arrays(folder / "stopped"), arrays(undisturbed)
  assert found.keys() == expected.keys()
  carried = [name for name in expected if "/carried/" in name]
  assert carried
  for name, value in expected.items():
    np.testing.assert_array_equal(found[name], value, err_msg=name)
    assert name not in carried or np.any(np.asarray(value, np.float32))


def test_is_evaluated_like_any_run(folder, undisturbed):
  commands.run(
    "eval",
    f"--workdir={undisturbed}",
    "--gin_file=runs/evaluate.gin",
    f"--gin_file={undisturbed}/config.gin",
    cwd=folder,
    T5X_LITE_CACHE=str(folder / "cache"),
  )


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    ((_MODEL, *_DATA, "--gin.DOCUMENT_LENGTH=500"), "data.document_length"),
    (("--gin_file=models/hybrid/tiny.gin", *_DATA), "attention/key grows"),
    (("--gin_file=models/llama2/tiny.gin", *_DATA), "attention/key grows"),
  ],
  ids=["another_length", "hybrid", "attention"],
)
def test_what_does_not_fit_is_refused(folder, undisturbed, flags, message):
  steps = "--gin.TRAIN_STEPS=20"
  done = train(folder, undisturbed, *flags, steps, code=2)
  assert message in done.stderr
