"""The formats of prompts: which templates, and whether exemplars come first.

    format                Flan 2022's submixtures
    zero_shot             zero-shot, with or without options
    few_shot              few-shot, with or without options
    zero_shot_cot         chain of thought, zero-shot
    few_shot_cot          chain of thought, few-shot
    inverted              "input inversion", zero-shot
    few_shot_inverted     the same, few-shot

Options are shown in a random half of the prompts, always or never.
"""

import dataclasses
import typing
from collections.abc import Iterable, Sequence

from t5x_lite import errors


class Format(typing.NamedTuple):
  """A format.

  Attributes:
    kind: of templates, a field of `template_files.Templates`.
    exemplars: whether there are any.
  """

  kind: str
  exemplars: bool


FORMATS = {
  "zero_shot": Format("templates", False),
  "few_shot": Format("templates", True),
  "zero_shot_cot": Format("chain_of_thought", False),
  "few_shot_cot": Format("chain_of_thought", True),
  "inverted": Format("inverted", False),
  "few_shot_inverted": Format("inverted", True),
}
# Of those that ask for the answer.
ANSWERED = tuple(n for n, f in FORMATS.items() if f.kind != "inverted")
# The share of prompts that show options.
OPTIONS = {"always": 1.0, "half": 0.5, "never": 0.0}
# How they are listed: "- yes", and the answer is the option's text, or
# "(B) yes", and the answer is "(B)" wherever they are shown.
STYLES = ("dashes", "letters")
# What is measured; see mixture.py.
PARTS = ("seen", "unseen", "held_out")


def check(what: str, names: Iterable[str], known: Iterable[str]) -> None:
  """Raises ConfigError for a name that is not known.

  Args:
    what: the setting that names them.
    names: as given.
    known: that there are.
  """
  known = list(known)
  for name in names:
    if name not in known:
      raise errors.ConfigError(
        f"{what}: {name!r} is none of {', '.join(known)}"
        f"{errors.suggest(name, known)}"
      )


@dataclasses.dataclass(frozen=True)
class Prompts:
  """How prompts are made.

  Attributes:
    options: whether answers to choose from are shown: "always", "never" or,
      as in Flan, in a random "half" of the prompts.
    style: how they are listed, one of `STYLES`.
    exemplars: solved examples in front of a question, in few-shot formats.
    pool: train examples that exemplars are drawn from, for each collection.
    seed: of the pools.
    every_template: a task for each template, as in T0 (Sanh et al., 2021,
      https://arxiv.org/abs/2110.08207), not one that draws templates.
  """

  options: str = "half"
  style: str = "dashes"
  exemplars: int = 3
  pool: int = 64
  seed: int = 0
  every_template: bool = False

  def __post_init__(self) -> None:
    check("Prompts.options", [self.options], OPTIONS)
    check("Prompts.style", [self.style], STYLES)
    if self.exemplars < 0:
      raise errors.ConfigError(
        f"Prompts.exemplars is {self.exemplars}; use 0 or more"
      )
    if self.exemplars and self.pool <= self.exemplars:
      raise errors.ConfigError(
        f"Prompts.pool: {self.pool} examples are too few to draw "
        f"{self.exemplars} exemplars from; there must be one more, for the "
        "example that is asked about may be among them, and is never its own "
        "exemplar"
      )


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """What is measured, on the splits that are not trained on.

  Attributes:
    parts: of `PARTS`.
    format: one of `ANSWERED`.
    prompts: how they are made.
  """

  parts: Sequence[str] = PARTS
  format: str = "zero_shot"
  prompts: Prompts = dataclasses.field(
    default_factory=lambda: Prompts(options="always")
  )

  def __post_init__(self) -> None:
    check("Evaluation.parts", self.parts, PARTS)
    check("Evaluation.format", [self.format], ANSWERED)
