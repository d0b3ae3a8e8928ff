"""Attention's backward pass on Hopper.

Two walks, without atomic additions, so that results are the same each time:
one keeps a block of keys and goes over queries, for the gradients of keys and
values, and one keeps a block of queries and goes over keys.  Both compute the
weights again from the log-sum-exp (Dao et al. 2022, arXiv 2205.14135).
"""

import jax
import jax.numpy as jnp

from pallas_kernels.attention.hopper.bias_backward import (
  Queries,
  bias_gradient,
  panels_gradient,
)
from pallas_kernels.attention.hopper.inputs import (
  LOG2E,
  Given,
  Inputs,
  Settings,
)
from pallas_kernels.attention.hopper.walk import PART, gradients

# Head dimensions up to which registers hold a tile's products and the sums of
# keys and of values, and up to which they do so whatever logits depend on.
# Where they do not, sums are taken by themselves, in parts of 128 columns; the
# products are then computed again for each.
_WIDEST, _NARROW = 128, 64


def backward(
  settings: Settings,
  inputs: Inputs,
  given: Given,
  y: jax.Array,
  lse: jax.Array,
  dy: jax.Array,
  dlse: jax.Array,
) -> Inputs:
  """Gradients of the inputs, in their shapes and dtypes.

  With weights w and dw = dy v', logits have w (dw + dlse - <dy, y>).

  Args:
    settings: as of the forward pass.
    inputs: filled up, as what follows.
    given: what has no gradient.
    y: [B T N V] float32.
    lse: [B N T] float32, -inf for a query that sees nothing.
    dy: as y.
    dlse: as lse.
  """
  dy = dy.astype(inputs.q.dtype)
  products = dy.astype(jnp.float32) * y
  less = jnp.swapaxes(products.sum(-1), 1, 2) - dlse
  # A query that sees nothing has the weights exp2(-inf - inf), all 0.
  nothing = lse == -jnp.inf
  level = jnp.where(nothing, jnp.inf, lse * LOG2E)
  rows = jnp.stack([level, jnp.where(nothing, 0.0, less)], 2)
  queries = Queries(inputs.q, dy, rows)

  def walk(q_axis: int, *sums: str, part: int = 0) -> tuple[jax.Array, ...]:
    return gradients(settings, inputs, given, queries, q_axis, sums, part)

  bias = panels = None
  if inputs.bias is not None:
    bias = bias_gradient(settings, inputs, given, queries)
  width = inputs.q.shape[-1]
  widest = max(width, inputs.v.shape[-1])
  if widest > _WIDEST:
    parts = range(-(-width // PART))
    dq, dk = (
      jnp.concatenate([walk(axis, "dS", part=i)[0] for i in parts], -1)
      for axis in (0, 1)
    )
    (dv,) = walk(1, "P")
    return Inputs(dq, dk, dv, bias, panels)
  involved = settings.rate > 0 or any(
    x is not None
    for x in (settings.soft_cap, settings.pattern, inputs.bias, inputs.panels)
  )
  if widest > _NARROW and involved:
    dk, dv = *walk(1, "dS"), *walk(1, "P")
  else:
    dk, dv = walk(1, "dS", "P")
  if inputs.panels is None:
    (dq,) = walk(0, "dS")
  else:
    dq, far = walk(0, "dS", "far")
    panels = panels_gradient(settings, inputs, given, queries, far)
  return Inputs(dq, dk, dv, bias, panels)
