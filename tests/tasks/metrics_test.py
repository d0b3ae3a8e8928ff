"""Metrics on small cases, with the baselines beside them."""

import pytest

from tasks import metrics


def test_accuracy_and_that_of_the_commonest_answer():
  targets = ["a", "b", "a", "c"]
  assert metrics.accuracy(targets, ["a ", "b", "c", "a"]) == {
    "accuracy": 50.0,
    "majority_accuracy": 50.0,
  }
  assert metrics.accuracy([], []) == {
    "accuracy": 0.0,
    "majority_accuracy": 0.0,
  }


def test_exact_match_overlooks_case_articles_and_punctuation():
  targets = ["The cat.", ["one", "two"], "x"]
  found = metrics.exact_match(targets, ["a Cat", "Two!", "y"])
  assert found == {"exact_match": pytest.approx(200 / 3)}


def test_rouge_counts_shared_words():
  found = metrics.rouge(["the cat sat"], ["the cats ran"])
  # Two of three words, with stemming; one of two pairs.
  assert found == {
    "rouge1": pytest.approx(200 / 3),
    "rouge2": pytest.approx(50.0),
    "rougeL": pytest.approx(200 / 3),
  }


def test_rouge_stands_beside_that_of_the_lead():
  targets = [{"text": "one two", "lead": "one two"}]
  found = metrics.rouge(targets, ["one three"])
  assert found["rouge1"] == pytest.approx(50.0)
  assert found["lead_rouge1"] == found["lead_rougeL"] == pytest.approx(100.0)
  assert set(found) == {
    prefix + name
    for prefix in ("", "lead_")
    for name in ("rouge1", "rouge2", "rougeL")
  }


def test_lengths_must_agree():
  for metric in (metrics.accuracy, metrics.exact_match, metrics.rouge):
    with pytest.raises(ValueError, match="zip"):
      metric(["a", "b"], ["a"])
