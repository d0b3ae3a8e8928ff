"""Evaluators: held-out loss, and the metrics of SeqIO tasks."""

import dataclasses
import functools
import json
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seqio
import tensorflow as tf

from t5x_lite import (
  datasets,
  decoding,
  errors,
  evaluators,
  metrics,
  objectives,
  partitioning,
  train_state,
  trained_model,
  vocabularies,
)
from tests import tiny

LENGTHS = {"inputs": 16, "targets": 16}
# Two of three are copied right; "é" has two bytes.
PAIRS = [("ab", "ab"), ("cd", "cd"), ("ef", "xx"), ("é g", "é g"), ("h", "")]
YES_NO = [("yes", "yes"), ("no", "yes"), ("yes", "yes")]


def _accuracy(targets, predictions):
  same = [t == p for t, p in zip(targets, predictions, strict=True)]
  return {"accuracy": seqio.metrics.Scalar(100 * sum(same) / len(same))}


def _count(targets, predictions):
  return {"count": len(predictions), "note": seqio.metrics.Text("not shown")}


def _score(targets, scores):
  return {"log_likelihood": float(np.sum(scores))}


def _aux(targets, predictions, aux_values):
  return {"mean_score": float(np.mean(aux_values["scores"]))}


def _upper(text, **unused):
  return text.upper()


def _task(name, pairs, metric_fns, postprocess=None, function=None, **kwargs):
  """Registers a task of byte pairs."""

  def examples(split, shuffle_files, seed=None):
    inputs, targets = zip(*pairs, strict=True) if pairs else ((), ())
    return tf.data.Dataset.from_tensor_slices(
      {
        "inputs": tf.constant(inputs, tf.string),
        "targets": tf.constant(targets, tf.string),
      }
    )

  feature = seqio.Feature(seqio.ByteVocabulary(), add_eos=True, required=False)
  seqio.TaskRegistry.remove(name)
  seqio.TaskRegistry.add(
    name,
    source=seqio.FunctionDataSource(
      function or examples, splits=["validation", "test"]
    ),
    preprocessors=[
      seqio.preprocessors.tokenize,
      seqio.preprocessors.append_eos_after_trim,
    ],
    output_features={"inputs": feature, "targets": feature},
    metric_fns=metric_fns,
    postprocess_fn=postprocess,
    **kwargs,
  )


@pytest.fixture(scope="module", autouse=True)
def tasks():
  _task("pairs", PAIRS, [_accuracy, _count])
  _task("yes_no", YES_NO, [_accuracy], _upper)
  _task("scored", PAIRS, [_score, _aux])
  _task("unmeasured", PAIRS, [])
  _task("nothing", [], [_accuracy])
  seqio.MixtureRegistry.remove("both")
  seqio.MixtureRegistry.add("both", [("pairs", 1), ("yes_no", 3)])
  seqio.MixtureRegistry.remove("some")
  seqio.MixtureRegistry.add("some", [("pairs", 1), ("unmeasured", 1)])


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Copy:
  """A model whose output is its input."""

  scale: jax.Array
  vocab_size: int = dataclasses.field(metadata={"static": True}, default=384)

  def prefill(self, batch, length):
    inputs = batch["encoder_input_tokens"]
    return jnp.pad(inputs, ((0, 0), (0, length))), jnp.zeros((), jnp.int32)

  def step(self, tokens, state):
    inputs, index = state
    chosen = jax.lax.dynamic_index_in_dim(inputs, index, 1, keepdims=False)
    logits = self.scale * jax.nn.one_hot(chosen, self.vocab_size)
    return logits, (inputs, index + 1)


def _state(model, step=7):
  return train_state.TrainState(jnp.asarray(step, jnp.int32), model, ())


@pytest.fixture(scope="module")
def trainer():
  return trained_model.trainer_of(
    tiny.t5(vocab=384),
    objectives.Seq2Seq(),
    partitioning.Partitioner({"data": -1}, {"batch": "data"}),
  )


@pytest.fixture(scope="module")
def model():
  return tiny.fill(tiny.t5(vocab=384))


def _evaluator(mixture, **kwargs):
  settings = {"feature_lengths": LENGTHS, "batch_size": 8, "task_modules": ()}
  return evaluators.TaskEvaluator(mixture, **(settings | kwargs))


def _dataset(mixture="pairs", **kwargs):
  settings = {"split": "validation", "shuffle": False, "num_epochs": 1}
  settings |= {"num_shards": 1, "task_modules": ()}
  return datasets.Dataset(mixture, LENGTHS, 8, **(settings | kwargs))


COPY = _state(Copy(jnp.asarray(20.0)))


def test_task_metrics_and_predictions(trainer, tmp_path):
  evaluator = _evaluator("pairs", workdir=str(tmp_path))
  values = evaluator(trainer, COPY)
  assert values == {"pairs/accuracy": 60.0, "pairs/count": 5.0}
  path = tmp_path / "predictions" / "pairs-7.jsonl"
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  assert rows == [
    {"inputs": inputs, "target": target, "prediction": inputs}
    for inputs, target in PAIRS
  ]
  assert list(path.parent.iterdir()) == [path]


def test_postprocessors_apply_to_both_sides(trainer, tmp_path):
  seen = []

  def watch(targets, predictions):
    seen.extend((targets, predictions))
    return {"n": 1}

  _task("watched", YES_NO, [watch], _upper)
  _evaluator("watched")(trainer, COPY)
  assert seen == [["YES", "YES", "YES"], ["YES", "NO", "YES"]]


def test_a_mixture_gives_metrics_of_each_task_and_their_mean(trainer, tmp_path):
  evaluator = _evaluator("both", workdir=str(tmp_path))
  values = evaluator(trainer, COPY)
  assert values == {
    "pairs/accuracy": 60.0,
    "pairs/count": 5.0,
    "yes_no/accuracy": pytest.approx(200 / 3),
    "mean/accuracy": pytest.approx((60 + 200 / 3) / 2),
  }
  names = sorted(path.name for path in (tmp_path / "predictions").iterdir())
  assert names == ["pairs-7.jsonl", "yes_no-7.jsonl"]


def test_evaluating_again_gives_the_same_and_compiles_nothing(trainer):
  traces = []

  def counted(logits, key):
    traces.append(logits.shape)
    return decoding.greedy(logits, key)

  decoder = decoding.Decoder(8, counted)
  evaluator = _evaluator("both", decoder=decoder)
  first = evaluator(trainer, COPY)
  assert evaluator(trainer, _state(Copy(jnp.asarray(9.0)), step=8)) == first
  assert traces == [(8, 384)]


def test_fewer_examples_are_drawn_by_the_seed(trainer, tmp_path):
  def inputs(**kwargs):
    evaluator = _evaluator(
      "pairs", num_examples=2, workdir=str(tmp_path), **kwargs
    )
    assert evaluator(trainer, COPY)["pairs/count"] == 2
    path = tmp_path / "predictions" / "pairs-7.jsonl"
    return [json.loads(line)["inputs"] for line in path.open()]

  subsets = [inputs(seed=seed) for seed in range(4)]
  assert len({tuple(subset) for subset in subsets}) > 1
  assert inputs(seed=2) == subsets[2]
  _task("in_order", PAIRS, [_accuracy], shuffle_buffer_size=None)
  evaluator = _evaluator("in_order", num_examples=2)
  assert evaluator(trainer, COPY) == {"in_order/accuracy": 100.0}


def test_a_source_that_takes_no_seed(trainer):
  def examples(split, shuffle_files):
    inputs, targets = zip(*PAIRS, strict=True)
    return tf.data.Dataset.from_tensor_slices(
      {"inputs": list(inputs), "targets": list(targets)}
    )

  _task("seedless", PAIRS, [_accuracy], function=examples)
  assert _evaluator("seedless")(trainer, COPY) == {"seedless/accuracy": 60.0}


def test_scores_are_those_of_the_loss(trainer, model):
  values = _evaluator("scored")(trainer, _state(model))
  loss = evaluators.LossEvaluator("x", _dataset("scored"))
  tokens = sum(len(target.encode()) + 1 for _, target in PAIRS)
  cross_entropy = loss(trainer, _state(model))["cross_entropy"]
  assert values["scored/log_likelihood"] == pytest.approx(
    -tokens * cross_entropy, rel=1e-4
  )
  assert values["scored/mean_score"] < 0


def test_another_vocabulary(trainer, tmp_path):
  evaluator = _evaluator(
    "pairs", vocabulary=vocabularies.Bytes(extra_ids=9), workdir=str(tmp_path)
  )
  task = evaluator.provider
  assert task.output_features["targets"].vocabulary.extra_ids == 9
  assert evaluator(trainer, COPY)["pairs/accuracy"] == 60.0
  registered = seqio.TaskRegistry.get("pairs")
  assert registered.output_features["targets"].vocabulary.extra_ids == 0
  assert not [n for n in seqio.TaskRegistry.names() if n.startswith("_")]


def test_long_examples_are_cut(trainer):
  _task("long", [("a" * 99, "a" * 99), ("b", "b")], [_accuracy])
  assert _evaluator("long")(trainer, COPY) == {"long/accuracy": 50.0}


def test_tasks_without_metrics_are_left_out_with_a_warning(trainer, caplog):
  with caplog.at_level(logging.WARNING):
    values = _evaluator("some")(trainer, COPY)
  assert set(values) == {"pairs/accuracy", "pairs/count"}
  assert "task unmeasured has no metrics" in caplog.text


@pytest.mark.parametrize(
  "mixture,settings,error,message",
  [
    ("nothing", {}, errors.DataError, "'nothing' has no examples in split"),
    (
      "pairs",
      {"split": "validatoin"},
      errors.ConfigError,
      "no split 'validatoin'; did you mean 'validation'.*'test'",
    ),
    ("pair", {}, errors.ConfigError, "'pair'; did you mean 'pairs'"),
    (
      "pairs",
      {"feature_lengths": {"inputs": 8}},
      errors.ConfigError,
      "lacks 'targets'",
    ),
    ("pairs", {"batch_size": 3}, errors.ConfigError, "batch size 3 does not"),
  ],
)
def test_mistakes(trainer, mixture, settings, error, message):
  with pytest.raises(error, match=message):
    _evaluator(mixture, **settings)(trainer, COPY)


def test_a_corrupt_record_is_told_with_its_file(trainer, tmp_path):
  path = tmp_path / "data.tfrecord"
  with tf.io.TFRecordWriter(str(path)) as writer:
    for pair in PAIRS:
      features = {
        name: tf.train.Feature(
          bytes_list=tf.train.BytesList(value=[text.encode()])
        )
        for name, text in zip(("inputs", "targets"), pair, strict=True)
      }
      example = tf.train.Example(features=tf.train.Features(feature=features))
      writer.write(example.SerializeToString())
  _task("damaged", PAIRS, [_accuracy])
  spec = tf.io.FixedLenFeature([], tf.string)
  source = seqio.TFExampleDataSource(
    {"validation": str(path)}, {"inputs": spec, "targets": spec}
  )
  task = seqio.TaskRegistry.get("damaged").replace(source=source)
  seqio.TaskRegistry.remove("damaged")
  seqio.TaskRegistry.add_provider("damaged", task)
  assert _evaluator("damaged")(trainer, COPY) == {"damaged/accuracy": 60.0}
  content = bytearray(path.read_bytes())
  content[-10] ^= 1
  path.write_bytes(content)
  with pytest.raises(errors.DataError, match="data.tfrecord is corrupt: reco"):
    _evaluator("damaged")(trainer, COPY)


def test_loss_is_that_of_the_whole_split(trainer, model):
  """Packed or not, in one batch or in many, on all devices."""
  rows = [next(_dataset(pack=False).iterator())]
  total = functools.reduce(
    metrics.merge,
    (trainer.eval_step(model, trainer.put(batch)) for batch in rows),
  )
  expected = metrics.values(total)
  assert float(total["loss"].weight) == sum(
    len(target.encode()) + 1 for _, target in PAIRS
  )
  for dataset in (_dataset(), _dataset(pack=False)):
    found = evaluators.LossEvaluator("x", dataset)(trainer, _state(model))
    assert found == pytest.approx(expected, rel=1e-5)
  assert expected["loss"] > 1


def test_loss_of_the_first_batches_is_always_of_the_same(trainer, model):
  dataset = _dataset(num_epochs=None, shuffle=True, seed=3, pack=False)
  evaluator = evaluators.LossEvaluator("x", dataset, num_batches=2)
  first = evaluator(trainer, _state(model))
  assert evaluator(trainer, _state(model)) == first
  iterator = dataset.iterator()
  parts = [
    trainer.eval_step(model, trainer.put(next(iterator))) for _ in range(2)
  ]
  assert first == metrics.values(metrics.merge(*parts))
  one = dataclasses.replace(evaluator, num_batches=1)
  assert one(trainer, _state(model)) == metrics.values(parts[0])


def test_loss_mistakes(trainer, model):
  with pytest.raises(errors.ConfigError, match="would never end"):
    evaluators.LossEvaluator("x", _dataset(num_epochs=None))
  with pytest.raises(errors.ConfigError, match="num_batches is 0"):
    evaluators.LossEvaluator("x", _dataset(), num_batches=0)
  with pytest.raises(errors.DataError, match="no examples"):
    evaluators.LossEvaluator("x", _dataset("nothing"))(trainer, _state(model))


def test_run_names_metrics_after_their_evaluators(trainer, tmp_path):
  class Constant:
    def __init__(self, name):
      self.name = name

    def __call__(self, trainer, state):
      return {"one": 1.0}

  several = evaluators.in_workdir(
    [_evaluator("pairs", name="held_out"), Constant("b")], tmp_path
  )
  values = evaluators.run(several, trainer, COPY)
  assert set(values) == {
    "held_out/pairs/accuracy",
    "held_out/pairs/count",
    "b/one",
  }
  assert (tmp_path / "predictions" / "pairs-7.jsonl").exists()
  with pytest.raises(errors.ConfigError, match="two evaluators .* 'b'"):
    evaluators.run([Constant("b"), Constant("b")], trainer, COPY)
