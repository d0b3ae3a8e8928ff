"""What reading ahead saves where the input is about as slow as the step.

The training loop (`loop.Loop`) for each number of batches ahead, in one
process: a tiny T5 on random rows that a source gives after a pause, as one on
a network would.  The pause is given, or else the time of a step, measured
first: there reading ahead can save most, half of the time.

  python benchmarks/prefetch.py [--steps 30] [--ahead 0,2] [--rounds 3]
      [--pause 0.05]

Prints, for each number, the time of a step, how much of it the loop waited for
data, and the ratio to none ahead: medians over the steps of all rounds, which
alternate, so that a slow minute of the machine hits all.  At best a step takes
as long as the slower one of source and computation, which is without what it
waits with none ahead.
"""

import argparse
import functools
import io
import itertools
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

LENGTHS = {"inputs": 64, "targets": 32}
BATCH, VOCAB = 8, 512
WARM = 5  # steps before the clock starts, the one that compiles among them


class Slow:
  """Random rows without padding, each batch after `pause` seconds."""

  def __init__(self, pause: float):
    self.pause, self._rng = pause, np.random.default_rng(0)

  def __next__(self) -> dict[str, np.ndarray]:
    time.sleep(self.pause)
    rows = {}
    for name, length in LENGTHS.items():
      shape = (BATCH, length)
      rows[name] = self._rng.integers(2, VOCAB, shape, np.int32)
      rows[f"{name}_segment_ids"] = np.ones(shape, np.int32)
      rows[f"{name}_positions"] = np.tile(
        np.arange(length, dtype=np.int32), (BATCH, 1)
      )
    return rows

  def save(self, directory: object, ahead: object = ()) -> None:
    """Nothing to save."""


class Session:
  """A session that saves nothing: the disk is not what is measured."""

  def save(self, *arguments: object, **more: object) -> bool:
    return True

  def wait(self) -> None:
    """Nothing to wait for."""

  def latest_step(self) -> None:
    return None


def make_trainer() -> Any:
  """Of a small T5."""
  from t5x_lite import (
    layers,
    models,
    objectives,
    optimizers,
    partitioning,
    schedules,
    trainer,
  )

  partial = functools.partial
  shape = {"heads": 4, "head_dim": 32}

  def stack(causal: bool, **sublayers: Any) -> Any:
    sublayers = {
      "attention": partial(layers.Attention, causal=causal, **shape),
      **sublayers,
      "feed_forward": partial(layers.GatedFeedForward, hidden=256),
    }
    block = partial(layers.Block, sublayers=sublayers)
    return partial(layers.Stack, num_layers=2, block=block)

  model = partial(
    models.EncoderDecoder,
    vocab_size=VOCAB,
    dim=128,
    encoder=stack(False),
    decoder=stack(
      True, cross_attention=partial(layers.CrossAttention, **shape)
    ),
  )
  return trainer.Trainer(
    model,
    objectives.Seq2Seq(),
    optimizers.adafactor(schedules.constant(0.01)),
    partitioning.Partitioner({"data": 1}, {}, num_devices=1),
  )


def run(
  trainer: Any, steps: int, ahead: int, pause: float
) -> list[tuple[float, float]]:
  """Seconds of each step, and of them those the loop waited for data."""
  from t5x_lite import (
    loop,
    prefetch,
    profiling,
    progress,
    stopwatch,
    summaries,
    telemetry,
  )

  watch = stopwatch.Stopwatch()
  total = WARM + steps
  logged = []

  class Clock(summaries.Summaries):
    """Notes when log points are reached, and writes nothing."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
      waited = watch.seconds().get(stopwatch.DATA, 0.0)
      logged.append((watch.total(), waited))

  with tempfile.TemporaryDirectory() as workdir:
    shown = progress.Progress(total, stopwatch=watch, stream=io.StringIO())
    with Clock(workdir, tensorboard=False) as writer, shown:
      loop.Loop(
        trainer=trainer,
        session=Session(),
        batches=prefetch.batches(
          Slow(pause), trainer.put, size=ahead, limit=total
        ),
        evaluators=(),
        summaries=writer,
        progress=shown,
        telemetry=telemetry.Telemetry(watch),
        workdir=pathlib.Path(workdir),
        num_steps=total,
        eval_every=total,
        evaluate_first=False,
        log_every=1,
        save_every=10 * total,
        profile=profiling.Profile(),
      ).run(trainer.init(), 0)
  marks = logged[WARM - 1 :]
  return [
    (end - begin, after - before)
    for (begin, before), (end, after) in itertools.pairwise(marks)
  ]


def medians(found: list[tuple[float, float]]) -> tuple[float, ...]:
  """Of each column."""
  return tuple(statistics.median(part) for part in zip(*found, strict=True))


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--steps", type=int, default=30, help="of a run")
  parser.add_argument("--ahead", default="0,2", help="batches, 0 first")
  parser.add_argument("--rounds", type=int, default=3)
  parser.add_argument("--pause", type=float, help="seconds a batch")
  arguments = parser.parse_args()
  sizes = [int(size) for size in arguments.ahead.split(",")]
  import jax

  trainer = make_trainer()
  step, _ = medians(run(trainer, arguments.steps, 0, 0.0))
  pause = arguments.pause or step
  print(f"{jax.devices()[0].device_kind}: a step takes {step * 1e3:.1f} ms,")
  print(f"the source {pause * 1e3:.1f} ms for a batch")
  found: dict[int, list[tuple[float, float]]] = {size: [] for size in sizes}
  for number in range(arguments.rounds):
    for size in sizes:
      found[size] += run(trainer, arguments.steps, size, pause)
    print(f"round {number + 1} of {arguments.rounds}", file=sys.stderr)
  print("ahead  step, ms  waiting, ms  of none ahead")
  none, waiting = medians(found[sizes[0]])
  print(f"at best {max(pause, none - waiting) / none:35.2f}")
  for size, steps in found.items():
    step, waiting = medians(steps)
    row = f"{size:5} {step * 1e3:9.1f} {waiting * 1e3:12.1f}"
    print(f"{row} {step / none:14.2f}")


if __name__ == "__main__":
  main()
