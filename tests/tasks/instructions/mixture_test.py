"""What a mixture trains on and measures, and at which rates."""

import itertools

import numpy as np
import pytest
import seqio

from t5x_lite import datasets, errors, vocabularies
from tasks.instructions import formats, mixture
from tests.tasks.instructions.toy import collections as toy

MODULE = toy.__name__
KEYS = ("inputs", "targets")
_number = itertools.count()


def make(**settings):
  given = {"module": MODULE, "name": f"toy{next(_number)}"} | settings
  return mixture.Mixture(**given)


def registered(made):
  """Returns the tasks by their names without that of the mixture."""
  found = seqio.MixtureRegistry.get(made.register())
  return {task.name.removeprefix(f"{made.name}_"): task for task in found.tasks}


def rates(made):
  found = seqio.MixtureRegistry.get(made.register())
  return {
    task.name.removeprefix(f"{made.name}_"): found.get_rate(task)
    for task in found.tasks
    if "train" in task.splits
  }


def texts(task, split, repeat=1):
  """Returns the inputs and targets of a split, drawn anew in each epoch."""
  examples = task.get_dataset(
    None, split, shuffle=False, seed=0, num_epochs=repeat
  )
  return [
    tuple(example[f"{key}_pretokenized"].decode() for key in KEYS)
    for example in examples.as_numpy_iterator()
  ]


@pytest.fixture(scope="module")
def held_out():
  return make(
    held_out=("taste",),
    held_out_templates=1,
    formats=("zero_shot", "few_shot", "zero_shot_cot", "inverted"),
    prompts=formats.Prompts(exemplars=1, pool=2),
  )


def test_a_task_for_each_collection_and_format(held_out):
  found = {n: sorted(t.splits) for n, t in registered(held_out).items()}
  trained = [
    *("pick_few_shot", "pick_zero_shot"),
    *("sums_few_shot", "sums_zero_shot", "sums_zero_shot_cot"),
  ]
  measured = [
    "fruit_held_out",
    *("pick_seen", "pick_unseen", "sums_seen", "sums_unseen"),
  ]
  assert found == {
    **{name: ["train"] for name in trained},
    **{name: ["validation"] for name in measured},
  }


def test_nothing_held_out_is_in_the_training_text(held_out):
  tasks = registered(held_out)
  train = [
    text
    for name, task in tasks.items()
    if "train" in task.splits
    for pair in texts(task, "train", repeat=8)
    for text in pair
  ]
  assert len(train) == 2 * 8 * (2 * 2 + 3 * 10)
  for text in train:
    assert not any(name in text for name in ("fruit", "sweet", "sour"))
    assert "Held out" not in text


def test_seen_unseen_and_held_out_are_measured(held_out):
  tasks = registered(held_out)
  seen = {text for text, _ in texts(tasks["sums_seen"], "validation")}
  assert seen == {f"{i} + 1" for i in range(10, 14)}
  unseen = {text for text, _ in texts(tasks["sums_unseen"], "validation")}
  assert unseen == {f"Held out: {i} and one" for i in range(10, 14)}
  measured = texts(tasks["fruit_held_out"], "validation", repeat=8)
  assert {
    text.replace(name, "_")
    for text, _ in measured
    for name in toy.FRUIT["validation"]
    if name in text
  } == {
    "Is _ sweet?\nOPTIONS:\n- no\n- yes",
    "OPTIONS:\n- sour\n- sweet\nHow does _ taste? {Say it.}",
    "Held out: _?\nOPTIONS:\n- no\n- yes",
  }


def test_a_prompt_that_is_too_long_loses_exemplars_and_keeps_its_question():
  made = make(
    collections=("sums",),
    formats=("zero_shot", "few_shot"),
    prompts=formats.Prompts(exemplars=2, pool=4),
  )
  tasks = registered(made)

  def inputs(name, length):
    lengths = {"inputs": length, "targets": 64}
    task = tasks[name]
    found = task.get_dataset(lengths, "train", shuffle=False, seed=0)
    return [list(e["inputs"]) for e in found.as_numpy_iterator()]

  whole, short = (inputs("sums_few_shot", n) for n in (512, 12))
  assert all(len(ids) > 12 for ids in whole)
  assert short == [ids[-12:] for ids in whole]
  # Where nothing stands before the question, it is the end that goes.
  whole, short = (inputs("sums_zero_shot", n) for n in (512, 4))
  assert short == [[*ids[:3], ids[-1]] for ids in whole]


def test_rates_are_proportional_to_sizes_up_to_a_limit():
  # 23, 10 and 3 examples, none of which counts beyond 12.
  assert rates(make(maximum=12)) == {
    "fruit_zero_shot": 12.0,
    "sums_zero_shot": 10.0,
    "pick_zero_shot": 3.0,
  }
  assert rates(make(maximum=None))["fruit_zero_shot"] == 23.0


def test_formats_share_the_rate_of_their_collection():
  found = rates(
    make(
      formats={"zero_shot": 3, "few_shot_cot": 1, "inverted": 2},
      prompts=formats.Prompts(exemplars=1, pool=2),
      maximum=12,
    )
  )
  assert found == {
    "fruit_zero_shot": pytest.approx(12 * 3 / 5),
    "fruit_inverted": pytest.approx(12 * 2 / 5),
    "sums_zero_shot": pytest.approx(10 * 3 / 4),
    "sums_few_shot_cot": pytest.approx(10 * 1 / 4),
    "pick_zero_shot": pytest.approx(3.0),
  }


def test_a_task_for_every_template():
  made = make(
    collections=("fruit",),
    held_out_templates=1,
    prompts=formats.Prompts(every_template=True),
    evaluation=formats.Evaluation(
      prompts=formats.Prompts(options="always", every_template=True)
    ),
  )
  assert rates(made) == {"fruit_zero_shot_1": 11.5, "fruit_zero_shot_2": 11.5}
  tasks = registered(made)
  assert set(tasks) - set(rates(made)) == {
    "fruit_seen_1",
    "fruit_seen_2",
    "fruit_unseen_3",
  }
  found = texts(tasks["fruit_unseen_3"], "validation")
  assert [text for text, _ in found] == [
    f"Held out: {name}?\nOPTIONS:\n- no\n- yes"
    for name in toy.FRUIT["validation"]
  ]


def test_only_so_many_examples_of_a_collection_are_trained_on():
  made = make(collections=("fruit",), max_examples=7, maximum=None)
  task = registered(made)["fruit_zero_shot"]
  found = texts(task, "train")
  assert len(found) == 7
  assert all(f"fruit{i}" in text for i, (text, _) in enumerate(found))
  assert rates(made) == {"fruit_zero_shot": 7.0}
  shards = [
    list(task.source.get_dataset("train", shard_info=seqio.ShardInfo(i, 2)))
    for i in range(2)
  ]
  assert [len(shard) for shard in shards] == [4, 3]


def test_answers_are_measured_whatever_the_words():
  task = registered(make(collections=("fruit",)))["fruit_seen"]
  [metric] = task.metric_fns
  examples = list(
    task.get_dataset(None, "validation", seed=0).as_numpy_iterator()
  )
  assert len({int(example["template"]) for example in examples}) == 3

  def answers(texts, is_target):
    return [
      task.postprocess_fn(text, example=example, is_target=is_target)
      for text, example in zip(texts, examples, strict=True)
    ]

  right = [e["targets_pretokenized"].decode() for e in examples]
  targets = answers(right, True)
  yes = sum(target == "yes" for target in targets)
  majority = pytest.approx(100 * max(yes, 9 - yes) / 9)
  assert metric(targets, answers(right, False)) == {
    "accuracy": 100.0,
    "majority_accuracy": majority,
  }
  assert metric(targets, answers(["maybe"] * 9, False))["accuracy"] == 0.0


def _dataset(made, **settings):
  given = {
    "feature_lengths": {"inputs": 96, "targets": 24},
    "batch_size": 8,
    "vocabulary": vocabularies.Bytes(),
    "task_modules": (),
    "num_shards": 1,
    "shuffle_buffer": 16,
  }
  return datasets.Dataset(made, **given | settings)


def test_training_goes_on_exactly_where_it_was_saved(held_out, tmp_path):
  iterator = _dataset(held_out).iterator()
  for _ in range(3):
    next(iterator)
  iterator.save(tmp_path / "state")
  expected = [next(iterator) for _ in range(4)]
  again = _dataset(held_out).iterator()
  again.restore(tmp_path / "state")
  for batch in expected:
    other = next(again)
    assert all(np.array_equal(other[key], batch[key]) for key in batch)


def test_flan_has_a_name():
  from tasks.instructions import collections, flan

  found = seqio.get_mixture_or_task(flan.NAME)
  names = {task.name for task in found.tasks}
  for name in collections.COLLECTIONS:
    assert {f"flan_{name}_zero_shot", f"flan_{name}_seen"} <= names
  assert "flan_gsm8k_few_shot_cot" in names
  assert "flan_rte_few_shot_cot" not in names  # It has no rationales.


def test_the_same_settings_are_one_mixture_and_others_another():
  one = make(name="toy_named", collections=("sums",))
  assert one.register() == one.register()
  more = make(name="toy_named", collections=("sums", "fruit"))
  assert more.register() != one.register()
  other = make(
    name="toy_named",
    collections=("sums",),
    prompts=formats.Prompts(options="always"),
  )
  with pytest.raises(errors.ConfigError, match="toy_named_sums_zero_shot"):
    other.register()


@pytest.mark.parametrize(
  "settings, match",
  [
    ({"held_out": "nli"}, r"write \('nli',\)"),
    ({"formats": ("zero_shoot",)}, "did you mean 'zero_shot'"),
    ({"formats": ()}, "name one or more"),
    ({"formats": {"zero_shot": 0}}, "above 0"),
    ({"maximum": 0}, "maximum is 0"),
    ({"max_examples": 0}, "max_examples is 0"),
    ({"held_out_templates": -1}, "held_out_templates is -1"),
  ],
)
def test_settings_without_sense_are_refused(settings, match):
  with pytest.raises(errors.ConfigError, match=match):
    mixture.Mixture(**settings)


@pytest.mark.parametrize(
  "settings, match",
  [
    ({"options": "sometimes"}, "none of always, half, never"),
    ({"exemplars": -1}, "exemplars is -1"),
    ({"exemplars": 4, "pool": 4}, "4 examples are too few to draw 4"),
  ],
)
def test_prompts_without_sense_are_refused(settings, match):
  with pytest.raises(errors.ConfigError, match=match):
    formats.Prompts(**settings)
  with pytest.raises(errors.ConfigError, match="'inverted' is none of"):
    formats.Evaluation(format="inverted")


@pytest.mark.parametrize(
  "settings, match",
  [
    ({"held_out": ("tast",)}, "did you mean 'taste'"),
    ({"held_out": ("fruit",)}, "'fruit' is a collection of 'taste'"),
    ({"collections": ("fruits",)}, "did you mean 'fruit'"),
    ({"held_out_templates": 2}, "'sums' has only 2"),
    ({"module": "tests.no_such"}, "cannot be imported"),
    (
      {
        "collections": ("fruit",),
        "formats": ("zero_shot_cot",),
        "evaluation": None,
      },
      "has templates for the formats zero_shot_cot",
    ),
  ],
)
def test_what_does_not_fit_the_collections_is_refused(settings, match):
  with pytest.raises(errors.ConfigError, match=match):
    make(**settings).register()
