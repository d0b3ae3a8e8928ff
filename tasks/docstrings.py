"""Tasks on the docstrings of installed packages, with nothing to download.

    docstrings_span_corruption   and the other objectives of pretraining.py
    docstrings_summary           the body of a docstring -> its summary line
    docstrings_package           a docstring -> the package it is from
    docstrings_multitask         both, two packages to a summary: these examples
                                 have few tokens to learn from

Train and validation hold different modules; see docstring_corpus.py.  Metrics
stand next to what needs no model: the first sentence of the body, and the
commonest package.
"""

import pathlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import seqio

from tasks import (
  cache,
  docstring_corpus,
  features,
  metrics,
  preprocessors,
  pretraining,
  records,
)

SUMMARY_PREFIX = "summarize docstring: "
PACKAGE_PREFIX = "package: "

# Raised when the same docstrings give other examples.
_VERSION = 1
# What reads further into a docstring than any model here.
_MAX_CHARACTERS = 6000
# Fewer words could be anyone's.
_MIN_PACKAGE_WORDS = 10

# The names that would give the package away, wherever they stand, and those
# that only do as a word of their own.
_NAMES = r"(?:numpy|scipy|tensorflow|jax|c?python|keras)"
_ALIASES = r"(?<![a-z])(?:np|sp|tf|jnp|jsp|lax|py)(?![a-z])"
_NAME = f"(?:{_NAMES}|{_ALIASES})"
_GIVEAWAY = re.compile(rf"{_NAME}(?:[._]{_NAME})*", re.IGNORECASE)

Example = docstring_corpus.Example


def mask(text: str) -> str:
  """Returns the text with "_" for the names and aliases of packages.

  >>> mask("jax.numpy.sum: see `np.sum` and tf_export")
  '_.sum: see `_.sum` and __export'
  """
  return _GIVEAWAY.sub("_", text)


def lead(text: str) -> str:
  """Returns the first sentence of a text."""
  paragraph = " ".join(text.split("\n\n")[0].split())
  return re.split(r"(?<=[.!?]) ", paragraph, maxsplit=1)[0]


def _prose(example: Example) -> Mapping[str, str]:
  return {"text": example["text"]}


def _summary(example: Example) -> Mapping[str, str] | None:
  if not example["summary"]:
    return None
  body = example["body"][:_MAX_CHARACTERS]
  return {"inputs": SUMMARY_PREFIX + body, "targets": example["summary"]}


def _package(example: Example) -> Mapping[str, str] | None:
  if len(example["text"].split()) < _MIN_PACKAGE_WORDS:
    return None
  text = mask(example["text"][:_MAX_CHARACTERS])
  return {"inputs": PACKAGE_PREFIX + text, "targets": example["package"]}


def _source(
  name: str,
  make: Callable[[Example], Mapping[str, str] | None],
  keys: tuple[str, ...] = ("inputs", "targets"),
) -> records.Source:
  """Returns the source of what `make` makes of docstrings, None aside."""

  def examples() -> Iterator[tuple[str, records.Document]]:
    for split in docstring_corpus.SPLITS:
      for example in docstring_corpus.read(split):
        made = make(example)
        if made is not None:
          yield split, {key: text.encode() for key, text in made.items()}

  def prepare() -> pathlib.Path:
    corpus = docstring_corpus.build().name
    return cache.folder(
      f"docstrings-{name}",
      [corpus, _VERSION],
      lambda folder: records.write(folder, examples(), docstring_corpus.SPLITS),
    )

  return records.Source(
    prepare, docstring_corpus.SPLITS, keys, "the docstring corpus"
  )


def summary_and_lead(
  text: str, *, example: Mapping[str, Any], is_target: bool
) -> str | dict[str, str]:
  """Postprocesses summaries: targets carry the lead that they must beat."""
  if not is_target:
    return text.strip()
  inputs = example["inputs_pretokenized"]
  body = inputs.decode() if isinstance(inputs, bytes) else str(inputs)
  return {"text": text, "lead": lead(body.removeprefix(SUMMARY_PREFIX))}


pretraining.add_all("docstrings", _source("prose", _prose, ("text",)))

seqio.TaskRegistry.add(
  "docstrings_summary",
  source=_source("summary", _summary),
  preprocessors=[preprocessors.tokenize_pairs],
  output_features=features.features("inputs", "targets"),
  postprocess_fn=summary_and_lead,
  metric_fns=[metrics.rouge],
)

seqio.TaskRegistry.add(
  "docstrings_package",
  source=_source("package", _package),
  preprocessors=[preprocessors.tokenize_pairs],
  output_features=features.features("inputs", "targets"),
  metric_fns=[metrics.accuracy],
)

seqio.MixtureRegistry.add(
  "docstrings_multitask",
  [("docstrings_summary", 1.0), ("docstrings_package", 2.0)],
)
