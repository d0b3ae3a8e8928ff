import typing

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from t5x_lite import checkpoints, errors
from t5x_lite.checkpoints import tree
from tests.checkpoints import toy


def test_names_are_attributes_fields_and_indices():
  state = toy.create()
  assert set(tree.specs(state)) == {
    "step",
    "model/attention/key/kernel",
    "model/attention/value/kernel",
    "model/head/kernel",
    "opt_state/1/0/count",
    *(
      f"opt_state/1/0/{moment}/{name}/kernel"
      for moment in ("mu", "nu")
      for name in ("attention/key", "attention/value", "head")
    ),
  }
  assert str(tree.specs(state)["model/head/kernel"]) == "float32[8 16]"
  assert str(tree.specs(state)["step"]) == "int32[]"


def nodes(value):
  yield value
  if isinstance(value, dict):
    for inner in value.values():
      yield from nodes(inner)


def test_only_dicts_and_arrays_are_left():
  saved = checkpoints.to_dict(toy.create())
  assert {type(node) for node in nodes(saved)} == {
    dict,
    type(jnp.zeros(())),
  }


@pytest.mark.parametrize(
  "optimizer",
  [
    optax.adafactor(1e-3, min_dim_size_to_factor=4),
    optax.adamw(1e-3),
    optax.chain(optax.clip(1.0), optax.masked(optax.adam(1e-3), mask=True)),
    optax.MultiSteps(optax.sgd(0.1, momentum=0.9), 2),
    optax.sgd(0.1),
  ],
)
def test_from_dict_is_the_inverse(optimizer):
  state = toy.create(optimizer=optimizer)
  other = toy.create(seed=1, optimizer=optimizer)
  toy.assert_same(
    checkpoints.from_dict(checkpoints.to_dict(state), other), state
  )
  abstract = toy.abstract(other)
  restored = checkpoints.from_dict(checkpoints.to_dict(state), abstract)
  toy.assert_same(restored, state)


def test_flatten_and_unflatten_are_inverses():
  saved = checkpoints.to_dict(toy.create())
  flat = tree.flatten(saved)
  assert flat.keys() == tree.specs(toy.create()).keys()
  assert jax.tree.structure(tree.unflatten(flat)) == jax.tree.structure(saved)


class Pair(typing.NamedTuple):
  a: object
  b: object


def test_names_of_containers():
  value = {"x": (np.ones(1), [np.ones(2)]), "y": Pair(np.ones(3), 1.0)}
  assert set(tree.specs(value)) == {"x/0", "x/1/0", "y/a", "y/b"}
  assert set(tree.specs({"v": nnx.Param(np.ones(1), axes=())})) == {"v"}


def test_refuses_names_that_are_ambiguous():
  with pytest.raises(ValueError, match="slash"):
    tree.to_dict({"a/b": np.ones(1)})
  with pytest.raises(ValueError, match="two leaves are called x"):
    tree.to_dict(Twice(np.ones(1), np.ones(1)))
  with pytest.raises(ValueError, match="x/y lies below another leaf"):
    tree.to_dict(Twice(np.ones(1), {"y": np.ones(1)}))


@jax.tree_util.register_pytree_with_keys_class
class Twice:
  """A node with two children of the same name."""

  def __init__(self, *children):
    self.children = children

  def tree_flatten_with_keys(self):
    key = jax.tree_util.GetAttrKey("x")
    return [(key, child) for child in self.children], None

  @classmethod
  def tree_unflatten(cls, _, children):
    return cls(*children)


def test_a_long_list_of_differences_fits_a_screen():
  saved = {f"layer_{i}/kernel": tree.Spec((i,), "float32") for i in range(300)}
  with pytest.raises(errors.CheckpointError) as error:
    tree.check_same(saved, {}, where="/run/checkpoints/1")
  message = str(error.value)
  assert "300 not in this model" in message and "and 290 more" in message
  assert len(message.splitlines()) < 16
