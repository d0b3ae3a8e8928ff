"""Objectives: how a batch of task features becomes a loss of a model."""

from t5x_lite.objectives.base import Objective
from t5x_lite.objectives.seq2seq import Seq2Seq

__all__ = ["Objective", "Seq2Seq"]
