"""Attention on NVIDIA GPUs from Ampere on by Pallas Triton.

Plain kernels for devices that have no kernel of their own: every product is a
warp's, and nothing is specialized.
"""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels.attention.dropout import Dropout
from pallas_kernels.attention.masks import Mask
from pallas_kernels.attention.panels import Panels, panels
from pallas_kernels.attention.relative import RelativeBias
from pallas_kernels.attention.schedule import Schedule, schedule
from pallas_kernels.attention.triton.backward import (
  Outputs,
  by_keys,
  by_queries,
)
from pallas_kernels.attention.triton.bias_backward import by_bias, by_panel
from pallas_kernels.attention.triton.forward import forward
from pallas_kernels.attention.triton.tile import (
  LOG2_E,
  Blocks,
  Inputs,
  Settings,
)

__all__ = ["Blocks", "attention", "refusal"]

_WIDEST = 256
# The least side of a product.
_LEAST = 16
# By the widest head; 99 KiB are what the smaller devices have for a program.
_FLOAT16 = {
  64: Blocks(64, 64),
  128: Blocks(64, 32),
  256: Blocks(32, 32, more_warps=8),
}
_FLOAT32 = {
  64: Blocks(32, 32),
  128: Blocks(32, 32, warps=8, more_warps=8, stages=1),
  256: Blocks(16, 16, stages=1),
}


class _Numbers(NamedTuple):
  """What gradients are taken by, filled up to whole blocks."""

  q: jax.Array
  k: jax.Array
  v: jax.Array
  bias: jax.Array | None
  panels: Panels | None


class _Given(NamedTuple):
  """What has no gradient.

  Attributes:
    where: those of Inputs' arrays that have none, by name.
    by_queries: blocks of keys of each block of queries.
    by_keys: the reverse.
  """

  where: dict[str, jax.Array]
  by_queries: Schedule
  by_keys: Schedule


def attention(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  *,
  mask: Mask,
  bias: jax.Array | None,
  relative_bias: RelativeBias | None,
  dropout: Dropout | None,
  scale: float,
  soft_cap: float | None,
  interpret: bool = False,
  blocks: Blocks | None = None,
) -> tuple[jax.Array, jax.Array]:
  """As `reference.attention`, where `refusal` has nothing against it.

  Args:
    q: [B T N H] in bfloat16, float16 or float32, whose products are exact to
      float32 and thus do without matrix instructions.
    k: [B S K H].
    v: [B S K V].
    mask: what is seen.
    bias: [1|B, 1|N, 1|T, 1|S] or None.
    relative_bias: or None.
    dropout: or None.
    scale: of the products.
    soft_cap: or None.
    interpret: run on any device, block by block.
    blocks: None picks.

  Returns:
    [B T N V] in the dtype of q and the log-sum-exp [B T N] in float32.
  """
  size, q_length, heads, _ = q.shape
  k_length, v_width = k.shape[1], v.shape[-1]
  blocks = blocks or _pick(q, v)
  side = _side(mask, relative_bias)
  if side:
    blocks = dataclasses.replace(
      blocks,
      queries=math.gcd(blocks.queries, side),
      keys=math.gcd(blocks.keys, side),
    )
  lengths = q_length, k_length, blocks.queries, blocks.keys
  mask = mask.padded(*lengths)
  q, k, v = (
    _filled(x, ((1, size), (3, _power_of_2(x.shape[3]))))
    for x, size in ((q, blocks.queries), (k, blocks.keys), (v, blocks.keys))
  )
  if bias is not None:
    sides = zip((2, 3), lengths[2:], strict=True)
    bias = _filled(bias, [(i, n) for i, n in sides if bias.shape[i] > 1])
  panel = None
  if relative_bias is not None:
    panel = panels(relative_bias, blocks.queries)
  where = _where(mask, blocks, lengths)
  if dropout is not None:
    where["seeds"] = jnp.stack(dropout.seeds(size, heads))
  settings = Settings(
    blocks=blocks,
    groups=heads // k.shape[2],
    k_length=k_length,
    q_start=int(mask.q_start),
    causal=mask.causal,
    window=mask.window,
    pattern=mask.pattern,
    scale=scale,
    soft_cap=soft_cap,
    rate=0.0 if dropout is None else dropout.rate,
    threshold=0 if dropout is None else dropout.threshold,
    interpret=interpret,
  )
  given = _Given(
    where,
    schedule(mask, *lengths),
    schedule(mask, *lengths, by_keys=True),
  )
  y, lse = _attend(settings, _Numbers(q, k, v, bias, panel), given)
  return y[:, :q_length, :, :v_width], jnp.swapaxes(lse, 1, 2)[:, :q_length]


def refusal(
  q: Any,
  k: Any,
  v: Any,
  *,
  mask: Mask,
  bias: jax.Array | None,
  relative_bias: RelativeBias | None,
  dropout: Dropout | None,
  scale: float,
  soft_cap: float | None,
) -> str | None:
  """What of this `attention` cannot do, in words; None if it can all."""
  del dropout, soft_cap
  dtypes = {str(x.dtype) for x in (q, k, v)}
  if len(dtypes) > 1 or not dtypes <= {"bfloat16", "float16", "float32"}:
    return (
      "inputs all in bfloat16, in float16 or in float32 only, not"
      f" {sorted(dtypes)}"
    )
  table = None if relative_bias is None else relative_bias.table
  for name, x in (("bias", bias), ("relative bias", table)):
    if x is not None and x.dtype.itemsize > 4:
      return f"a {name} up to float32 only"
  if max(q.shape[-1], v.shape[-1]) > _WIDEST:
    return f"head dimensions up to {_WIDEST} only"
  if 0 in (q.size, k.size):
    return "queries and keys, at least one of each"
  if not isinstance(scale, int | float):
    return "a scale that is a number of Python"
  if not isinstance(mask.q_start, int | np.integer):
    return "a q_start that is no traced number"
  if _side(mask, relative_bias) % _LEAST:
    return (
      f"blocks of a pattern, and a q_start beside one or a relative bias, that"
      f" are multiples of {_LEAST}"
    )
  return None


def _pick(q: Any, v: Any) -> Blocks:
  """With which no register spills and 99 KiB of shared memory are enough."""
  width = _power_of_2(max(q.shape[-1], v.shape[-1]))
  table = _FLOAT32 if q.dtype == jnp.float32 else _FLOAT16
  return next(blocks for widest, blocks in table.items() if width <= widest)


def _side(mask: Mask, relative_bias: RelativeBias | None) -> int:
  """What sides of blocks must divide for a tile to be of one kind; 0: any."""
  side = 0
  if mask.pattern is not None and mask.pattern.blocks:
    side = mask.pattern.size
  if side or relative_bias is not None:
    side = math.gcd(side, int(mask.q_start))
  return side


def _power_of_2(width: int) -> int:
  """The least one that a product may have as a side, from `width` on."""
  return max(_LEAST, 1 << (width - 1).bit_length())


def _filled(x: jax.Array, axes: Any) -> jax.Array:
  """With zeros up to a multiple of each (axis, size)."""
  widths = [(0, 0)] * x.ndim
  for axis, size in axes:
    widths[axis] = 0, -x.shape[axis] % size
  return jnp.pad(x, widths)


def _where(
  mask: Mask, blocks: Blocks, lengths: tuple[int, int, int, int]
) -> dict[str, jax.Array]:
  """The mask's arrays, for kernels."""
  where = {}
  for name in ("q_segments", "k_segments", "k_prefix"):
    x = getattr(mask, name)
    if x is not None:
      where[name] = x.astype(jnp.int32)
  if mask.pattern is not None and mask.pattern.blocks:
    only_blocks = mask.pattern.blocks, mask.pattern.size
    where["seen"] = _seen(*only_blocks, int(mask.q_start), lengths)
  return where


def _seen(
  rows: tuple[tuple[int, ...], ...],
  size: int,
  q_start: int,
  lengths: tuple[int, int, int, int],
) -> jax.Array:
  """[T blocks, S blocks] int32, 1 where a block of a pattern is; see Inputs."""
  q_length, k_length, q_block, k_block = lengths
  queries = (q_start + np.arange(0, q_length, q_block)) // size
  keys = np.arange(0, k_length, k_block) // size
  seen = np.zeros((len(queries), len(keys)), np.int32)
  for i, block in enumerate(queries):
    # Queries beyond the last block are padding.
    seen[i] = np.isin(keys, rows[min(int(block), len(rows) - 1)])
  return jnp.asarray(seen)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(
  settings: Settings, numbers: _Numbers, given: _Given
) -> tuple[jax.Array, jax.Array]:
  """Output [B T N V] and log-sum-exp [B N T] of whole blocks."""
  return forward(settings, _inputs(numbers, given), given.by_queries)


def _inputs(numbers: _Numbers, given: _Given) -> Inputs:
  near = sides = None
  if numbers.panels is not None:
    near, left, right = numbers.panels
    near, sides = near * LOG2_E, jnp.stack([left, right], axis=1) * LOG2_E
  return Inputs(
    *numbers[:3], bias=numbers.bias, near=near, sides=sides, **given.where
  )


def _forward(
  settings: Settings, numbers: _Numbers, given: _Given
) -> tuple[tuple[jax.Array, jax.Array], tuple]:
  y, lse = _attend(settings, numbers, given)
  return (y, lse), (numbers, given, y, lse)


def _backward(
  settings: Settings, kept: tuple, gradients: tuple[jax.Array, jax.Array]
) -> tuple[_Numbers, None]:
  numbers, given, y, lse = kept
  dy, dlse = gradients
  inputs = _inputs(numbers, given)
  both = dy.astype(jnp.float32) * y.astype(jnp.float32)
  offset = dlse - jnp.swapaxes(jnp.sum(both, axis=-1), 1, 2)
  level = jnp.where(lse == -jnp.inf, jnp.inf, lse * LOG2_E)
  outputs = Outputs(dy.astype(y.dtype), level, offset)
  dq, dsides = by_queries(settings, inputs, outputs, given.by_queries)
  dk, dv = by_keys(settings, inputs, outputs, given.by_keys)
  dbias = dpanels = None
  if numbers.bias is not None:
    dbias = by_bias(settings, inputs, outputs).astype(numbers.bias.dtype)
  if dsides is not None:
    left, right = jnp.moveaxis(jnp.sum(dsides, axis=(0, 3)), 1, 0)
    dpanels = Panels(by_panel(settings, inputs, outputs), left, right)
  return _Numbers(dq, dk, dv, dbias, dpanels), None


_attend.defvjp(_forward, _backward)
