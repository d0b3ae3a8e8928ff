"""Objectives that go on from one batch to the next."""

import typing
from collections.abc import Mapping
from typing import Any, Protocol

import jax

from t5x_lite.metrics import Metrics
from t5x_lite.objectives.base import Objective


@typing.runtime_checkable
class Recurrent(Objective, Protocol):
  """An objective whose model remembers the rows of the batch before.

  The trainer hands on what is carried, and saves it with the parameters.
  """

  @property
  def document_length(self) -> int:
    """Tokens of a training example at most, over all of its batches."""

  def init_carried(self, model: Any, batch_size: int) -> Any:
    """What the first batch goes on from, a pytree of arrays [L B ...]."""

  def carry(
    self,
    model: Any,
    batch: Mapping[str, jax.Array],
    key: jax.Array | None,
    carried: Any,
  ) -> tuple[jax.Array, Metrics, Any]:
    """As `loss`, and what the next batch goes on from."""
