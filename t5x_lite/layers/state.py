"""States of sublayers: what they remember between two steps of decoding.

A state is any pytree of arrays [B ...], or None; a block's is a dict by
sublayer, a stack's a tuple by layer.  Steps give the new one back.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Constant:
  """A part of a state that depends on the inputs alone: no step changes it.

  Hypotheses about one input, as those of a beam search, all have the same.

  Attributes:
    value: a pytree of arrays [B ...].
  """

  value: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Stacked:
  """States of all layers of a stack, which it scans over as in training.

  Attributes:
    value: a layer's state, but of arrays [L B ...].
  """

  value: Any


def map_changing(function: Callable[[jax.Array], jax.Array], state: Any) -> Any:
  """The state with `function` of its arrays, but for those in constants."""

  def one(x: Any) -> Any:
    return x if isinstance(x, Constant) else function(x)

  return jax.tree.map(one, state, is_leaf=lambda x: isinstance(x, Constant))
