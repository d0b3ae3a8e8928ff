"""Pre-training tasks: every corpus with every objective.

    c4, wikipedia      as TFDS prepares them, under $TFDS_DATA_DIR
    wikitext2          train.txt, valid.txt and test.txt of WikiText-2 raw, in
                       $T5X_LITE_WIKITEXT2 or $TFDS_DATA_DIR/wikitext-2
    docstrings         see docstrings.py

    span_corruption, iid_span_corruption     inputs and targets, for a seq2seq
    prefix_lm                                inputs and the targets that go on
    language_modeling                        targets alone

The task of a pair is `<corpus>_<objective>`, such as `c4_span_corruption`.
"""

import dataclasses
import functools
import os
import pathlib
import re
from collections.abc import Callable, Iterator, Sequence

import seqio

from t5x_lite import errors, vocabularies
from tasks import cache, features, preprocessors, records, sources


@dataclasses.dataclass(frozen=True)
class Objective:
  """How the examples of a pre-training task are made.

  Attributes:
    examples: the preprocessor after `tokenize_documents`.
    features: what it makes.
    end_documents: whether EOS ends documents; otherwise it ends examples.
  """

  examples: Callable
  features: tuple[str, ...] = ("inputs", "targets")
  end_documents: bool = False


OBJECTIVES = {
  "span_corruption": Objective(preprocessors.span_corruption),
  "iid_span_corruption": Objective(preprocessors.iid_span_corruption),
  "prefix_lm": Objective(preprocessors.prefix_lm, end_documents=True),
  "language_modeling": Objective(
    preprocessors.language_modeling, ("targets",), end_documents=True
  ),
}


def add(
  name: str,
  objective: str,
  source: seqio.DataSource,
  *,
  key: str = "text",
  vocabulary: vocabularies.Vocabulary | None = None,
  **options: object,
) -> seqio.Task:
  """Registers the task `name`, of documents under `key` in `source`.

  `options` go to the objective's preprocessor.
  """
  chosen = OBJECTIVES[objective]
  return seqio.TaskRegistry.add(
    name,
    source=source,
    preprocessors=[
      functools.partial(
        preprocessors.tokenize_documents,
        key=key,
        end_documents=chosen.end_documents,
      ),
      functools.partial(chosen.examples, **options),
    ],
    output_features=features.features(*chosen.features, vocabulary=vocabulary),
    metric_fns=[],
  )


def add_all(corpus: str, source: seqio.DataSource) -> None:
  """Registers a corpus with every objective."""
  for objective in OBJECTIVES:
    add(f"{corpus}_{objective}", objective, source)


_WIKITEXT2 = {"train": "train", "validation": "valid", "test": "test"}
_TITLE = re.compile(rb" = [^=].*[^=] = ?\r?\n")


def _wikitext2_files() -> dict[str, pathlib.Path]:
  named = os.environ.get("T5X_LITE_WIKITEXT2")
  directory = pathlib.Path(named or sources.data_dir() / "wikitext-2")
  files = {s: directory / f"{stem}.txt" for s, stem in _WIKITEXT2.items()}
  missing = [path.name for path in files.values() if not path.is_file()]
  if missing:
    raise errors.DataError(
      f"WikiText-2 is not in {directory}: {', '.join(missing)} missing; unpack "
      "wikitext-2-raw there as train.txt, valid.txt and test.txt, or set "
      "T5X_LITE_WIKITEXT2 to where it is"
    )
  return files


def prepare_wikitext2() -> pathlib.Path:
  """Returns the folder of WikiText-2 as records, one article each."""
  files = _wikitext2_files()
  stats = {split: path.stat() for split, path in files.items()}
  parts = {
    split: [str(files[split].resolve()), stat.st_size, stat.st_mtime_ns]
    for split, stat in stats.items()
  }

  def fill(directory: pathlib.Path) -> None:
    documents = (
      (split, {"text": article})
      for split, path in files.items()
      for article in articles(path)
    )
    records.write(directory, documents, tuple(files))

  return cache.folder("wikitext2", parts, fill)


def articles(path: pathlib.Path) -> Iterator[bytes]:
  """Yields the articles of a file: from a title, ` = Like this = `, on."""
  lines: list[bytes] = []
  with open(path, "rb") as stream:
    for line in stream:
      # Headings of sections have two signs on each side or more.
      after_blank = not lines or not lines[-1].strip()
      if after_blank and _TITLE.fullmatch(line):
        yield from _joined(lines)
        lines = []
      lines.append(line)
  yield from _joined(lines)


def _joined(lines: Sequence[bytes]) -> Iterator[bytes]:
  text = b"".join(lines).strip()
  if text:
    yield text


add_all(
  "c4",
  sources.Tfds(
    "c4/en", {"train": "train", "validation": "validation"}, ["text"]
  ),
)
# Wikipedia comes in one split, and under the date of its dump.
add_all(
  "wikipedia",
  sources.Tfds(
    "wikipedia/*.en",
    {"train": "train[1%:]", "validation": "train[:1%]"},
    ["text"],
  ),
)
add_all(
  "wikitext2",
  records.Source(prepare_wikitext2, tuple(_WIKITEXT2), ["text"], "WikiText-2"),
)
