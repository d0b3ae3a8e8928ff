"""Attention on Hopper (compute capability 9.0) by Pallas Mosaic GPU."""

import contextlib
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels import compat
from pallas_kernels.attention.dropout import Dropout
from pallas_kernels.attention.hopper import inputs as hopper_inputs
from pallas_kernels.attention.hopper.forward import forward
from pallas_kernels.attention.hopper.inputs import (
  ROWS,
  Blocks,
  Given,
  Inputs,
  Settings,
)
from pallas_kernels.attention.masks import Mask
from pallas_kernels.attention.relative import RelativeBias

__all__ = ["Blocks", "attention", "refusal"]

_WIDEST = 256
_WIDE = 128


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
    q: [B T N H] in bfloat16 or float16.
    k: [B S K H].
    v: [B S K V].
    mask: what is seen.
    bias: [1|B, 1|N, 1|T, 1|S] or None.
    relative_bias: or None.
    dropout: or None.
    scale: of the products, positive.
    soft_cap: or None.
    interpret: on a CPU, with races detected.
    blocks: None picks.

  Returns:
    [B T N V] in the dtype of q and the log-sum-exp [B T N] in float32.
  """
  settings, inputs, given = hopper_inputs.prepare(
    q,
    k,
    v,
    mask=mask,
    bias=bias,
    relative_bias=relative_bias,
    dropout=dropout,
    scale=scale,
    soft_cap=soft_cap,
    interpret=interpret,
    blocks=blocks,
  )
  y, lse = _attend(settings, inputs, given)
  length, width = q.shape[1], v.shape[-1]
  return y[:, :length, :, :width], jnp.swapaxes(lse, 1, 2)[:, :length]


def refusal(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  *,
  mask: Mask,
  bias: jax.Array | None,
  relative_bias: RelativeBias | None,
  dropout: Dropout | None,
  scale: Any,
  soft_cap: float | None,
) -> str | None:
  """What of this `attention` cannot do, in words; None if it can all."""
  if compat.VERSION < (0, 11):
    return "jax 0.11 or newer only"
  dtypes = {str(x.dtype) for x in (q, k, v)}
  if len(dtypes) > 1 or not dtypes <= {"bfloat16", "float16"}:
    return f"inputs in bfloat16 or in float16 only, not {sorted(dtypes)}"
  if max(q.shape[-1], v.shape[-1]) > _WIDEST:
    return f"head dimensions up to {_WIDEST} only"
  plain = bias is None and relative_bias is None
  plain = plain and dropout is None and soft_cap is None
  if max(q.shape[-1], v.shape[-1]) > _WIDE and not plain:
    # The backward pass has no registers left for them.
    return (
      f"head dimensions up to {_WIDE} with a bias, dropout or soft cap only"
    )
  if isinstance(scale, jax.Array) or scale <= 0:
    return "a scale that is a positive number of Python"
  if soft_cap is not None and soft_cap <= 0:
    return "a soft cap that is positive"
  if not isinstance(mask.q_start, int | np.integer):
    return "a q_start that is no traced number"
  if mask.q_start % ROWS and relative_bias is not None:
    return f"with a relative bias, a q_start that is a multiple of {ROWS}"
  if mask.pattern is not None and mask.pattern.blocks:
    if mask.pattern.size % ROWS or mask.q_start % ROWS:
      return f"blocks of a pattern that are multiples of {ROWS}"
  return None


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(
  settings: Settings, inputs: Inputs, given: Given
) -> tuple[jax.Array, jax.Array]:
  """Output [B T N V] and log-sum-exp [B N T] of the lengths filled up."""
  with _mode(settings):
    y, lse = forward(settings, inputs, given)
  return y, lse


def _forward(
  settings: Settings, inputs: Inputs, given: Given
) -> tuple[tuple[jax.Array, jax.Array], tuple]:
  with _mode(settings):
    y, lse, *lost = forward(
      settings, inputs, given, remainder=inputs.panels is not None
    )
  return (y, lse), (inputs, given, y, lse, lost)


def _backward(
  settings: Settings, kept: tuple, gradients: tuple[jax.Array, jax.Array]
) -> tuple[Inputs, None]:
  from pallas_kernels.attention.hopper.backward import backward

  inputs, given, y, lse, lost = kept
  dy, dlse = gradients
  y = y.astype(jnp.float32)
  for more in lost:
    y = y + more.astype(jnp.float32)
  with _mode(settings):
    return backward(settings, inputs, given, y, lse, dy, dlse), None


_attend.defvjp(_forward, _backward)


def _mode(settings: Settings) -> contextlib.AbstractContextManager:
  """Interprets what is traced inside, where that is asked for."""
  if not settings.interpret:
    return contextlib.nullcontext()
  mosaic: Any = plgpu
  parameters = mosaic.InterpretGPUParams(detect_races=True)
  return mosaic.force_gpu_interpret_mode(parameters)
