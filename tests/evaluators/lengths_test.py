"""Metrics of a task at several lengths."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest

from t5x_lite import (
  datasets,
  errors,
  evaluators,
  objectives,
  partitioning,
  trained_model,
)
from tasks import synthetic
from tests import toy_tasks
from tests.objectives import toy

VOCAB = 6


@pytest.fixture(scope="module")
def trainer():
  """Of a decoder that is never asked: the tests have models of their own."""
  return trained_model.trainer_of(
    functools.partial(toy.decoder(), vocab_size=VOCAB),
    objectives.CausalLabelling(),
    partitioning.Partitioner({"data": -1}, {"batch": "data"}),
  )


class Knowing:
  """Finds the answer in rows that are not longer than it remembers."""

  vocab_size = VOCAB

  def __init__(self, memory):
    self.memory = memory

  def __call__(self, batch, *, key):
    tokens = batch["decoder_input_tokens"]
    length = tokens.shape[1]
    place = jnp.argmax(tokens == VOCAB - 1, axis=1)[:, None] + 1
    answer = jnp.take_along_axis(tokens, place, axis=1)
    if length > self.memory:
      answer = jnp.full_like(answer, VOCAB - 1)  # never right
    logits = 9.0 * (jnp.arange(VOCAB) == answer[..., None])
    return jnp.broadcast_to(logits, (*tokens.shape, VOCAB))


def dataset(**settings):
  given = {"split": "validation", "shuffle": False, "num_epochs": 1}
  given |= {"pack": False, "task_modules": ()}
  return datasets.Dataset("unused", {"inputs": 7}, 8, **(given | settings))


def evaluator(lengths=(8, 16), **settings):
  task = functools.partial(synthetic.InductionHeads, vocab_size=VOCAB)
  return evaluators.LengthEvaluator(task, lengths, dataset(), **settings)


class Closing:
  """Evaluates models that are no pytrees, and notes the shapes."""

  def __init__(self, trainer):
    self.seen = []
    self._trainer = trainer

  def __getattr__(self, name):
    return getattr(self._trainer, name)

  def eval_step(self, model, batch):
    self.seen.append(batch["labels"].shape)
    run = jax.jit(lambda batch: self.objective.loss(model, batch, None)[1])
    return run(batch)


def test_each_length_is_measured_by_itself(trainer):
  closing = Closing(trainer)
  found = evaluator(num_examples=96, batch_tokens=512)(
    closing, toy_tasks.state(Knowing(memory=8))
  )
  assert found["8/accuracy"] == 1.0 and found["16/accuracy"] == 0.0
  assert found["16/loss"] > 5 > found["8/loss"]
  # Two batches of 64 rows, three of 32: 512 tokens each.
  assert closing.seen == [*[(64, 8)] * 2, *[(32, 16)] * 3]


def test_rows_of_a_batch_are_a_power_of_two(trainer):
  """So that devices can share them, whatever the length."""
  closing = Closing(trainer)
  evaluator((9,), num_examples=16, batch_tokens=300)(
    closing, toy_tasks.state(Knowing(memory=9))
  )
  assert closing.seen == [(32, 9)]


def test_a_long_row_is_a_batch_alone(trainer):
  closing = Closing(trainer)
  one = evaluator((64,), num_examples=3, batch_tokens=32)
  with pytest.raises(errors.ConfigError, match="8"):
    one(closing, toy_tasks.state(Knowing(64)))  # 8 devices share a batch
  alone = trained_model.trainer_of(
    functools.partial(toy.decoder(), vocab_size=VOCAB),
    objectives.CausalLabelling(),
    partitioning.Partitioner({"data": 1}, {"batch": "data"}, num_devices=1),
  )
  closing = Closing(alone)
  one(closing, toy_tasks.state(Knowing(64)))
  assert closing.seen == [(1, 64)] * 3


def test_vocabularies_are_those_of_the_task(trainer):
  found = evaluator().vocabularies(trainer)
  assert found["inputs"]["size"] == VOCAB
  assert found["labels"]["size"] == VOCAB + 1
  assert isinstance(evaluator(), evaluators.OfText)


@pytest.mark.parametrize(
  "settings, message",
  [
    ({"lengths": ()}, "lengths is empty"),
    ({"lengths": (8, 0)}, "lengths has 0"),
    ({"num_examples": 0}, "num_examples is 0; use 1 or more"),
    ({"batch_tokens": 0}, "batch_tokens is 0; use 1 or more"),
  ],
)
def test_settings_that_make_no_sense(settings, message):
  with pytest.raises(errors.ConfigError, match=message):
    dataclasses.replace(evaluator(), **settings)
