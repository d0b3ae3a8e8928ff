"""The English docstrings of installed packages: a corpus without a download.

NumPy, SciPy, JAX, TensorFlow and the standard library document themselves in
about 19 MB of prose.  The sources are parsed, never imported.  The corpus is
made once for the versions installed, as JSON lines of train and validation:

    {"text": the whole docstring, "summary": its first sentence or paragraph,
     "body": the rest, "package": "numpy", "module": "numpy.linalg._linalg",
     "name": "norm"}

Whole modules are held out for validation, by a hash of their names; of the
held-out docstrings those that also begin a training one are dropped.  Where a
docstring has no summary and body these are empty.
"""

import ast
import hashlib
import importlib.metadata
import importlib.util
import inspect
import json
import pathlib
import platform
import re
import sysconfig
import warnings
from collections.abc import Iterable, Iterator

from t5x_lite import errors
from tasks import cache

# Raised when the same sources give another corpus.
_VERSION = 1

# "python" is the standard library.
PACKAGES = ("numpy", "scipy", "jax", "tensorflow", "python")
SPLITS = ("train", "validation")

# One module in so many is held out.
_HELD_OUT = 12
_SKIPPED = {"__pycache__", "site-packages", "test", "tests", "idlelib"}
_SKIPPED |= {"lib2to3", "_testing", "ensurepip"}

# Docstrings and summaries outside these bounds say little or are tables.
_MIN_WORDS = 5
_MIN_BODY_WORDS = 8
_SUMMARY_WORDS = (3, 40)
_NEAR = 120  # Two texts that agree in so many letters are the same.

Example = dict[str, str]


def build() -> pathlib.Path:
  """Returns the folder with train.jsonl and validation.jsonl, made if need be.

  Raises:
    errors.DataError: none of the packages is installed with its sources.
  """
  versions = _versions()
  parts = {"versions": versions, "extractor": _VERSION}
  return cache.folder("docstrings", parts, _fill)


def _versions() -> dict[str, str]:
  found = {}
  for package in PACKAGES:
    if package == "python":
      found[package] = platform.python_version()
      continue
    try:
      found[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      continue
  return found


def _fill(directory: pathlib.Path) -> None:
  examples = (
    example
    for package in _versions()
    for path, module in _sources(package)
    for example in _extract(package, path, module)
  )
  counts = _write(directory, _deduplicated(examples))
  if not counts["train"]:
    raise errors.DataError(
      "no docstrings found: install the packages with their Python sources"
    )


def _sources(package: str) -> Iterator[tuple[pathlib.Path, str]]:
  """Yields the Python files of a package and the names of their modules."""
  if package == "python":
    root, prefix = pathlib.Path(sysconfig.get_paths()["stdlib"]), ""
  else:
    # Finds a top-level package without importing it.
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
      return
    root = pathlib.Path(spec.submodule_search_locations[0])
    prefix = f"{package}."
  for path in sorted(root.rglob("*.py")):
    parts = path.relative_to(root).with_suffix("").parts
    if _SKIPPED.isdisjoint(parts):
      module = prefix + ".".join(parts)
      yield path, module.removesuffix(".__init__")


def _extract(package: str, path: pathlib.Path, module: str) -> list[Example]:
  """Returns the docstrings of one file, cleaned."""
  data = path.read_bytes()
  if b'"""' not in data and b"'''" not in data:
    return []
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")  # Of the sources' own invalid escapes.
      tree = ast.parse(data)
  except (SyntaxError, ValueError):
    return []  # A template, or written for another version of Python.
  examples = []
  for name, docstring in _docstrings(tree, b"newdoc" in data):
    text = clean(docstring)
    if len(text.split()) >= _MIN_WORDS and _english(text):
      summary, body = split(text)
      examples.append(
        {
          "text": text,
          "summary": summary,
          "body": body,
          "package": package,
          "module": module,
          "name": name,
        }
      )
  return examples


def _docstrings(tree: ast.Module, calls: bool) -> Iterator[tuple[str, str]]:
  """Yields names and docstrings; with `calls` those of `add_newdoc` too."""
  documented = ast.Module | ast.ClassDef | ast.FunctionDef
  nodes: list[ast.AST] = [tree]
  while nodes:
    node = nodes.pop()
    # Expressions, the bulk of a tree, hold no docstrings.
    for field in ("body", "orelse", "handlers", "finalbody"):
      nodes += getattr(node, field, ())
    if isinstance(node, documented | ast.AsyncFunctionDef):
      docstring = ast.get_docstring(node, clean=False)
      if docstring:
        yield getattr(node, "name", ""), docstring
    elif calls and isinstance(node, ast.Expr):
      yield from _newdoc(node.value)


def _newdoc(call: ast.expr) -> Iterator[tuple[str, str]]:
  """Yields what `add_newdoc(place, name, docstring)` adds, if it is that."""
  if not isinstance(call, ast.Call):
    return
  called = getattr(call.func, "id", getattr(call.func, "attr", ""))
  if "newdoc" not in called:
    return
  texts = [
    part.value
    for argument in call.args
    for part in ast.walk(argument)
    if isinstance(part, ast.Constant) and isinstance(part.value, str)
  ]
  if len(texts) > 1:
    yield texts[-2], texts[-1]


def _english(text: str) -> bool:
  """Returns whether a text is written in Latin letters."""
  return sum(map(str.isascii, text)) >= 0.98 * len(text)


def clean(docstring: str) -> str:
  """Returns a docstring without indentation and reStructuredText's marks."""
  text = inspect.cleandoc(docstring.replace("\r", ""))
  text = re.sub(r":[\w:+-]+:`~?([^`<]+?)(\s*<[^`]*>)?`", r"`\1`", text)
  text = re.sub(r"^\s*\.\. [\w-]+::.*$", "", text, flags=re.MULTILINE)
  text = re.sub(r"^\s*[-=~^*#+]{3,}\s*$\n?", "", text, flags=re.MULTILINE)
  text = text.replace("``", "`")
  text = re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE)
  return re.sub(r"\n{3,}", "\n\n", text).strip()


def split(text: str) -> tuple[str, str]:
  """Returns (summary, body), or two empty texts.

  The summary is the first paragraph if another follows, else the first line
  if it ends a sentence.
  """
  head, _, body = text.partition("\n\n")
  if not body:
    head, _, body = text.partition("\n")
    if not head.endswith("."):
      return "", ""
  summary = " ".join(head.split())
  least, most = _SUMMARY_WORDS
  letters = sum(c.isalpha() or c.isspace() for c in summary)
  if (
    not least <= len(summary.split()) <= most
    or len(body.split()) < _MIN_BODY_WORDS
    or letters < 0.8 * len(summary)
    or not summary[0].isalpha()
  ):
    return "", ""
  return summary, body.strip()


def _deduplicated(examples: Iterable[Example]) -> Iterator[Example]:
  """Yields the first example of each text."""
  seen = set()
  for example in examples:
    key = _letters(example["text"])
    if key not in seen:
      seen.add(key)
      yield example


def _letters(text: str) -> str:
  return re.sub(r"[\W\d_]+", "", text).lower()


def held_out(module: str) -> bool:
  """Returns whether the docstrings of a module are for validation."""
  digest = hashlib.sha256(module.encode()).digest()
  return int.from_bytes(digest[:8], "big") % _HELD_OUT == 0


def _write(
  directory: pathlib.Path, examples: Iterable[Example]
) -> dict[str, int]:
  """Writes both splits; drops of the second what begins like the first."""
  parts: dict[str, list[Example]] = {split: [] for split in SPLITS}
  for example in examples:
    parts[SPLITS[held_out(example["module"])]].append(example)
  known = {_letters(e["text"])[:_NEAR] for e in parts["train"]}
  parts["validation"] = [
    e for e in parts["validation"] if _letters(e["text"])[:_NEAR] not in known
  ]
  for name, chosen in parts.items():
    # A fixed shuffle: a small part of a split shows all packages.
    chosen.sort(key=lambda e: hashlib.sha256(e["text"].encode()).digest())
    with open(directory / f"{name}.jsonl", "w", encoding="utf-8") as stream:
      stream.writelines(json.dumps(e) + "\n" for e in chosen)
  return {name: len(chosen) for name, chosen in parts.items()}


def read(part: str) -> list[Example]:
  """Returns the examples of a split, "train" or "validation"."""
  with open(build() / f"{part}.jsonl", encoding="utf-8") as stream:
    return [json.loads(line) for line in stream]
