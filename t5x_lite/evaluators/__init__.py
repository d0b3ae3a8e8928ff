"""Evaluators: what is measured of a model, while it trains or afterwards.

An evaluator maps (trainer, state) to metrics by name.  Its `name` goes in
front of them in logs and tables, so that two evaluators do not collide.
"""

from t5x_lite.evaluators.base import (
  Evaluator,
  OfText,
  Particular,
  check,
  in_workdir,
  run,
)
from t5x_lite.evaluators.labels import LabelEvaluator
from t5x_lite.evaluators.lengths import LengthEvaluator
from t5x_lite.evaluators.loss import LossEvaluator
from t5x_lite.evaluators.perplexity import PerplexityEvaluator
from t5x_lite.evaluators.task import TaskEvaluator

__all__ = [
  "Evaluator",
  "LabelEvaluator",
  "LengthEvaluator",
  "LossEvaluator",
  "OfText",
  "Particular",
  "PerplexityEvaluator",
  "TaskEvaluator",
  "check",
  "in_workdir",
  "run",
]
