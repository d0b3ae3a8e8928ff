"""Language models on documents longer than a row of a batch.

A row goes on where the same row of the batch before ended, from the state of
the recurrent layers, through which no gradient flows back: truncated
backpropagation through time (Williams and Peng 1990).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from t5x_lite import errors, layers
from t5x_lite.metrics import Metrics
from t5x_lite.objectives import language_modeling


@dataclasses.dataclass(frozen=True)
class LongDocumentLM(language_modeling.CausalLM):
  """`CausalLM` with a state that is carried from batch to batch.

  For models whose layers have states of one size.  Evaluation begins every
  row anew.

  Attributes, besides those of `TextTargets`:
    document_length: tokens of a document that are read, row after row.
  """

  document_length: int = 65536

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.document_length < 1:
      raise errors.ConfigError(
        f"LongDocumentLM.document_length is {self.document_length}; use 1 or"
        " more"
      )

  def check(self, model: Any) -> None:
    """Raises ConfigError unless its states have one size at any length."""
    super().check(model)
    one, two = (
      jax.tree_util.tree_leaves_with_path(
        jax.eval_shape(lambda model, n=n: model.init_carried(1, n), model)
      )
      for n in (1, 2)
    )
    for (path, short), (_, long) in zip(one, two, strict=True):
      if short.shape != long.shape:
        names = (str(key.key) for key in path if hasattr(key, "key"))
        raise errors.ConfigError(
          "LongDocumentLM needs layers whose states have one size, but"
          f" {'/'.join(names)} grows with the text: use a model without"
          " attention, such as models/mamba/130m.gin, or the objective file"
          " causal_lm"
        )
    if model.decoder.positions is not None:
      model.decoder.positions.check(self.document_length)

  def convert(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The features of `CausalLM`; a row may begin within an example."""
    features = super().convert(batch)
    if "targets_before" not in batch:
      return features
    inputs = features["decoder_input_tokens"].copy()
    goes_on = features["decoder_positions"][:, 0] > 0
    inputs[goes_on, 0] = batch["targets_before"][goes_on, 0]
    return features | {"decoder_input_tokens": inputs}

  def init_carried(self, model: Any, batch_size: int) -> layers.Stacked:
    """States of the layers with nothing read."""
    super().check(model)
    return model.init_carried(batch_size)

  def carry(
    self,
    model: Any,
    batch: Mapping[str, jax.Array],
    key: jax.Array | None,
    carried: layers.Stacked,
  ) -> tuple[jax.Array, Metrics, layers.Stacked]:
    """As `loss`, of rows that go on; and the states after them."""
    x, carried = model.carry(batch, carried, key=key)
    return *self.of_hidden(x, model, batch), carried
