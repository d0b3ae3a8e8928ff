"""Which steps are kept: the newest, every k-th, and the best by a metric."""

import json
import logging
import math
import pathlib
from collections.abc import Mapping, Sequence

from t5x_lite import errors

METRICS = "metrics.json"
_log = logging.getLogger(__name__)


class Retention:
  """The steps to keep, and the metric that tells the best.

  Args:
    directory: of the steps, for the metrics that earlier runs saved.
    keep: how many of the newest; None is all.
    keep_every: also all steps that this number divides.
    best_metric: also the step where this metric is best.
    best_mode: "max" or "min".
  """

  def __init__(
    self,
    directory: pathlib.Path,
    *,
    keep: int | None,
    keep_every: int | None = None,
    best_metric: str | None = None,
    best_mode: str = "max",
  ):
    self._directory = directory
    self._keep, self._keep_every = keep, keep_every
    self._best_metric, self._sign = best_metric, 1 if best_mode == "max" else -1
    self._scores: dict[int, float] = {}

  def note(self, step: int, metrics: Mapping[str, float]) -> None:
    """Remembers the metrics of a step that is about to be saved."""
    wanted = self._best_metric
    if wanted is None:
      return
    self._scores[step] = metrics.get(wanted, math.nan)
    if metrics and wanted not in metrics:
      _log.warning(
        "Step %d has no metric %r to compare checkpoints by%s",
        step,
        wanted,
        errors.suggest(wanted, metrics) or f"; it has {', '.join(metrics)}.",
      )

  def _score(self, step: int) -> float:
    if step not in self._scores:
      saved = read_metrics(self._directory / str(step))
      self._scores[step] = saved.get(self._best_metric or "", math.nan)
    return self._scores[step]

  def best(self, steps: Sequence[int]) -> int | None:
    """The step with the best finite score, the latest of equals."""
    if self._best_metric is None:
      return None
    finite = [step for step in steps if math.isfinite(self._score(step))]
    return max(
      finite,
      key=lambda step: (self._sign * self._score(step), step),
      default=None,
    )

  def kept(self, steps: Sequence[int]) -> set[int]:
    """Those of the steps that are kept."""
    newest = sorted(steps)[0 if self._keep is None else -self._keep :]
    every = self._keep_every
    periodic = [step for step in steps if every and step % every == 0]
    best = self.best(steps)
    return {*newest, *periodic, *([] if best is None else [best])}


def write_metrics(
  directory: pathlib.Path, metrics: Mapping[str, float]
) -> None:
  """Writes the metrics of a step, if there are any."""
  if metrics:
    (directory / METRICS).write_text(json.dumps(dict(metrics)))


def read_metrics(directory: pathlib.Path) -> dict[str, float]:
  """The metrics saved with a step; empty if there is no readable file."""
  try:
    return json.loads((directory / METRICS).read_text())
  except (OSError, ValueError):
    return {}
