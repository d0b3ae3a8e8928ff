r"""Templates of instructions: plain data, one TOML file a collection.

    cluster = "nli"
    about = "Whether a premise entails a hypothesis."

    [[templates]]
    inputs = "{premise}\n\nDoes it follow that \"{hypothesis}\"?\n{options}"
    targets = "{answer}"            # what it is unless said otherwise
    answers = { yes = "it does", no = "it does not" }     # other words for them

    [[inverted]]                    # from the answer to the rest
    inputs = "Write a sentence and one that it does not entail."
    targets = "{premise} {hypothesis}"

    [[chain_of_thought]]            # for collections with a rationale
    inputs = "{question}\nThink step by step."
    targets = "{rationale} The answer is {answer}."

    [exemplars]                     # how prompts with exemplars are laid out
    inputs_prefix = "Q: "
    targets_prefix = "A: "
    separator = "\n\n"

A name in braces stands for a field of the collection; {{ and }} are braces.
{options}, in a line of its own, stands for the list of answers to choose from;
where it is not shown, the line goes.  Where it is shown, templates without one
have it at their end.

Every mistake is told by file, number of the template and field.  This module
is light: templates are checked before TensorFlow loads.
"""

import dataclasses
import pathlib
import tomllib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NoReturn

from t5x_lite import errors
from tasks.instructions.template import (
  ANSWER,
  OPTIONS,
  RATIONALE,
  Layout,
  Template,
  Templates,
  Text,
  parse,
)

FOLDER = pathlib.Path(__file__).with_name("templates")
_KINDS = ("templates", "inverted", "chain_of_thought")
_TEXTS = ("cluster", "about")
_KEYS = (*_TEXTS, *_KINDS, "exemplars")


def load(
  path: pathlib.Path,
  *,
  cluster: str,
  fields: Sequence[str],
  options: Sequence[str] = (),
  own_options: bool = False,
) -> Templates:
  """Reads the templates of a collection.

  Args:
    path: of the file.
    cluster: that the collection is of.
    fields: that it has.
    options: the answers to choose from, where all examples have the same.
    own_options: whether each example has its own.

  Raises:
    errors.DataError: there is no such file, or it cannot be used.
  """
  file = _File(path, tuple(fields), tuple(options), own_options)
  content = file.read()
  file.check_keys(content, _KEYS, "")
  for key in _TEXTS:
    if not isinstance(content.get(key), str):
      file.refuse(f"{key} is missing, or not a text: give {key} = '...'")
  if content["cluster"] != cluster:
    file.refuse(
      f"cluster is {content['cluster']!r}, but the collection is in {cluster!r}"
    )
  if not content.get("templates"):
    file.refuse("there is no [[templates]]: give one or more")
  found = {kind: file.templates(kind, content.get(kind, [])) for kind in _KINDS}
  layout = file.layout(content.get("exemplars", {}))
  return Templates(
    **found, exemplars=layout, cluster=cluster, about=content["about"]
  )


@dataclasses.dataclass(frozen=True)
class _File:
  """A file that is being read: knows how its mistakes are told."""

  path: pathlib.Path
  fields: tuple[str, ...]
  options: tuple[str, ...]
  own_options: bool

  def refuse(self, reason: str) -> NoReturn:
    raise errors.DataError(f"{self.path}: {reason}")

  def read(self) -> dict[str, Any]:
    try:
      with self.path.open("rb") as stream:
        return tomllib.load(stream)
    except FileNotFoundError as error:
      raise errors.DataError(
        f"there are no templates in {self.path}: write them, or leave the "
        "collection out"
      ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
      raise errors.DataError(f"{self.path} is not TOML: {error}") from error

  def check_keys(
    self, table: Mapping[str, Any], known: Collection[str], where: str
  ) -> None:
    for key in table:
      if key not in known:
        near = errors.suggest(key, known) or f"; known are {', '.join(known)}"
        self.refuse(f"{where}unknown key {key!r}{near}")

  def layout(self, table: Mapping[str, Any]) -> Layout:
    known = [field.name for field in dataclasses.fields(Layout)]
    self.check_keys(table, known, "[exemplars]: ")
    for key, value in table.items():
      if not isinstance(value, str):
        self.refuse(f"[exemplars]: {key} is {value!r}, not a text")
    return Layout(**table)

  def templates(self, kind: str, tables: Any) -> tuple[Template, ...]:
    if not isinstance(tables, list):
      self.refuse(f"{kind} must be a list of tables: write [[{kind}]]")
    return tuple(
      self._template(kind, table, f"[[{kind}]] {number}: ")
      for number, table in enumerate(tables, start=1)
    )

  def _template(
    self, kind: str, table: Mapping[str, Any], where: str
  ) -> Template:
    self.check_keys(table, ("inputs", "targets", "answers"), where)
    if kind == "templates":
      table = {"targets": f"{{{ANSWER}}}", **table}
    texts: dict[str, Text] = {}
    for key in ("inputs", "targets"):
      if not isinstance(table.get(key), str) or not table[key].strip():
        self.refuse(f"{where}{key} is missing, empty or not a text")
      texts[key] = self._parse(table[key], f"{where}{key}: ")
    wordings = self._wordings(table.get("answers"), where)
    made = Template(**texts, wordings=wordings)
    self._check_options(made, where)
    if kind != "inverted":
      self._check_answer(kind, made, where)
    return made

  def _wordings(self, answers: Any, where: str) -> tuple[str, ...]:
    """Returns what a template calls the options, () if it has no `answers`."""
    where = f"{where}answers: "
    if answers is None:
      return ()
    if not self.options:
      self.refuse(f"{where}only options that all examples share have wordings")
    if not isinstance(answers, dict):
      self.refuse(f"{where}write {{ {self.options[0]} = '...', ... }}")
    self.check_keys(answers, self.options, where)
    for option in self.options:
      wording = answers.get(option)
      if not isinstance(wording, str) or not wording.strip():
        self.refuse(f"{where}{option!r} is missing, empty or not a text")
    wordings = tuple(answers[option].strip() for option in self.options)
    if len(set(wordings)) < len(wordings):
      self.refuse(f"{where}two options are called the same: {wordings}")
    return wordings

  def _parse(self, text: str, where: str) -> Text:
    listed = self.options or self.own_options
    known = (*self.fields, *([OPTIONS] if listed else []))
    try:
      return parse(text, known)
    except ValueError as error:
      raise errors.DataError(f"{self.path}: {where}{error}") from error

  def _check_options(self, made: Template, where: str) -> None:
    if OPTIONS in made.targets.fields:
      self.refuse(f"{where}targets: {{options}} belongs into inputs")
    count = made.inputs.fields.count(OPTIONS)
    if count > 1:
      self.refuse(f"{where}inputs: {{options}} stands there {count} times")
    if not count:
      return
    at = [field for _, field in made.inputs.pieces].index(OPTIONS)
    before, after = made.inputs.around(OPTIONS)
    first = not at and not before
    last = at == len(made.inputs.pieces) - 1
    if not (first or before.endswith("\n")) or not (
      last or after.startswith("\n")
    ):
      self.refuse(
        f"{where}inputs: {{options}} needs a line of its own, for it is left "
        "out where no options are shown"
      )

  def _check_answer(self, kind: str, made: Template, where: str) -> None:
    for field in (ANSWER, RATIONALE):
      if field in made.inputs.fields:
        self.refuse(f"{where}inputs: {{{field}}} gives the answer away")
    chain = kind == "chain_of_thought"
    for field in [RATIONALE, ANSWER] if chain else [ANSWER]:
      if made.targets.fields.count(field) != 1:
        self.refuse(f"{where}targets: {{{field}}} must stand there once")
    at = made.targets.fields.index
    if chain and at(RATIONALE) > at(ANSWER):
      self.refuse(f"{where}targets: {{rationale}} comes before {{answer}}")
