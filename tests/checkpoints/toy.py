"""A toy state, its shardings and a counting iterator."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from t5x_lite import meshes


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
  step: jax.Array
  model: nnx.Module
  opt_state: object


class Linear(nnx.Module):
  def __init__(self, shape, *, rngs, dtype=jnp.float32):
    kernel = jax.random.normal(rngs.params(), shape, dtype)
    self.kernel = nnx.Param(kernel, axes=("embed", "mlp"))


class Attention(nnx.Module):
  """Has attributes that are also names in jax's key paths."""

  def __init__(self, dim, *, rngs):
    self.key = Linear((dim, dim), rngs=rngs)
    self.value = Linear((dim, dim), rngs=rngs, dtype=jnp.bfloat16)


class Model(nnx.Module):
  def __init__(self, dim=8, classes=16, *, rngs):
    self.attention = Attention(dim, rngs=rngs)
    self.head = Linear((dim, classes), rngs=rngs)


OPTIMIZER = optax.chain(
  optax.clip_by_global_norm(1.0), optax.adamw(1e-2, weight_decay=0.1)
)


def create(seed=0, *, dim=8, classes=16, optimizer=OPTIMIZER, model=Model):
  module = model(dim, classes, rngs=nnx.Rngs(seed))
  return State(jnp.zeros((), jnp.int32), module, optimizer.init(module))


def shardings(tree, shape=(1, 1), devices=None):
  """Over a (data, model) mesh: 2-D arrays in both dimensions."""
  count = shape[0] * shape[1]
  mesh = meshes.make(
    {"data": shape[0], "model": shape[1]},
    (devices or jax.devices())[:count],
  )

  def one(x):
    axes = ("data", "model") if x.ndim == 2 else ()
    return NamedSharding(mesh, PartitionSpec(*axes))

  return jax.tree.map(one, tree)


def abstract(tree, shape=(1, 1)):
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    jax.eval_shape(lambda: tree),
    shardings(tree, shape),
  )


def place(tree, shape=(1, 1)):
  return jax.device_put(tree, shardings(tree, shape))


@jax.jit
def advance(state):
  """Deterministic updates that touch every array."""
  grads = jax.tree.map(lambda x: jnp.sin(x * 3 + 1), state.model)
  updates, opt_state = OPTIMIZER.update(grads, state.opt_state, state.model)
  model = optax.apply_updates(state.model, updates)
  return State(state.step + 1, model, opt_state)


def at(step, seed=0, shape=(1, 1)):
  state = place(create(seed), shape)
  for _ in range(step):
    state = advance(state)
  return state


def assert_same(actual, expected):
  """Bit for bit, with dtypes and structure."""
  assert jax.tree.structure(actual) == jax.tree.structure(expected)
  for x, y in zip(
    jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True
  ):
    assert x.dtype == y.dtype
    assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


class Counter:
  """Yields 0, 1, 2, ... and can be saved."""

  def __init__(self):
    self.next = 0

  def __next__(self):
    self.next += 1
    return self.next - 1

  def save(self, directory):
    (directory / "shard-0.json").write_text(json.dumps({"next": self.next}))

  def restore(self, directory):
    text = (directory / "shard-0.json").read_text()
    self.next = json.loads(text)["next"]
