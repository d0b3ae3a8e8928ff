"""Metrics of tasks, as SeqIO's `metric_fns`, each beside a trivial baseline.

All are percentages, as in T5.  A metric says little alone: accuracy stands
next to what the commonest answer would score, a summary next to its lead.
"""

import collections
import re
import string
from collections.abc import Mapping, Sequence


def accuracy(
  targets: Sequence[str], predictions: Sequence[str]
) -> dict[str, float]:
  """Returns how many predictions equal their targets, surrounding space aside.

  "majority_accuracy" is the score of always giving the commonest target.
  """
  targets = [target.strip() for target in targets]
  right = sum(
    target == prediction.strip()
    for target, prediction in zip(targets, predictions, strict=True)
  )
  commonest = collections.Counter(targets).most_common(1)
  majority = sum(count for _, count in commonest)
  return {
    "accuracy": _percent(right, len(targets)),
    "majority_accuracy": _percent(majority, len(targets)),
  }


def exact_match(
  targets: Sequence[str | Sequence[str]], predictions: Sequence[str]
) -> dict[str, float]:
  """Returns how many predictions agree with one of their targets.

  Case, punctuation, articles and spacing do not count (as in SQuAD;
  Rajpurkar et al., 2016).
  """
  right = 0
  for accepted, prediction in zip(targets, predictions, strict=True):
    answers = [accepted] if isinstance(accepted, str) else accepted
    right += _plain(prediction) in map(_plain, answers)
  return {"exact_match": _percent(right, len(targets))}


def rouge(
  targets: Sequence[str | Mapping[str, str]], predictions: Sequence[str]
) -> dict[str, float]:
  """Returns mean F1 of ROUGE-1, -2 and -L with stemming (Lin, 2004).

  A target may be {"text": ..., "lead": ...}: the scores "lead_rouge1" and so
  on are then those of giving the lead, a sentence of the inputs, instead.
  """
  texts = [t if isinstance(t, str) else t["text"] for t in targets]
  scores = _rouge(texts, predictions)
  if targets and not any(isinstance(target, str) for target in targets):
    leads = [target["lead"] for target in targets]  # type: ignore[index]
    baseline = _rouge(texts, leads)
    scores |= {f"lead_{name}": value for name, value in baseline.items()}
  return scores


def _rouge(
  targets: Sequence[str], predictions: Sequence[str]
) -> dict[str, float]:
  from rouge_score import rouge_scorer

  names = ["rouge1", "rouge2", "rougeL"]
  scorer = rouge_scorer.RougeScorer(names, use_stemmer=True)
  totals = dict.fromkeys(names, 0.0)
  for target, prediction in zip(targets, predictions, strict=True):
    for name, score in scorer.score(target, prediction).items():
      totals[name] += score.fmeasure
  return {name: _percent(total, len(targets)) for name, total in totals.items()}


def _percent(part: float, whole: int) -> float:
  return 100.0 * part / max(whole, 1)


def _plain(text: str) -> str:
  text = text.lower().translate(str.maketrans("", "", string.punctuation))
  return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())
