"""What a model answered to a prompt, and how right that is.

Targets may hold more than the answer: "The answer is {answer}." after reasons,
or a whole sentence.  What is compared is the answer in them, whatever
whitespace a vocabulary made of line breaks, and the option it stands for where
templates have words of their own for the options.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tasks import metrics
from tasks.instructions import options as options_lib
from tasks.instructions import rendering
from tasks.instructions import template as template_lib

Metric = Callable[[Sequence[Any], Sequence[str]], dict[str, float]]

# By the clusters whose answers are free text.
_OF_TEXT: dict[str, Metric] = {
  "summarization": metrics.rouge,
  "translation": metrics.bleu,
}
_OF_ANSWERS = ("closed_book_qa", "commonsense", "reading_comprehension")


@dataclasses.dataclass(frozen=True)
class Reader:
  """Postprocesses text to the answer in it.

  Attributes:
    templates: that the prompts were drawn from.
    options: that all examples share.
    several: whether targets are lists of right answers.
    letters: whether "(A)" stands for the first option, and so on.
  """

  templates: tuple[template_lib.Template, ...]
  options: tuple[str, ...] = ()
  several: bool = False
  letters: bool = False

  def __call__(
    self, text: str, *, example: Mapping[str, Any], is_target: bool
  ) -> str | list[str]:
    """Returns the answer in a prediction, or the right ones."""
    if not is_target:
      template = self.templates[int(example["template"])]
      answer = found(text, template.targets)
      if self.letters and answer in options_lib.LETTERS:
        return self._of_letter(answer, example)
      return self._option(answer, template)
    if not self.several:
      return _plain(_decoded(example["answer"]))
    references = _decoded(example["references"])
    return [_plain(answer) for answer in references.split(rendering.BETWEEN)]

  def _of_letter(self, letter: str, example: Mapping[str, Any]) -> str:
    """Returns the option that a letter stands for, or what is none."""
    options: Sequence[str] = self.options
    if not options:
      options = _decoded(example["options"]).split(rendering.BETWEEN)
    number = options_lib.LETTERS.index(letter)
    if number < len(options):
      return _plain(options[number])
    return f"? {letter}"

  def _option(self, answer: str, template: template_lib.Template) -> str:
    """Returns the option that a template words so, or what is none."""
    if not self.options:
      return answer
    words = [_plain(w) for w in template.wordings or self.options]
    if answer in words:
      return _plain(self.options[words.index(answer)])
    return f"? {answer}"  # It may be the name of an option elsewhere.


def found(text: str, targets: template_lib.Text) -> str:
  """Returns the answer in a text that should look like `targets`.

  What stands before the answer there is looked for from the end, and what
  stands after it from the answer on.  Without them, all of it is the answer.
  """
  before, after = map(_plain, targets.around(template_lib.ANSWER))
  text = _plain(text)
  if before and before in text:
    text = text.rpartition(before)[2]
  if after:
    text = (
      text.removesuffix(after)
      if text.endswith(after)
      else (text.partition(f"{after} ")[0])
    )
  return text.strip()


def metric(collection: Any) -> tuple[Metric, bool]:
  """Returns the metric of a collection, and if it takes several answers.

  Accuracy, unless answers are free text: then exact match and F1 of words
  with the best of the right ones, as in SQuAD; ROUGE of summaries and BLEU of
  translations.
  """
  if collection.cluster in _OF_TEXT:
    return _OF_TEXT[collection.cluster], False
  if collection.cluster in _OF_ANSWERS and not collection.options:
    return metrics.squad, True
  return metrics.accuracy, False


def _plain(text: str) -> str:
  return " ".join(text.split())


def _decoded(value: Any) -> str:
  return value.decode() if isinstance(value, bytes) else str(value)
