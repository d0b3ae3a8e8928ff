"""Trains a SentencePiece vocabulary on the text of tasks (the `vocab` command).

A unigram model (Kudo, 2018) with T5's special ids: 0 padding, 1 end of
sequence, 2 unknown.  Sentinels are no part of it: they are added where it is
used, by `vocabularies.SentencePiece(path, extra_ids=100)`.

The same text and settings give the same file, whatever the machine.
"""

import collections
import hashlib
import io
import itertools
import json
import os
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from t5x_lite import errors
from t5x_lite.pipelines import providers

MODEL = "sentencepiece.model"
RECORD = "vocab.json"

# SentencePiece sums over threads: their number is part of the result.
_THREADS = 4
# Longer lines SentencePiece leaves out.
_MAX_LINE = 4000
_HELD_OUT_BYTES = 1_000_000
_SENTINELS = 100
# The names of text in raw examples, in this order.
_KEYS = ("text", "inputs", "targets")


def train_vocab(
  *,
  workdir: str | os.PathLike[str],
  mixture: Any = "docstrings_span_corruption",
  size: int = 8000,
  split: str = "train",
  held_out_split: str = "validation",
  max_bytes: int = 10_000_000,
  character_coverage: float = 0.9995,
  byte_fallback: bool = False,
  seed: int = 0,
  task_modules: Sequence[str] = ("tasks",),
  dry_run: bool = False,
) -> pathlib.Path:
  """Trains a vocabulary and writes it to `workdir`.

  Args:
    workdir: where sentencepiece.model and vocab.json, a record of what it was
      trained on, are written.
    mixture: task or mixture whose raw text is read, as in `Dataset`; of a
      mixture each task gives as much text as its rate says.
    size: number of pieces, the three special ones included.
    split: of the text to train on.
    held_out_split: of the text to judge by; without it, a twentieth of the
      training text.
    max_bytes: of text that is trained on.
    character_coverage: share of the characters that must have a piece.
    byte_fallback: whether other characters are spelt as bytes instead of
      becoming unknown; takes 256 pieces.
    seed: of the choice of text.
    task_modules: modules that register tasks.
    dry_run: whether only to show what would be done.

  Returns:
    The path of the model.

  Raises:
    errors.ConfigError: `workdir` holds another vocabulary, or the text is too
      small for so many pieces.
    errors.DataError: there is no text.
  """
  _check(size, max_bytes, character_coverage, byte_fallback)
  path = pathlib.Path(workdir).expanduser() / MODEL
  provider = providers.find(mixture, task_modules=task_modules)
  lines, held_out = _sample(provider, split, held_out_split, max_bytes, seed)
  settings = {
    "mixture": provider.name,
    "size": size,
    "split": split,
    "max_bytes": max_bytes,
    "character_coverage": character_coverage,
    "byte_fallback": byte_fallback,
    "seed": seed,
    "text_sha256": _digest("\n".join(lines).encode()),
  }
  model = _existing(path, settings)
  megabytes = sum(len(line.encode()) + 1 for line in lines) / 1e6
  print(
    f"vocabulary of {size} pieces from {megabytes:.1f} MB of {provider.name!r} "
    f"(split {split!r}): {path}"
  )
  if dry_run:
    return path
  if model is None:
    model = _train(lines, settings)
    _write(path, model, settings)
  print(
    f"{summary(model, held_out)}\n"
    f"use it by SentencePiece(path, extra_ids={_SENTINELS}): "
    f"{size + _SENTINELS} ids with the sentinels"
  )
  return path


def _check(
  size: int, max_bytes: int, coverage: float, byte_fallback: bool
) -> None:
  least = 300 if byte_fallback else 30
  if size < least:
    raise errors.ConfigError(f"vocabulary size {size} is below {least}")
  if max_bytes < 1:
    raise errors.ConfigError(f"max_bytes {max_bytes} must be positive")
  if not 0.5 < coverage <= 1.0:
    raise errors.ConfigError(
      f"character_coverage {coverage} must be above 0.5 and at most 1.0"
    )


def _sample(
  provider: "providers.Provider",
  split: str,
  held_out_split: str,
  max_bytes: int,
  seed: int,
) -> tuple[list[str], list[str]]:
  """Returns lines to train on, and lines to judge the result by."""
  tasks = providers.tasks(provider)
  rates = providers.rates(provider)
  train: list[str] = []
  held_out: list[str] = []
  for task in tasks:
    if split not in task.splits:
      raise errors.ConfigError(
        f"task {task.name!r} has no split {split!r}"
        f"{errors.suggest(split, task.splits)}; it has {sorted(task.splits)}"
      )
    share = rates[task.name]
    lines = list(_lines(task, split, int(share * max_bytes), seed))
    budget = int(share * _HELD_OUT_BYTES)
    if held_out_split != split and held_out_split in task.splits:
      held_out += _lines(task, held_out_split, budget, seed)
    else:
      held_out += lines[::20]
      lines = [line for i, line in enumerate(lines) if i % 20]
    train += lines
  if not train:
    raise errors.DataError(
      f"{provider.name!r} has no text in its split {split!r}"
    )
  return train, held_out


def _lines(task: Any, split: str, limit: int, seed: int) -> Iterator[str]:
  """Yields lines of the raw texts of a task, about `limit` bytes of them."""
  dataset = task.source.get_dataset(split=split, shuffle=True, seed=seed)
  spec = dataset.element_spec
  texts = [
    key
    for key, value in spec.items()
    if value.dtype.name == "string" and value.shape.rank == 0
  ]
  keys = [key for key in _KEYS if key in texts] or texts
  if not keys:
    raise errors.DataError(
      f"task {task.name!r} has no text before it is tokenized, only "
      f"{sorted(spec)}"
    )
  used = 0
  for example in dataset.as_numpy_iterator():
    for key in keys:
      for line in example[key].decode("utf-8", "replace").splitlines():
        line = line.strip()
        while line and used < limit:
          yield line[:_MAX_LINE]
          used += len(line[:_MAX_LINE].encode()) + 1
          line = line[_MAX_LINE:]
    if used >= limit:
      return


def _train(lines: Sequence[str], settings: Mapping[str, Any]) -> bytes:
  import sentencepiece

  model = io.BytesIO()
  try:
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(lines),
      model_writer=model,
      model_type="unigram",
      vocab_size=settings["size"],
      character_coverage=settings["character_coverage"],
      byte_fallback=settings["byte_fallback"],
      pad_id=0,
      eos_id=1,
      unk_id=2,
      bos_id=-1,
      num_threads=_THREADS,
      max_sentence_length=4 * _MAX_LINE + 1,
      minloglevel=2,
    )
  except RuntimeError as error:
    raise errors.ConfigError(_reason(error, settings["size"])) from error
  return model.getvalue()


def _reason(error: RuntimeError, size: int) -> str:
  largest = re.search(r"value <= (\d+)", str(error))
  if largest:
    return (
      f"the text has not enough words for a vocabulary of {size} pieces: "
      f"use more text, or a size of {largest[1]} or less"
    )
  least = re.search(r"smaller than required_chars. (\d+) vs (\d+)", str(error))
  if least:
    return (
      f"the text has too many characters for {size} pieces: use a size well "
      f"above {least[2]}, a lower character_coverage, or byte_fallback"
    )
  return f"SentencePiece cannot train this vocabulary: {error}"


def _existing(path: pathlib.Path, settings: Mapping[str, Any]) -> bytes | None:
  """Returns the model at `path` if it was trained with these settings.

  Raises:
    errors.ConfigError: it was trained with others, or by something else.
  """
  if not path.exists():
    return None
  record = path.with_name(RECORD)
  data = path.read_bytes()
  found = json.loads(record.read_text()) if record.exists() else {}
  if found.get("sha256") != _digest(data):
    raise errors.ConfigError(
      f"{path} is there already, and {RECORD} does not say what it was trained "
      "on: choose another workdir, or remove it"
    )
  differences = [
    f"  {key}: {found.get(key)!r} there, {settings.get(key)!r} asked for"
    for key in sorted(settings.keys() | found.keys() - {"sha256"})
    if found.get(key) != settings.get(key)
  ]
  if differences:
    raise errors.ConfigError(
      f"{path} was trained with other settings:\n"
      + "\n".join(differences)
      + "\nchoose another workdir, or remove it"
    )
  return data


def _write(
  path: pathlib.Path, model: bytes, settings: Mapping[str, Any]
) -> None:
  """Writes the record, then the model, each at once or not at all."""
  record = dict(settings) | {"sha256": _digest(model)}
  text = json.dumps(record, indent=2) + "\n"
  path.parent.mkdir(parents=True, exist_ok=True)
  for target, data in ((path.with_name(RECORD), text.encode()), (path, model)):
    part = target.with_name(f".{target.name}.{os.getpid()}")
    try:
      part.write_bytes(data)
      part.replace(target)
    finally:
      part.unlink(missing_ok=True)


def _digest(data: bytes) -> str:
  return hashlib.sha256(data).hexdigest()


def summary(model: bytes, lines: Sequence[str]) -> str:
  """Returns how well a model fits text: its length in tokens, and coverage."""
  import sentencepiece

  processor = sentencepiece.SentencePieceProcessor(model_proto=model)
  ids = processor.encode(list(lines))
  words = sum(len(line.split()) for line in lines)
  size = sum(len(line.encode()) for line in lines)
  counts = collections.Counter(itertools.chain.from_iterable(ids))
  tokens = sum(counts.values())
  unknown = counts[processor.unk_id()]
  return (
    f"on held-out text {tokens / max(words, 1):.2f} tokens per word, "
    f"{size / max(tokens, 1):.2f} bytes per token, "
    f"{100 * (1 - unknown / max(tokens, 1)):.3f} % of tokens known"
  )
