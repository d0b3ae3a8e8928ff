"""The scans' definitions in float64 NumPy, step by step, and their inputs."""

import numpy as np


def linear(a, b, initial, resets, reverse=False):
  """Of `pallas_kernels.linear_scan`."""
  order = range(b.shape[1])
  h, states = initial, np.zeros(b.shape, np.result_type(a, b, initial))
  for t in reversed(order) if reverse else order:
    before = np.where(resets[:, t].reshape(-1, *(1,) * (h.ndim - 1)), 0, h)
    h = a[:, t if a.shape[1] > 1 else 0] * before + b[:, t]
    states[:, t] = h
  return states, h


def selective(x, dt, a, b, c, d, initial, resets):
  """Of `pallas_kernels.selective_scan`."""
  h, y = initial, np.zeros(x.shape)
  for t in range(x.shape[1]):
    h = np.where(resets[:, t, None, None], 0, h)
    added = dt[:, t, :, None] * x[:, t, :, None] * b[:, t, None]
    h = np.exp(dt[:, t, :, None] * a) * h + added
    y[:, t] = (h * c[:, t, None]).sum(-1) + d * x[:, t]
  return y, h


def attention(q, k, v, log_decay, initial, resets):
  """Of `pallas_kernels.linear_attention`."""
  groups = v.shape[2] // q.shape[2]
  q, k = (np.repeat(z, groups, axis=2) for z in (q, k))
  state, y = initial, np.zeros(v.shape)
  for t in range(v.shape[1]):
    state = np.where(resets[:, t, None, None, None], 0, state)
    state = np.exp(log_decay[:, t])[..., None, None] * state
    state = state + k[:, t, :, :, None] * v[:, t, :, None]
    y[:, t] = (q[:, t, :, :, None] * state).sum(2)
  return y, state


def selective_inputs(length, seed=0, batch=2, width=5, state=3):
  """x, dt, a, b, c, d, initial and resets; float64, some channels long."""
  rng = np.random.default_rng(seed)
  normal = rng.standard_normal
  return {
    "x": normal((batch, length, width)),
    "dt": np.exp(normal((batch, length, width)) - 1.5),
    "a": -np.exp(normal((width, state))),
    "b": normal((batch, length, state)),
    "c": normal((batch, length, state)),
    "d": normal(width),
    "initial": normal((batch, width, state)),
    "resets": rng.random((batch, length)) < 0.1,
  }


def attention_inputs(length, groups=2, heads=4, seed=0):
  """q, k, v, log_decay, initial and resets, float64."""
  rng = np.random.default_rng(seed)
  normal = rng.standard_normal
  return {
    "q": normal((2, length, groups, 3)),
    "k": normal((2, length, groups, 3)),
    "v": normal((2, length, heads, 5)),
    "log_decay": -np.exp(normal((2, length, heads)) - 2),
    "initial": normal((2, heads, 3, 5)),
    "resets": rng.random((2, length)) < 0.1,
  }


def linear_inputs(length, kind="complex", broadcast=False, seed=0):
  """a, b, initial and resets, float64 or complex128."""
  rng = np.random.default_rng(seed)

  def normal(*shape):
    made = rng.standard_normal(shape)
    if kind == "complex":
      made = made + 1j * rng.standard_normal(shape)
    return made

  a = normal(*((1, 1, 5, 1) if broadcast else (2, length, 5, 3)))
  return {
    "a": 0.95 * a / np.maximum(np.abs(a), 1),
    "b": normal(2, length, 5, 3),
    "initial": normal(2, 5, 3),
    "resets": rng.random((2, length)) < 0.1,
  }


def slope(function, inputs, direction, epsilon=1e-5):
  """Derivative of a float64 function of `inputs` along `direction`."""
  ahead, back = (
    function(
      {
        name: value + sign * epsilon * direction[name]
        if name in direction
        else value
        for name, value in inputs.items()
      }
    )
    for sign in (1, -1)
  )
  return (ahead - back) / (2 * epsilon)
