"""Answers found in predictions, by hand."""

import pytest

from tasks import metrics
from tasks.instructions import answers, collections, template


@pytest.mark.parametrize(
  "targets, text, expected",
  [
    ("{answer}", "  two words ", "two words"),
    ("It is {answer}.", "It is sweet.", "sweet"),
    ("It is {answer}.", "sweet", "sweet"),
    ("It is {answer}.", "It is 3.5.", "3.5"),
    ("It is {answer}.", "It is 3.5. It is large.", "large"),
    ("{answer}, I say.", "no, I say. Or is it?", "no"),
    (
      "{rationale}\nThe answer is {answer}.",
      "The answer is 3? No. The answer is 4.",
      "4",
    ),
    # SentencePiece makes spaces of newlines.
    ("So\n\nanswer: {answer}", "So answer: 12", "12"),
    ("The answer is {answer}.", "I do not know", "I do not know"),
  ],
)
def test_found(targets, text, expected):
  fields = ["rationale", "answer"]
  assert answers.found(text, template.parse(targets, fields)) == expected


def test_a_word_of_another_template_is_no_option():
  plain = template.parse("{answer}", ["answer"])
  turned = template.Template(plain, plain, ("good", "no"))
  reader = answers.Reader((turned,), ("no", "yes"))
  example = {"template": 0, "answer": b"no", "references": b"no"}

  def option(text):
    return reader(text, example=example, is_target=False)

  assert reader("good", example=example, is_target=True) == "no"
  assert option("good") == "no"
  assert option("no") == "yes"
  assert option("yes") not in ("no", "yes")


def test_several_right_answers():
  plain = template.parse("{answer}", ["answer"])
  reader = answers.Reader((template.Template(plain, plain),), (), True)
  example = {"template": 0, "answer": b"a", "references": b"a\x1fb c"}
  assert reader("a", example=example, is_target=True) == ["a", "b c"]


def test_metrics_of_collections():
  found = {
    name: answers.metric(collection)
    for name, collection in collections.COLLECTIONS.items()
  }
  assert found["rte"] == found["stsb"] == (metrics.accuracy, False)
  assert found["gsm8k"] == found["multirc"] == (metrics.accuracy, False)
  assert found["squad"] == found["record"] == (metrics.squad, True)
  assert found["trivia_qa"] == (metrics.squad, True)
  assert found["xsum"] == (metrics.rouge, False)
  assert found["wmt14_fr_en"] == (metrics.bleu, False)


def test_letters_are_read_as_the_options_they_stand_for():
  plain = template.parse("{answer}", ("answer",))
  worded = template.Template(plain, plain, ("sour", "sweet"))
  shared = answers.Reader((worded,), ("no", "yes"), letters=True)

  def read(reader, text, **example):
    return reader(text, example={"template": 0, **example}, is_target=False)

  assert [read(shared, text) for text in ("(A)", "(B)", "sweet")] == [
    *("no", "yes", "yes")
  ]
  assert read(shared, "(C)") == "? (C)"
  own = answers.Reader((template.Template(plain, plain),), letters=True)
  assert read(own, "(B)", options=b"left\x1fright side") == "right side"
