"""Small layers of S4 and S4D, what they read, and what they should say."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from flax import nnx

from t5x_lite import layers

ROWS, LENGTH, DIM = 2, 64, 3
partial = functools.partial
# Names of the systems -> layers without what follows.
LAYERS = {
  f"s4_{measure}": partial(layers.S4, measure=measure)
  for measure in ("legs", "legt", "fout")
} | {
  f"s4d_{spectrum}": partial(
    layers.S4D, spectrum=spectrum, discretization=discretization
  )
  for spectrum, discretization in (
    *(("lin", "zoh"), ("inv", "bilinear"), ("legs", "zoh")),
  )
}


def make(name, *, state_dim=8, block=16, **kwargs):
  kwargs.setdefault("output", None)
  constructor = partial(
    LAYERS[name], state_dim=state_dim, block=block, **kwargs
  )
  return constructor(DIM, rngs=nnx.Rngs(0))


def context(length=LENGTH, rows=ROWS, **kwargs):
  positions = np.broadcast_to(np.arange(length, dtype=np.int32), (rows, length))
  return layers.Context(jnp.asarray(positions), **kwargs)


def packed():
  """Examples of 25, 1, 16 and 18 tokens, then padding; and one whole row."""
  lengths, segments, positions = (25, 1, 16, 18), [], []
  for number, length in enumerate(lengths, 1):
    segments += [number] * length
    positions += range(length)
  padding = [0] * (LENGTH - len(segments))
  segments = np.int32([segments + padding, [1] * LENGTH])
  positions = np.int32([positions + padding, range(LENGTH)])
  return layers.Context(jnp.asarray(positions), jnp.asarray(segments))


def inputs(dtype=jnp.float32, length=LENGTH, rows=ROWS):
  x = np.random.default_rng(0).standard_normal((rows, length, DIM))
  return jnp.asarray(x, dtype)


@jax.jit
def run(layer, x, ctx, state=None):
  return layer(x, ctx, state)


@jax.jit
def gradients(layer, x, ctx):
  def loss(layer, x):
    return jnp.sum(jnp.sin(layer(x, ctx)[0]))

  return jax.grad(loss, (0, 1))(layer, x)


def definition(layer, x, direction="c"):
  """y of rows without a cut, one step after the other, in float64."""
  if layer.bidirectional and direction == "c":
    back = definition(layer, x[:, ::-1], "c_backward")[:, ::-1]
    other = nnx.clone(layer)
    other.bidirectional = False
    return definition(other, x) + back
  half = {
    name: np.float64(getattr(layer, name)[...])
    for name in ("log_dt", "log_decay", "frequency", "b", "skip", direction)
  }
  values = -np.exp(half["log_decay"]) + 1j * half["frequency"]
  b, c = (half[n][..., 0] + 1j * half[n][..., 1] for n in ("b", direction))
  x, size = np.float64(x), 2 * values.shape[1]
  outputs = np.empty_like(x)
  for d in range(DIM):
    a = np.diag(np.concatenate([values[d], values[d].conj()]))
    if isinstance(layer, layers.S4):
      p = np.float64(layer.low_rank[...])[:, d]
      p = p[..., 0] + 1j * p[..., 1]
      p = np.concatenate([p, p.conj()], axis=1)
      a = a - p.T @ p.conj()
    column, row = (np.concatenate([z[d], z[d].conj()]) for z in (b, c))
    dt, unit = np.exp(half["log_dt"][d]), np.eye(size)
    if getattr(layer, "discretization", "bilinear") == "zoh":
      whole = np.zeros((size + 1, size + 1), complex)
      whole[:size, :size], whole[:size, size] = a * dt, column * dt
      whole = scipy.linalg.expm(whole)
      a, column = whole[:size, :size], whole[:size, size]
    else:
      left = unit - dt / 2 * a
      a = np.linalg.solve(left, unit + dt / 2 * a)
      column = np.linalg.solve(left, dt * column)
    state = np.zeros((len(x), size), complex)
    for t in range(x.shape[1]):
      state = state @ a.T + column * x[:, t, d, None]
      outputs[:, t, d] = (state @ row).real
  return outputs + half["skip"] * x * (direction == "c")


def largest(jaxpr):
  """Numbers in the largest array of a program, inner ones included."""
  sizes = [0]
  for equation in jaxpr.eqns:
    sizes += [int(np.prod(x.aval.shape)) for x in equation.outvars]
    for value in jax.tree.leaves(
      list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
    ):
      inner = getattr(value, "jaxpr", value)
      if hasattr(inner, "eqns"):
        sizes.append(largest(inner))
  return max(sizes)
