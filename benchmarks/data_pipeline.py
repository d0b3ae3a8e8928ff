"""The data pipeline stage by stage, against SeqIO's own on the same text.

Span corruption of single examples (T5's, 512 inputs and 114 targets), then
packing.  Long examples are paragraphs, short ones sentences.  The arms:

  ours    the preprocessors of `tasks`, the pipeline of `datasets`
  loader  the preprocessors of `tasks`, SeqIO's loader and converter
  seqio   tokenizing and corrupting example by example, as is usual with
          SeqIO; its loader and EncDecFeatureConverter(pack=True)

Each stage includes those before it.  Tokens are those of inputs and targets
that are not padding; a stage before corruption is counted by the tokens that
its examples will have.  `floor` is the padding that no packing can avoid: one
feature is full before the other.

  python benchmarks/data_pipeline.py --text wikitext-2/train.txt
      --vocabulary sentencepiece.model [--seconds 4] [--json out.json]
"""

import argparse
import itertools
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import example_tasks
from example_tasks import LENGTHS

ARMS = ("ours", "loader", "seqio")
KINDS = ("long", "short")
STAGES = ("read", "tokenize", "corrupt", "pack")
BATCH, SHARDS, SEED = 128, 4, 0


class Meter:
  """Wall and CPU seconds of this process, with all its threads."""

  def __init__(self):
    self._start = self._now()

  @staticmethod
  def _now() -> tuple[float, float]:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return time.perf_counter(), usage.ru_utime + usage.ru_stime

  def read(self) -> tuple[float, float]:
    wall, cpu = self._now()
    return wall - self._start[0], cpu - self._start[1]


def prefix(
  task: Any, stage: str, shard: int, num_shards: int
) -> tuple[Any, int]:
  """Returns what a task reads up to a stage, and examples per element."""
  import seqio

  dataset = task.source.get_dataset(
    "train",
    shuffle=True,
    seed=SEED,
    shard_info=seqio.ShardInfo(shard, num_shards),
  ).repeat()
  steps = {"read": 0, "tokenize": 2, "corrupt": None}[stage]
  with seqio.utils.map_seed_manager(SEED + 1000 * shard):
    for step in task.preprocessors[:steps]:
      dataset = seqio.utils.add_kwargs_to_transform(
        step, sequence_length=LENGTHS, output_features=task.output_features
      )(dataset)
  batched = stage == "tokenize" and "tokens" in dataset.element_spec
  return dataset, 128 if batched else 1


def drain(arm: str, task: Any, stage: str, seconds: float) -> dict[str, float]:
  """Reads examples up to a stage, in TensorFlow alone; returns its speed."""
  from concurrent import futures

  from t5x_lite.pipelines import graphs, shards

  num_shards = SHARDS if arm == "ours" else 1
  parts = [prefix(task, stage, i, num_shards) for i in range(num_shards)]
  datasets = [dataset for dataset, _ in parts]
  if arm == "ours":
    datasets = [
      graphs.streamlined(d, graphs.serialize(d, stage)).with_options(
        shards.options()
      )
      for d in datasets
    ]
  with futures.ThreadPoolExecutor(num_shards) as pool:

    def run(count: int) -> tuple[int, float, float]:
      meter = Meter()
      # A shuffle of one reads each element; a bare skip may go other ways.
      ends = [d.shuffle(1, seed=1).skip(count) for d in datasets]
      list(pool.map(lambda end: next(iter(end)), ends))
      return count * num_shards * parts[0][1], *meter.read()

    run(64)  # Opens files, instantiates functions.
    count = 256
    examples, wall, cpu = run(count)
    while wall < seconds / 2:
      count = int(count * min(16, 1.2 * seconds / wall))
      examples, wall, cpu = run(count)
  return {"examples": examples, "wall": wall, "cpu": cpu}


def batches(arm: str, record: Any) -> Iterator[dict]:
  """Yields packed batches of the task; of SeqIO's, those keys we count."""
  import seqio

  from t5x_lite import datasets

  if arm == "ours":
    yield from datasets.Dataset(
      "benchmark",
      LENGTHS,
      BATCH,
      num_shards=SHARDS,
      vocabulary=record,
      task_modules=(),
    ).iterator()
  packed = seqio.get_dataset(
    "benchmark",
    LENGTHS,
    dataset_split="train",
    shuffle=True,
    seed=SEED,
    num_epochs=None,
    feature_converter=seqio.EncDecFeatureConverter(pack=True),
  )
  sides = {"inputs": "encoder", "targets": "decoder"}
  for batch in packed.batch(BATCH).as_numpy_iterator():
    yield {
      f"{name}_segment_ids": batch[f"{side}_segment_ids"]
      for name, side in sides.items()
    }


def pack(arm: str, record: Any, seconds: float) -> dict[str, float]:
  """Reads packed batches; returns speed and padding."""
  import numpy as np

  meter = Meter()
  source = batches(arm, record)
  next(source)
  first = meter.read()[0]
  for _ in range(4):
    next(source)
  used = dict.fromkeys(LENGTHS, 0)
  num_rows = examples = 0
  meter = Meter()
  while meter.read()[0] < seconds:
    batch = next(source)
    segments = {name: batch[f"{name}_segment_ids"] for name in LENGTHS}
    num_rows += len(segments["inputs"])
    examples += int(segments["inputs"].max(axis=1).sum())
    for name, ids in segments.items():
      used[name] += int(np.count_nonzero(ids))
  wall, cpu = meter.read()
  width, tokens = sum(LENGTHS.values()), sum(used.values())
  least = max(used[name] / length for name, length in LENGTHS.items())
  return {
    "examples": examples,
    "wall": wall,
    "cpu": cpu,
    "tokens_per_example": tokens / examples,
    "padding": 1 - tokens / (num_rows * width),
    "floor": 1 - tokens / (least * width),
    "first_batch": first,
  }


def measure(
  arm: str, kind: str, folder: str, model: str, seconds: float
) -> dict[str, dict[str, float]]:
  """Returns the figures of each stage of an arm."""
  import seqio

  from t5x_lite import vocabularies

  record = vocabularies.SentencePiece(model)
  vocabulary = (
    seqio.SentencePieceVocabulary(model) if arm == "seqio" else record.build()
  )
  example_tasks.register(arm, f"{folder}/{kind}-*.txt", vocabulary)
  task = seqio.TaskRegistry.get("benchmark")
  packed = pack(arm, record, seconds)
  found = {s: drain(arm, task, s, seconds) for s in STAGES[:-1]}
  found["pack"] = packed
  for figures in found.values():
    tokens = figures["examples"] * packed["tokens_per_example"]
    figures["tokens_per_second"] = tokens / figures["wall"]
    figures["cpu_seconds_per_million"] = figures["cpu"] / tokens * 1e6
  return found


def table(results: dict[str, dict[str, dict]]) -> str:
  lines = []
  for kind, arms in results.items():
    some = next(iter(arms.values()))["pack"]
    lines += [
      "",
      f"{kind} examples of {some['tokens_per_example']:.0f} tokens, "
      f"floor of padding {some['floor']:.1%}",
      f"{'':8}" + "".join(f"{stage:>18}" for stage in STAGES) + "  padding",
      f"{'':8}" + f"{'Mtok/s  s/Mtok':>18}" * len(STAGES),
    ]
    for arm, stages in arms.items():
      cells = [
        f"{stages[stage]['tokens_per_second'] / 1e6:10.2f}"
        f"{stages[stage]['cpu_seconds_per_million']:8.3f}"
        for stage in STAGES
      ]
      padding = f"{stages['pack']['padding']:9.1%}"
      lines.append(f"{arm:8}" + "".join(cells) + padding)
  return "\n".join(lines)


def run_arms(arguments: argparse.Namespace) -> dict[str, dict[str, dict]]:
  """Measures each arm in a process of its own."""
  results: dict[str, dict[str, dict]] = {}
  here = pathlib.Path(__file__).resolve()
  environment = os.environ | {
    "JAX_PLATFORMS": "cpu",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "PYTHONPATH": os.pathsep.join(
      [str(here.parents[1]), os.environ.get("PYTHONPATH", "")]
    ),
  }
  with tempfile.TemporaryDirectory() as folder:
    example_tasks.write(arguments.text, pathlib.Path(folder), SHARDS)
    for kind, arm in itertools.product(KINDS, ARMS):
      command = [sys.executable, str(here), "--one", arm, kind, folder]
      command += ["--vocabulary", arguments.vocabulary]
      command += ["--seconds", str(arguments.seconds)]
      done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, check=True, text=True
      )
      results.setdefault(kind, {})[arm] = json.loads(done.stdout)
      print(f"{kind} {arm}: done", file=sys.stderr)
  return results


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--text", type=pathlib.Path, help="one paragraph a line")
  parser.add_argument("--vocabulary", required=True, help="SentencePiece model")
  parser.add_argument("--seconds", type=float, default=4, help="per stage")
  parser.add_argument("--json", type=pathlib.Path, help="where to write all")
  parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
  arguments = parser.parse_args()
  if arguments.one:
    figures = measure(*arguments.one, arguments.vocabulary, arguments.seconds)
    print(json.dumps(figures))
    return
  if arguments.text is None:
    parser.error("--text is needed")
  results = run_arms(arguments)
  print(table(results))
  if arguments.json:
    arguments.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
  main()
