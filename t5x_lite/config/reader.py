"""Gin files and flags read as statements, before any of them takes effect.

The grammar is gin's own (`gin.config_parser`); what is added is the place of
every statement.  Nothing that a file names is imported here.

A file is looked for in the working directory, then beside the file that
includes it, then among the files that come with t5x_lite (`gin_configs/`).
"""

import contextlib
import dataclasses
import difflib
import pathlib
import re
import tokenize
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from gin import config_parser

from t5x_lite import errors
from t5x_lite.config import statements

SHIPPED = pathlib.Path(__file__).resolve().parents[2] / "gin_configs"

# Words that look like a literal of another language; never taken as strings.
_NEARLY_LITERALS = {"true": "True", "false": "False", "none": "None"}
_NEARLY_LITERALS["null"] = "None"


@dataclasses.dataclass(frozen=True)
class Text:
  """A gin file that is not on disk, with a name for messages."""

  name: str
  text: str


def shipped_files() -> list[str]:
  """Names of the gin files that come with t5x_lite."""
  return sorted(
    p.relative_to(SHIPPED).as_posix() for p in SHIPPED.rglob("*.gin")
  )


def read(
  files: Iterable[str | Text], flags: Iterable[tuple[str, str]] = ()
) -> statements.Source:
  """Reads the files in order, then the flags: pairs of a name and a value.

  Raises:
    errors.ConfigError: a file that is missing or no gin, a name that its file
      does not import, a flag that cannot be read.
  """
  reader = _Reader()
  for file in files:
    if isinstance(file, Text):
      reader.text(file.text, file.name)
    else:
      reader.file(file)
  for name, text in flags:
    reader.flag(name, text)
  return reader.source


class _Syntax(config_parser.ParserDelegate):
  """Keeps references and macros as the text they are."""

  def configurable_reference(
    self, scoped_name: str, called: bool
  ) -> statements.Reference:
    *scopes, name = scoped_name.split("/")
    return statements.Reference(name, tuple(scopes), called)

  def macro(self, name: str) -> statements.Macro:
    return statements.Macro(name)


class _Reader:
  """Collects a `Source`."""

  def __init__(self):
    self.source = statements.Source()
    self._symbols: dict[str, str] = {}  # those of all files, for the flags
    self._open: list[pathlib.Path] = []

  def file(self, name: str, included: statements.Place | None = None) -> None:
    path = _find(name, self._open[-1].parent if self._open else None, included)
    if path in self._open:
      raise errors.ConfigError(f"{included}: {name!r} includes itself")
    shown, shipped = _show(path)
    try:
      text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exception:
      raise errors.ConfigError(f"cannot read {path}: {exception}") from None
    self._open.append(path)
    self.text(text, shown, shipped)
    self._open.pop()

  def text(self, text: str, shown: str, shipped: bool = False) -> None:
    lines = text.splitlines()
    symbols = {"gin": "gin"}
    with _located(shown):
      for statement in config_parser.ConfigParser(text, _Syntax()):
        line = statement.location.line_num
        place = statements.Place(shown, line, _comment(lines, line), shipped)
        self._statement(statement, place, symbols)

  def _statement(
    self, statement: Any, place: statements.Place, symbols: dict
  ) -> None:
    if isinstance(statement, config_parser.IncludeStatement):
      self.file(statement.filename, place)
    elif isinstance(statement, config_parser.ImportStatement):
      if statement.module == "__gin__.dynamic_registration":
        return  # all files are read as if they had this line
      symbol, module = statement.bound_name(), statement.module
      if symbol == "gin":
        raise errors.ConfigError(
          f"{place}: `gin` is taken; import it `as` else"
        )
      self.source.imports.append(
        statements.Import(module, statement.alias, place)
      )
      whole = statement.alias or statement.is_from
      symbols[symbol] = module if whole else symbol  # `import a.b` gives a
      self._symbols |= symbols
    elif isinstance(statement, config_parser.BindingStatement):
      self._bind(statement, place, lambda name: _dotted(name, symbols, place))

  def _bind(
    self, statement: Any, place: statements.Place, dotted: Callable[[str], str]
  ) -> None:
    scope = tuple(filter(None, statement.scope.split("/")))

    def name(leaf: Any) -> Any:
      if not isinstance(leaf, statements.Reference):
        return leaf
      target = dotted(leaf.target)
      self.source.named.setdefault(target, place)
      return dataclasses.replace(leaf, target=target)

    value = statements.replace(statement.value, name)
    if not statement.arg_name:
      macro = "/".join((*scope, statement.selector))
      self.source.bindings.append(statements.Binding("", macro, value, place))
      return
    target = dotted(statement.selector)
    self.source.named.setdefault(target, place)
    self.source.bindings.append(
      statements.Binding(
        target, statement.arg_name, value, place, scope, statement.selector
      )
    )

  def flag(self, name: str, text: str) -> None:
    place = statements.Place(f"--gin.{name}={text}")
    with _located(str(place), is_flag=True):
      try:
        statement = _statement(name, text)
      except (SyntaxError, tokenize.TokenError):
        if not _is_word(text):
          raise
        statement = _statement(name, repr(text))
    self._bind(statement, place, lambda given: self._dotted_flag(given, place))

  def _dotted_flag(self, name: str, place: statements.Place) -> str:
    """A flag may name anything that the files name, by its last parts."""
    if name.split(".")[0] in self._symbols:
      return _dotted(name, self._symbols, place)
    known = [t for t in self.source.named if f".{t}".endswith(f".{name}")]
    if len(known) == 1:
      return known[0]
    if known:
      which = " or ".join(known)
      raise errors.ConfigError(f"{place}: {name!r} may be {which}; say which")
    near = errors.suggest(name, self._short_names(name))
    near = near or "; a flag can name what the files name or import"
    raise errors.ConfigError(f"{place}: no gin file names {name!r}{near}")

  def _short_names(self, name: str) -> list[str]:
    parts = [known.split(".") for known in self.source.named]
    return [".".join(p[-name.count(".") - 1 :]) for p in parts]


def _statement(name: str, text: str) -> Any:
  if not text.strip():
    raise SyntaxError("the value is missing")
  parser = config_parser.ConfigParser(f"{name} = {text}\n", _Syntax())
  statement, *more = parser
  if more:
    raise SyntaxError("more than one value")
  return statement


def _is_word(text: str) -> bool:
  """True of text that can only be meant as a string, such as a path."""
  text = text.strip()
  odd = set("()[]{}'\"\n") & set(text) or text[:1] in "@%"
  return bool(text) and not odd and text.lower() not in _NEARLY_LITERALS


def _dotted(name: str, symbols: dict[str, str], place: statements.Place) -> str:
  """The full path of a name: `layers.Norm` -> `t5x_lite.layers.Norm`."""
  first, *rest = name.split(".")
  if first in symbols:
    return ".".join((symbols[first], *rest))
  raise errors.ConfigError(
    f"{place}: {first!r} (of {name}) is not imported in this file; each gin "
    f"file imports the modules it names{errors.suggest(first, symbols)}"
  )


@contextlib.contextmanager
def _located(shown: str, is_flag: bool = False) -> Iterator[None]:
  """Turns what the tokenizer and the parser raise into a `ConfigError`."""
  try:
    yield
  except (tokenize.TokenError, SyntaxError) as exception:
    if isinstance(exception, SyntaxError):
      message, line, text = exception.msg, exception.lineno, exception.text
    else:
      (message, (line, _)), text = exception.args, None
    message = _explain(message)
    if not is_flag:
      shown = f"{shown}:{line}"
      message += f"\n    {text.strip()}" if text else ""
    raise errors.ConfigError(f"{shown}: {message}") from None


def _explain(message: str) -> str:
  """Says what gin's parser means when it meets a bare word."""
  token = re.search(r"Failed to parse token '(.+)'", message, re.DOTALL)
  if token is None:
    return message.strip()
  word = token[1]
  if word.lower() in _NEARLY_LITERALS:
    near = _NEARLY_LITERALS[word.lower()]
    return f"{word} is no value; did you mean {near}? As a text it is '{word}'"
  return (
    f"{word} is no value: a string needs quotes ('{word}'), a macro a percent "
    f"sign (%{word}), a function or class an at sign (@module.{word})"
  )


def _comment(lines: list[str], number: int) -> str:
  """The comment on a line, or else the block of comments just above it."""
  code, hash_sign, trailing = lines[number - 1].rpartition("  # ")
  if hash_sign and code.strip():
    return trailing.strip()
  above: list[str] = []
  for line in reversed(lines[: number - 1]):
    if not line.lstrip().startswith("#"):
      break
    above.insert(0, line.strip().lstrip("#").strip())
  return " ".join(above).strip()


def _show(path: pathlib.Path) -> tuple[str, bool]:
  """The path as users know it, and whether it comes with t5x_lite."""
  if path.is_relative_to(SHIPPED):
    return f"gin_configs/{path.relative_to(SHIPPED).as_posix()}", True
  here = pathlib.Path.cwd()
  return str(
    path.relative_to(here) if path.is_relative_to(here) else path
  ), False


def _find(
  name: str, beside: pathlib.Path | None, included: statements.Place | None
) -> pathlib.Path:
  places = [pathlib.Path.cwd(), *([beside] if beside else []), SHIPPED]
  for directory in places:
    path = directory / pathlib.Path(name).expanduser()
    if path.is_file():
      return path.resolve()
  known = shipped_files()
  same = [k for k in known if k.endswith("/" + name.lstrip("./"))][:3]
  near = same or difflib.get_close_matches(name, known, n=3, cutoff=0.6)
  hint = "; did you mean " + " or ".join(near) + "?" if near else ""
  start = f"{included}: " if included else ""
  looked = " and in ".join(dict.fromkeys(str(p) for p in places))
  raise errors.ConfigError(
    f"{start}there is no gin file {name!r}{hint} (looked in {looked})"
  )
