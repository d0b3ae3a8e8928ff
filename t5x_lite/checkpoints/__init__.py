"""Checkpoints: saved beside training, complete or absent, checked when read."""

from t5x_lite.checkpoints.checkpointer import Checkpointer, restore_params
from t5x_lite.checkpoints.initialize import InitializeFrom
from t5x_lite.checkpoints.session import Session
from t5x_lite.checkpoints.steps import resolve
from t5x_lite.checkpoints.tree import from_dict, specs, to_dict

__all__ = [
  "Checkpointer",
  "InitializeFrom",
  "Session",
  "from_dict",
  "resolve",
  "restore_params",
  "specs",
  "to_dict",
]
