"""Everything that a training step changes."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
  """A pytree.

  Attributes:
    step: int32 scalar, number of updates done.
    model: the module, which is the tree of its parameters.
    opt_state: state of the optax transformation.
  """

  step: jax.Array
  model: Any
  opt_state: Any

  @classmethod
  def create(
    cls, model: Any, transform: optax.GradientTransformation
  ) -> "TrainState":
    """The state before the first step."""
    return cls(jnp.zeros((), jnp.int32), model, transform.init(model))
