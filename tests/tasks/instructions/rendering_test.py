"""Prompts against strings written by hand, and exemplars that never leak."""

import collections

import pytest
import seqio

from t5x_lite import errors
from tasks.instructions import prompts, rendering, template
from tests.tasks.instructions.toy import collections as toy

MODULE = toy.__name__
SHOWN = "OPTIONS:\n- no\n- yes"
WORDED = "OPTIONS:\n- sour\n- sweet"


def renderer(
  name,
  *,
  kind="templates",
  first=None,
  options="never",
  style="dashes",
  count=0,
  pool=64,
  seed=0,
):
  written = prompts.find(MODULE, [name])[name]
  return rendering.Renderer(
    written.collection,
    getattr(written.templates, kind)[:first],
    written.templates.exemplars,
    options,
    style,
    rendering.Exemplars(count, pool, seed),
  )


def render(made, split="train", seed=3, repeat=1):
  """Returns the prompts of a split, as dicts of texts."""
  dataset = made.collection.source().get_dataset(split, shuffle=False)
  with seqio.utils.map_seed_manager(seed):
    dataset = made.preprocess(dataset.repeat(repeat))
  return [
    {k: v.decode() if isinstance(v, bytes) else v for k, v in e.items()}
    for e in dataset.as_numpy_iterator()
  ]


@pytest.fixture(scope="module")
def half():
  return render(renderer("fruit", options="half"), repeat=60)


def test_options_in_a_line_of_their_own():
  never = render(renderer("fruit", first=1))[4]
  assert never == {
    "inputs": "Is fruit4 sweet?",
    "targets": "no",
    "answer": "no",
    "references": "no",
    "template": 0,
  }
  always = render(renderer("fruit", first=1, options="always"))[4]
  assert always["inputs"] == f"Is fruit4 sweet?\n{SHOWN}"


def test_every_template_is_rendered_with_and_without_options(half):
  found = {p["inputs"] for p in half if "fruit4" in p["inputs"]}
  assert found == {
    "Is fruit4 sweet?",
    f"Is fruit4 sweet?\n{SHOWN}",
    "How does fruit4 taste? {Say it.}",
    WORDED + "\nHow does fruit4 taste? {Say it.}",
    "Held out: fruit4?",
    f"Held out: fruit4?\n{SHOWN}",
  }


def test_answers_in_the_words_of_the_template(half):
  targets = {(p["template"], p["answer"]): p["targets"] for p in half}
  assert targets == {
    (0, "no"): "no",
    (0, "yes"): "yes",
    (1, "no"): "It is sour.",
    (1, "yes"): "It is sweet.",
    (2, "no"): "no",
    (2, "yes"): "yes",
  }


def test_templates_and_options_are_drawn_evenly(half):
  count = len(half)
  drawn = collections.Counter(p["template"] for p in half)
  # Four standard deviations of 460 draws are 0.09.
  assert all(abs(drawn[i] / count - 1 / 3) < 0.09 for i in range(3))
  able = [p for p in half if p["template"] != 2]
  shown = sum("OPTIONS" in p["inputs"] for p in able) / len(able)
  assert abs(shown - 0.5) < 0.12


def test_draws_are_of_the_seed_alone(half):
  made = renderer("fruit", options="half")
  assert render(made, repeat=60) == half
  assert render(made, seed=4, repeat=20) != half
  assert half[:23] != half[23:46]  # Another epoch draws others.


def test_options_of_its_own_and_several_answers():
  made = renderer("pick", first=1, options="always")
  found = render(made, "validation")
  # The other example has no answer.
  assert found == [
    {
      "inputs": "validation 0?\nOPTIONS:\n- left\n- right\nWhich?",
      "targets": "left",
      "answer": "left",
      "references": "left\x1fport",
      "template": 0,
    }
  ]
  bare = render(renderer("pick", first=1), "validation")
  assert bare[0]["inputs"] == "validation 0?\nWhich?"


def test_letters_stand_for_the_options_that_are_shown():
  found = render(renderer("fruit", options="always", style="letters"))
  by_template = {p["template"]: p for p in found if p["answer"] == "yes"}
  assert by_template[0]["inputs"].endswith("OPTIONS:\n(A) no\n(B) yes")
  assert by_template[0]["targets"] == "(B)"
  assert by_template[1]["inputs"].startswith("OPTIONS:\n(A) sour\n(B) sweet")
  assert by_template[1]["targets"] == "It is (B)."
  # This template has no line for them.
  assert by_template[2]["inputs"].endswith("?\nOPTIONS:\n(A) no\n(B) yes")
  assert by_template[2]["targets"] == "(B)"


def test_letters_of_options_of_its_own():
  made = renderer("pick", first=1, options="always", style="letters")
  (found,) = render(made, "validation")
  assert found["inputs"].endswith("OPTIONS:\n(A) left\n(B) right\nWhich?")
  assert (found["targets"], found["answer"]) == ("(A)", "left")
  assert found["options"] == "left\x1fright"
  bare = renderer("pick", first=1, style="letters")
  assert render(bare, "validation")[0]["targets"] == "left"


def test_exemplars_are_answered_by_letters_too():
  made = renderer("fruit", first=1, options="always", style="letters", count=2)
  for prompt in render(made):
    *exemplars, question = prompt["inputs"].split("\n\n")
    assert len(exemplars) == 2
    assert all(e.endswith(("A: (A)", "A: (B)")) for e in exemplars)
    assert question.endswith("(B) yes\nA:")


def test_inverted():
  found = render(renderer("fruit", kind="inverted"))[5]
  assert found["inputs"] == "Name a fruit; is it sweet: yes."
  assert found["targets"] == "fruit5"


def test_chain_of_thought():
  found = render(renderer("sums", kind="chain_of_thought"))[6]
  assert found["inputs"] == "6 + 1, step by step"
  assert found["targets"] == "6 and 1 make 7. The answer is 7."
  assert found["answer"] == "7"


def test_exemplars_are_laid_out_as_the_question_is():
  # Of two examples in the pool the other one is the exemplar.
  made = renderer("pick", first=1, options="always", count=1, pool=2)
  found = render(made)
  one, other = (
    f"Q: train {i}?\nOPTIONS:\n- left\n- right\nWhich?\nA:" for i in (0, 1)
  )
  assert [p["inputs"] for p in found] == [
    f"{other} left\n\n{one}",
    f"{one} left\n\n{other}",
  ]
  assert [p["targets"] for p in found] == ["left", "left"]


def test_the_layout_is_that_of_the_file():
  made = renderer("sums", kind="chain_of_thought", count=1, pool=2)
  pool = {row[0].decode() for row in made._pool}
  for prompt in render(made, "validation"):
    exemplar, question = prompt["inputs"].split("> ")
    number = exemplar[1:].split(" +")[0]
    assert number in pool
    after = int(number) + 1
    assert exemplar == (
      f"<{number} + 1, step by step\n{number} and 1 make {after}. The answer "
      f"is {after}."
    )
    asked = int(prompt["answer"]) - 1
    assert question == f"<{asked} + 1, step by step"


def _names(prompt):
  """Returns the fruits that exemplars and question are about."""
  *exemplars, question = [
    text.removeprefix("Q: Is ").partition(" sweet?")[0]
    for text in prompt["inputs"].split("\n\n")
  ]
  return exemplars, question


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_exemplars_never_leak(split, count):
  # The smallest pool that there may be leaves them the least choice.
  made = renderer("fruit", first=1, count=count, pool=count + 1)
  pool = {row[0].decode() for row in made._pool}
  assert len(pool) == count + 1 and pool <= set(toy.FRUIT["train"])
  found = render(made, split, repeat=10)
  assert len(found) == 10 * len(toy.FRUIT[split])
  for prompt in found:
    exemplars, question = _names(prompt)
    assert question in toy.FRUIT[split]
    assert len(set(exemplars)) == len(exemplars) == count
    assert question not in exemplars and set(exemplars) <= pool


def test_no_text_is_twice_in_a_pool_nor_its_own_exemplar_in_evaluation():
  made = renderer("fruit", first=1, count=3, pool=64)
  names = [row[0].decode() for row in made._pool]
  assert sorted(names) == sorted(set(toy.FRUIT["train"]))
  seen = collections.Counter()
  for prompt in render(made, "validation", repeat=60):
    exemplars, question = _names(prompt)
    assert question not in exemplars
    seen.update(exemplars)
  # All are drawn, also the one that validation has too, and evenly.
  assert set(seen) == set(names)
  assert max(seen.values()) < 3 * min(seen.values())


def test_pools_are_of_their_seed():
  first = renderer("fruit", count=2, pool=5)._pool.tolist()
  assert renderer("fruit", count=2, pool=5)._pool.tolist() == first
  assert renderer("fruit", count=2, pool=5, seed=1)._pool.tolist() != first


def test_no_exemplars_is_zero_shot():
  none = render(renderer("fruit", options="half", count=0))
  assert none == render(renderer("fruit", options="half"))
  assert not any("Q: " in prompt["inputs"] for prompt in none)


def test_a_train_split_too_small_for_its_exemplars():
  made = renderer("pick", first=1, count=2, pool=8)
  with pytest.raises(errors.DataError, match="'pick' has 2 .* draw 2"):
    render(made)


def test_a_template_that_has_no_line_of_options_gets_one():
  for text, listed in (
    ("{q}\n\n{options}", "Q\n\nO"),
    ("{options}\n{q}", "O\nQ"),
    ("{q}", "Q\nO"),
    ("{q}?", "Q?\nO"),
    ("Say {q}, {{now}}.", "Say Q, {now}.\nO"),
  ):
    parsed = template.parse(text, ["q", "options"]).with_options()
    assert parsed.fill({"q": "Q", "options": "O"}) == listed


def test_a_template_without_the_line_of_options():
  for text, bare in (
    ("{q}\n\n{options}", "Q"),
    ("{q}\n{options}\nAnswer:", "Q\nAnswer:"),
    ("{options}\n\n{q}", "Q"),
    ("First:\n{options}\n{q}", "First:\nQ"),
    ("{q}", "Q"),
  ):
    parsed = template.parse(text, ["q", "options"])
    assert parsed.without_options().fill({"q": "Q"}) == bare
    assert parsed.fill({"q": "Q", "options": "O"}) == text.replace(
      "{q}", "Q"
    ).replace("{options}", "O")
