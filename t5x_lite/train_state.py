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
    carried: what the model remembers of the rows of the batch before, arrays
      [L B ...]; empty unless the objective is `objectives.Recurrent`.
  """

  step: jax.Array
  model: Any
  opt_state: Any
  carried: Any = ()

  @classmethod
  def create(
    cls,
    model: Any,
    transform: optax.GradientTransformation,
    carried: Any = (),
  ) -> "TrainState":
    """The state before the first step."""
    step = jnp.zeros((), jnp.int32)
    return cls(step, model, transform.init(model), carried)
