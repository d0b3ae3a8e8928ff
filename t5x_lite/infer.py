"""The `infer` command: a trained model's predictions or scores as JSON lines.

Every line has "inputs", whatever else the input came with, and "truncated":
true if its text is longer than the model's inputs.  Lines are in the input's
order.  Beside that stand, by the mode,

  predict  "prediction" and "score", the log-probability of its tokens; with a
           decoder of several results also "predictions", [{"prediction",
           "score"}, ...], the best first
  score    "score", the log-probability of the "targets" given the inputs, and
           "num_tokens", how many these have with the end of sequence

Strings that end an answer (STOP) are looked for in what is decoded alone: an
input may hold them, as a few-shot prompt does.
"""

import dataclasses
import hashlib
import itertools
import logging
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from t5x_lite import (
  chunks,
  decoding,
  describe,
  errors,
  flops,
  hosts,
  sources,
  trained_model,
)
from t5x_lite.auto_mesh import Automatic
from t5x_lite.objectives import Objective
from t5x_lite.partitioning import Partitioner
from t5x_lite.trainer import Trainer

_PRINTED, _WIDTH = 8, 100  # predictions that are printed, characters of each
_IDS, _TEXT = 30, 300  # ids and characters of the input of a dry run
MODES = ("predict", "score")
_log = logging.getLogger(__name__)


def infer(
  *,
  workdir: str,
  model: Callable[..., Any],
  objective: Objective,
  partitioner: Partitioner | Automatic,
  source: sources.Source,
  output: chunks.Output,
  batch_size: int,
  mode: str = "predict",
  decoder: decoding.Search | None = None,
  seed: int = 0,
  answer_prefix: str = "",
  checkpoint: str | None = None,
  step: int | str = "latest",
  dry_run: bool = False,
) -> pathlib.Path:
  """Predicts for, or scores, all examples or this process's share of them.

  Goes on after what an interrupted call with the same settings wrote.
  Returns the path of the file.

  Args:
    workdir: of the run that trained the model.
    model: its constructor.
    objective: makes batches.
    partitioner: mesh and rules, or what chooses them.
    source: what to predict for.
    output: where to write, and which share of the examples to make.
    batch_size: rows decoded at once, over all devices.
    mode: "predict", or "score" for the targets that are there.
    decoder: None is greedy, up to the length of the targets.
    seed: of decoders that draw.
    answer_prefix: what every prediction begins with.
    checkpoint: a workdir or the directory of a step; by default `workdir`.
    step: "latest" or a number.
    dry_run: show what would be done.

  Raises:
    DataError: the source is missing, empty or has a bad line, or targets that
      are longer than allowed and are to be scored.
    CheckpointError: no such checkpoint, or one of another model.
    ConfigError: the objective does not generate, the file was begun with
      other settings, the vocabulary is not the run's, or there is no such
      mode.
  """
  if mode not in MODES:
    raise errors.ConfigError(
      f"mode {mode!r} is none of {', '.join(MODES)}"
      f"{errors.suggest(mode, MODES)}"
    )
  decoding.generative(objective)
  if mode == "score":
    source = source.with_targets()
  decoder = decoding.decoder_of(source.feature_lengths, decoder).completed(
    start=getattr(objective, "start", None)
  )
  checkpoint = checkpoint or workdir
  ((number, directory),) = trained_model.find(checkpoint, step).items()
  trained_model.check_vocabulary(checkpoint, source.vocabularies())
  scan = source.scan()
  name = source.name if mode == "predict" else f"{source.name}-scores"
  default = pathlib.Path(workdir, "infer", f"{name}-{number}.jsonl")
  record = _record(directory, scan, batch_size, output) | (
    {"decoder": decoder.record(), "seed": seed, "prefix": answer_prefix}
    if mode == "predict"
    else {"mode": mode}
  )
  job = _Job(
    source=source,
    mode=mode,
    decoder=decoder,
    seed=seed,
    answer_prefix=answer_prefix,
    batch_size=batch_size,
    ranges=output.chunks(scan.count, batch_size),
    writer=chunks.Writer(output.file(default), record),
  )
  done = hosts.on_first(job.writer.done)
  made = trained_model.trainer_of(model, objective, partitioner)
  if dry_run:
    job.show(made, scan, directory, done)
  elif done is None:
    print(f"{job.writer.path} is complete already")
  else:
    job.run(made, trained_model.restore(made, directory).model, done)
  return job.writer.path


def _record(
  directory: pathlib.Path,
  scan: sources.Scan,
  batch_size: int,
  output: chunks.Output,
) -> dict[str, Any]:
  """What determines the results, to tell whether to go on with a file."""
  from t5x_lite.checkpoints import manifest

  sealed = (directory / manifest.NAME).read_bytes()
  return {
    "checkpoint": {
      "path": str(directory),
      "sha256": hashlib.sha256(sealed).hexdigest(),
    },
    "source": scan.fingerprint,
    "examples": scan.count,
    "shard": f"{output.shard} of {output.num_shards}",
    "batch_size": batch_size,
    "chunk_size": output.chunk_size,
  }


@dataclasses.dataclass(frozen=True)
class _Job:
  """Examples in ranges, each of which becomes a chunk of the file."""

  source: sources.Source
  mode: str
  decoder: decoding.Search
  seed: int
  answer_prefix: str
  batch_size: int
  ranges: list[tuple[int, int]]
  writer: chunks.Writer

  @property
  def count(self) -> int:
    return sum(stop - start for start, stop in self.ranges)

  def run(self, made: Trainer, model: Any, done: int) -> None:
    """Makes the chunks that are not there, and joins all of them."""
    vocabulary = self.source.text_vocabulary
    predictor = decoding.Predictor(
      self.decoder.completed(eos=self.source.eos_id()),
      made.objective,
      made.partitioner,
      feature_lengths=self.source.feature_lengths,
      batch_size=self.batch_size,
      seed=self.seed,
      vocabulary=vocabulary,
      prefix=vocabulary.encode(self.answer_prefix),
    )
    first, writes = self._size(done), hosts.is_first()
    if done:
      _log.info("going on after %d of %d examples", first, self.count)
    started = time.monotonic()
    remaining = self.ranges[done:] or [(0, 0)]
    queries = self.source.read(remaining[0][0], remaining[-1][1])
    for chunk in range(done, len(self.ranges)):
      start, stop = self.ranges[chunk]
      part = list(itertools.islice(queries, stop - start))
      rows = list(self._rows(predictor, model, part, start))
      if writes:
        self.writer.write(chunk, rows)
      ready = self._size(chunk + 1)
      speed = (ready - first) / (time.monotonic() - started)
      _log.info("%d of %d examples, %.1f a second", ready, self.count, speed)
    if writes:
      self.writer.finish(len(self.ranges))
      self._tell()

  @property
  def _results(self) -> str:
    return "scores" if self.mode == "score" else "predictions"

  @property
  def _numbers(self) -> tuple[str, ...]:
    return ("score",) if self.mode == "score" else ()

  def _size(self, num_chunks: int) -> int:
    return sum(stop - start for start, stop in self.ranges[:num_chunks])

  def _rows(
    self,
    predictor: decoding.Predictor,
    model: Any,
    queries: Sequence[sources.Query],
    start: int,
  ) -> Iterator[dict[str, Any]]:
    examples = [query.features for query in queries]
    if self.mode == "score":
      found = self._scores(predictor.score(model, examples), queries)
    else:
      found = map(_predicted, predictor.predict(model, examples, first=start))
    for query, made in zip(queries, found, strict=True):
      cut = {"truncated": True} if query.truncated else {}
      yield query.record | made | cut

  @staticmethod
  def _scores(
    scores: Iterator[float], queries: Sequence[sources.Query]
  ) -> Iterator[dict[str, Any]]:
    for query, score in zip(queries, scores, strict=True):
      size = len(query.features[decoding.TARGETS])
      yield {"score": round(score, 6), "num_tokens": size}

  def _tell(self) -> None:
    cut = sum("truncated" in row for row in self.writer.rows())
    if cut:
      _log.warning(
        "%d of %d inputs are longer than %d tokens and were cut; their lines"
        ' have "truncated": true',
        cut,
        self.count,
        self.source.feature_lengths["inputs"],
      )
    print(f"{self.count} {self._results} in {self.writer.path}")
    for row in itertools.islice(self.writer.rows(), _PRINTED):
      for name in ("inputs", "prediction", "targets", *self._numbers):
        if name in row:
          print(f"  {name + ':':12}{_one_line(row[name])}")
      print()

  def show(
    self,
    made: Trainer,
    scan: sources.Scan,
    directory: pathlib.Path,
    done: int | None,
  ) -> None:
    """Prints what `run` would do."""
    state = (
      "complete" if done is None else f"{self._size(done):,} examples are there"
    )
    told = ("file", "prefix", "key", "mixture", "split")
    facts: dict[str, Any] = {
      "model": type(made.abstract.model).__name__,
      "parameters": flops.num_parameters(made.abstract.model),
      "checkpoint": directory,
      **{
        name: scan.fingerprint[name]
        for name in told
        if name in scan.fingerprint
      },
      "feature lengths": dict(self.source.feature_lengths),
      "examples": f"{self.count:,} of {scan.count:,}",
      "output": f"{self.writer.path}: {state}",
    }
    for query in self.source.read(*self.ranges[0]) if self.ranges else ():
      ids = list(map(int, query.features["inputs"]))
      facts["first input"] = query.record["inputs"][:_TEXT]
      facts["its ids"] = ", ".join(map(str, ids[:_IDS]))
      facts["of it"] = f"{len(ids)} tokens"
      break
    describe.show([describe.facts("Inference", facts)])


def _predicted(found: decoding.Prediction) -> dict[str, Any]:
  """What a line has of a prediction, and of the others if there are any."""
  results = [
    {"prediction": one.text, "score": round(one.score, 6)}
    for one in (found, *found.others)
  ]
  best = dict(results[0])
  return best | ({"predictions": results} if len(results) > 1 else {})


def _one_line(value: Any) -> str:
  line = " ".join(str(value).split())  # JSON lines may hold anything
  return line if len(line) <= _WIDTH else f"{line[: _WIDTH - 2]} …"
