"""Objectives: how a batch of task features becomes a loss of a model."""

from t5x_lite.objectives.base import Objective
from t5x_lite.objectives.causal_labelling import CausalLabelling
from t5x_lite.objectives.classification import (
  Classification,
  TokenClassification,
)
from t5x_lite.objectives.discriminative import Discriminative
from t5x_lite.objectives.generative import Generative
from t5x_lite.objectives.language_modeling import CausalLM, PrefixLM
from t5x_lite.objectives.lm_classification import LMClassification
from t5x_lite.objectives.long_documents import LongDocumentLM
from t5x_lite.objectives.masked_lm import MaskedLM
from t5x_lite.objectives.recurrent import Recurrent
from t5x_lite.objectives.regression import Regression
from t5x_lite.objectives.seq2seq import Seq2Seq
from t5x_lite.objectives.span_extraction import SpanExtraction

__all__ = [
  "CausalLM",
  "CausalLabelling",
  "Classification",
  "Discriminative",
  "Generative",
  "LMClassification",
  "LongDocumentLM",
  "MaskedLM",
  "Objective",
  "PrefixLM",
  "Recurrent",
  "Regression",
  "Seq2Seq",
  "SpanExtraction",
  "TokenClassification",
]
