"""Templates: texts with fields, what is asked by them and what is answered."""

import dataclasses
import string
from collections.abc import Collection, Mapping

from t5x_lite import errors

OPTIONS = "options"
ANSWER = "answer"
RATIONALE = "rationale"
# Stands for the answer where options are listed by letters; not for files.
LETTER = "letter"

_BRACES = "a brace that is meant is doubled, {{ or }}"


@dataclasses.dataclass(frozen=True)
class Text:
  """A text with fields.

  Attributes:
    pieces: (literal, the field that follows it or None).
  """

  pieces: tuple[tuple[str, str | None], ...]

  @property
  def fields(self) -> tuple[str, ...]:
    """The fields in it, in order."""
    return tuple(field for _, field in self.pieces if field is not None)

  def fill(self, values: Mapping[str, str]) -> str:
    """Returns the text with values for its fields."""
    return "".join(
      literal + ("" if field is None else values[field])
      for literal, field in self.pieces
    )

  def without_options(self) -> "Text":
    """Returns the text without the line of {options}."""
    if OPTIONS not in self.fields:
      return self
    at = [field for _, field in self.pieces].index(OPTIONS)
    before = self.pieces[at][0].rstrip()
    after = self.pieces[at + 1 :]
    if after and not at and not before:
      after = ((after[0][0].lstrip(), after[0][1]), *after[1:])
    # The literal before {options} and the one after it become one.
    (literal, field), *rest = after or [("", None)]
    joined = ((before + literal, field), *rest)
    return Text((*self.pieces[:at], *joined))

  def with_options(self) -> "Text":
    """Returns the text with {options} in it, at its end if nowhere else."""
    if OPTIONS in self.fields:
      return self
    *before, (literal, field) = self.pieces
    if field is None:
      return Text((*before, (f"{literal}\n", OPTIONS)))
    return Text((*self.pieces, ("\n", OPTIONS)))

  def by_letter(self) -> "Text":
    """Returns the text with the answer's letter in its place."""
    return Text(
      tuple((text, LETTER if f == ANSWER else f) for text, f in self.pieces)
    )

  def around(self, field: str) -> tuple[str, str]:
    """Returns the literals on both sides of a field that it has once."""
    at = [name for _, name in self.pieces].index(field)
    after = self.pieces[at + 1][0] if at + 1 < len(self.pieces) else ""
    return self.pieces[at][0], after


@dataclasses.dataclass(frozen=True)
class Template:
  """A question.

  Attributes:
    inputs: what is asked.
    targets: what is to be answered.
    wordings: what the options of the collection are called in it, in their
      order; empty where they keep their names.
  """

  inputs: Text
  targets: Text
  wordings: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Layout:
  """How exemplars and the question after them become one prompt.

  An exemplar is `inputs_prefix` inputs, a new line, `targets_prefix` targets;
  the question is the same without its targets.
  """

  inputs_prefix: str = "Q: "
  targets_prefix: str = "A: "
  separator: str = "\n\n"


@dataclasses.dataclass(frozen=True)
class Templates:
  """What a file holds.

  Attributes:
    cluster: the kind of task.
    about: what the collection asks, in a line.
    templates: of questions.
    inverted: of questions for what used to be given.
    chain_of_thought: of questions answered by reasons first.
    exemplars: how prompts with exemplars are laid out.
  """

  cluster: str
  about: str
  templates: tuple[Template, ...]
  inverted: tuple[Template, ...] = ()
  chain_of_thought: tuple[Template, ...] = ()
  exemplars: Layout = Layout()


def parse(text: str, known: Collection[str]) -> Text:
  """Returns a text written with fields in braces; {{ and }} are braces.

  Raises:
    ValueError: with what is wrong, such as a field that is not `known`.
  """
  pieces: list[tuple[str, str | None]] = []
  try:
    parsed = list(string.Formatter().parse(text))
  except ValueError as error:
    raise ValueError(f"{error}; {_BRACES}") from error
  literal = ""
  for before, field, form, conversion in parsed:
    literal += before
    if field is None:
      continue
    if form or conversion or field not in known:
      shown = field + (f"!{conversion}" if conversion else "")
      shown += f":{form}" if form else ""
      near = errors.suggest(field, known) or f"; known are {', '.join(known)}"
      raise ValueError(f"there is no field {shown!r}{near} ({_BRACES})")
    pieces.append((literal, field))
    literal = ""
  if literal:
    pieces.append((literal, None))
  return Text(tuple(pieces))
