"""The docstring corpus and its tasks, on a small package written here."""

import collections
import json
import time

import pytest
import seqio

import tasks
from t5x_lite import vocabularies
from tasks import docstring_corpus, docstrings

SOURCE = '''
"""Arrays and what is done with them, in a module of its own."""

def norm(x):
  r"""Compute the norm of an array.

  The norm is the square root of the sum of squares; see :func:`~numpy.dot`
  and ``np.sqrt``.

  Parameters
  ----------
  x : array, given as values.
  """

class Model:
  """Trains in one line. No, this line does not end the summary.
  The rest of it is here, with words enough for a body of text.
  """
  def call(self):
    """Too short."""
    def inner():
      "A helper inside of a method, found all the same as any other."
if True:
  async def late():
    """Compute the norm of an array.

  The norm is the square root of the sum of squares; see :func:`~numpy.dot`
  and ``np.sqrt``.

  Parameters
  ----------
  x : array, given as values.
    """
add_newdoc("numpy.core", "sin", """Trigonometric sine, element-wise.

The sine is one of the fundamental functions of trigonometry and more.""")
add_newdoc_other(1)
'''


@pytest.fixture
def package(tmp_path, monkeypatch):
  """A package of a few modules instead of those installed."""

  def sources(name):
    if name == "numpy":
      for index in range(30):
        path = tmp_path / f"module{index}.py"
        body = SOURCE.replace("array", f"array {'x' * (index + 1)}")
        path.write_text(body)
        yield path, f"numpy.module{index}"
    if name == "python":
      path = tmp_path / "broken.py"
      path.write_text('"""Unfinished, and in another language')
      yield path, "broken"

  monkeypatch.setattr(docstring_corpus, "_sources", sources)


def test_docstrings_are_found_cleaned_and_split(tmp_path):
  path = tmp_path / "a.py"
  path.write_text(SOURCE)
  found = docstring_corpus._extract("numpy", path, "numpy.a")
  by_name = {example["name"]: example for example in found}
  assert set(by_name) == {"", "norm", "Model", "inner", "late", "sin"}
  norm = by_name["norm"]
  assert norm["summary"] == "Compute the norm of an array."
  assert norm["body"] == (
    "The norm is the square root of the sum of squares; see `numpy.dot`\n"
    "and `np.sqrt`.\n\nParameters\nx : array, given as values."
  )
  assert norm["module"] == "numpy.a" and norm["package"] == "numpy"
  assert by_name["Model"]["summary"].endswith("the summary.")
  assert by_name["inner"]["summary"] == by_name["inner"]["body"] == ""
  assert by_name["sin"]["summary"] == "Trigonometric sine, element-wise."


def test_modules_are_held_out_whole_and_texts_are_told_once(package):
  directory = docstring_corpus.build()
  assert docstring_corpus.build() == directory
  parts = {s: docstring_corpus.read(s) for s in docstring_corpus.SPLITS}
  modules = {
    split: {e["module"] for e in examples} for split, examples in parts.items()
  }
  assert modules["train"].isdisjoint(modules["validation"])
  assert all(map(docstring_corpus.held_out, modules["validation"]))
  assert not any(map(docstring_corpus.held_out, modules["train"]))
  assert len(modules["train"] | modules["validation"]) >= 20
  texts = [e["text"] for examples in parts.values() for e in examples]
  assert len(texts) == len(set(texts))
  # Of the validation none begins like one of training.
  starts = {docstring_corpus._letters(e["text"])[:120] for e in parts["train"]}
  for example in parts["validation"]:
    assert docstring_corpus._letters(example["text"])[:120] not in starts


def test_the_names_of_packages_are_masked():
  text = (
    "JAX's jax.numpy.sum is like np.sum; tf_export, SciPy (sp.linalg), "
    "`lax.scan`, TensorFlow.js, python3, CPython, import jax.numpy as jnp. "
    "A helper wraps its inputs, spy, tfoo, nps."
  )
  assert docstrings.mask(text) == (
    "_'s _.sum is like _.sum; __export, _ (_.linalg), "
    "`_.scan`, _.js, _3, _, import _ as _. "
    "A helper wraps its inputs, spy, tfoo, nps."
  )


def test_the_lead_is_the_first_sentence():
  assert docstrings.lead("One\nline. Two.\n\nThree.") == "One line."
  assert docstrings.lead("No end\n\nNext.") == "No end"


def _task(name):
  tasks.register()
  task = seqio.get_mixture_or_task(name)
  vocabulary = vocabularies.Bytes(extra_ids=100).build()
  features = {k: seqio.Feature(vocabulary) for k in task.output_features}
  return task.replace(output_features=features)


def _examples(name, split="train"):
  # The sources of registered tasks remember where they were prepared.
  task = _task(name)
  task.source.__dict__.pop("directory", None)
  lengths = {"inputs": 64, "targets": 32}
  dataset = task.get_dataset(lengths, split, shuffle=False, seed=0)
  examples = list(dataset.as_numpy_iterator())
  task.source.__dict__.pop("directory", None)
  return task, examples


def test_tasks_read_the_corpus(package):
  train = docstring_corpus.read("train")
  task, examples = _examples("docstrings_summary")
  assert len(examples) == sum(1 for e in train if e["summary"])
  for example in examples:
    assert example["inputs_pretokenized"].startswith(b"summarize docstring: ")
  target = task.postprocess_fn(
    "The text.",
    example={"inputs_pretokenized": b"summarize docstring: A. B. C."},
    is_target=True,
  )
  assert target == {"text": "The text.", "lead": "A."}
  scores = task.metric_fns[0]([target], ["The text."])
  assert scores["rouge1"] == 100.0 and scores["lead_rouge1"] == 0.0
  assert task.postprocess_fn(" a ", example={}, is_target=False) == "a"

  task, examples = _examples("docstrings_package")
  assert {e["targets_pretokenized"] for e in examples} == {b"numpy"}
  joined = b" ".join(e["inputs_pretokenized"] for e in examples)
  assert b"package: " in joined and b"numpy" not in joined
  assert b"np." not in joined and b"`_.dot`" in joined
  assert set(task.metric_fns[0](["a"], ["a"])) == {
    "accuracy",
    "majority_accuracy",
  }

  _, examples = _examples("docstrings_span_corruption", "validation")
  assert examples and set(examples[0]) == {"inputs", "targets"}


def test_the_mixture_draws_two_packages_to_a_summary():
  tasks.register()
  mixture = seqio.get_mixture_or_task("docstrings_multitask")
  rates = {task.name: mixture.get_rate(task) for task in mixture.tasks}
  assert rates == {"docstrings_summary": 1.0, "docstrings_package": 2.0}


@pytest.mark.slow
def test_the_installed_packages_are_a_corpus(capsys):
  start = time.process_time()
  directory = docstring_corpus.build()
  seconds = time.process_time() - start
  assert seconds < 40
  lines = (directory / "train.jsonl").read_text().splitlines()
  train = [json.loads(line) for line in lines]
  validation = docstring_corpus.read("validation")
  size = sum(len(e["text"]) for e in train + validation)
  assert size > 15e6 and len(train) > 20_000 and len(validation) > 1000
  packages = collections.Counter(e["package"] for e in validation)
  assert set(packages) == set(docstring_corpus.PACKAGES)
  assert min(packages.values()) > 50
  assert sum(1 for e in train if e["summary"]) > 10_000
  with capsys.disabled():
    print(f"\n{len(train)} + {len(validation)} docstrings, {size / 1e6:.1f} MB")
    print(f"in {seconds:.1f} s of CPU; held out: {dict(packages)}")
