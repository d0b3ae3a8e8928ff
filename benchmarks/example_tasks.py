"""Tasks for benchmarks/data_pipeline.py: span corruption in two manners."""

import functools
import pathlib
from collections.abc import Mapping
from typing import Any

LENGTHS = {"inputs": 512, "targets": 114}
DENSITY, MEAN_SPAN = 0.15, 3.0


def write(text: pathlib.Path, folder: pathlib.Path, files: int) -> None:
  """Writes one example a line: `long-*.txt` and `short-*.txt`."""
  lines = [line.strip() for line in text.open(encoding="utf-8")]
  lines = [line for line in lines if line and not line.startswith("=")]
  sentences = [s.strip() for line in lines for s in line.split(" . ")]
  examples = {
    "long": [line for line in lines if len(line) > 200],
    "short": [sentence for sentence in sentences if len(sentence) > 8],
  }
  for kind, found in examples.items():
    for index in range(files):
      path = folder / f"{kind}-{index}.txt"
      path.write_text("".join(f"{e}\n" for e in found[index::files]))


def corrupt_one(
  example: dict[str, Any], seeds: Any, output_features: Mapping[str, Any]
) -> dict[str, Any]:
  """Span corruption of one example, in the manner of T5's preprocessors."""
  import tensorflow as tf

  tokens = example["targets"][:568]
  length = tf.maximum(tf.size(tokens), 2)
  noise = tf.cast(tf.round(tf.cast(length, tf.float32) * DENSITY), tf.int32)
  noise = tf.clip_by_value(noise, 1, length - 1)
  spans = tf.cast(tf.round(tf.cast(noise, tf.float32) / MEAN_SPAN), tf.int32)
  spans = tf.maximum(spans, 1)

  def partition(total: Any, seed: Any) -> Any:
    starts = tf.cast(tf.range(total - 1) < spans - 1, tf.int32)
    starts = tf.random.experimental.stateless_shuffle(starts, seed)
    segment = tf.cumsum(tf.pad(starts, [[1, 0]]))
    return tf.math.segment_sum(tf.ones_like(segment), segment)

  runs = tf.stack(
    [partition(length - noise, seeds[0]), partition(noise, seeds[1])], axis=1
  )
  starts = tf.cumsum(tf.reshape(runs, [-1]))[:-1]
  ones = tf.ones_like(starts)
  marks = tf.math.unsorted_segment_sum(ones, starts, length)
  mask = tf.equal(tf.cumsum(marks) % 2, 1)[: tf.size(tokens)]
  size = output_features["targets"].vocabulary.vocab_size

  def keep(hidden: Any) -> Any:
    first = hidden & ~tf.pad(hidden[:-1], [[1, 0]])
    sentinels = size - tf.cumsum(tf.cast(first, tf.int32))
    return tf.boolean_mask(tf.where(first, sentinels, tokens), ~hidden | first)

  return {"inputs": keep(mask), "targets": keep(~mask)}


def register(arm: str, pattern: str, vocabulary: Any) -> None:
  """Registers the task of an arm as "benchmark"."""
  import seqio

  from tasks import preprocessors

  corrupt_each = seqio.map_over_dataset(corrupt_one, num_seeds=2)
  steps = {
    "seqio": [
      lambda dataset: dataset.map(lambda text: {"targets": text}),
      seqio.preprocessors.tokenize,
      lambda dataset, output_features: corrupt_each(
        dataset, output_features=output_features
      ),
      seqio.preprocessors.append_eos_after_trim,
    ]
  }.get(
    arm,
    [
      lambda dataset: dataset.map(lambda text: {"text": text}),
      preprocessors.tokenize_documents,
      functools.partial(preprocessors.span_corruption, join=False),
    ],
  )
  seqio.TaskRegistry.add(
    "benchmark",
    source=seqio.TextLineDataSource({"train": pattern}),
    preprocessors=steps,
    output_features={name: seqio.Feature(vocabulary) for name in LENGTHS},
  )
