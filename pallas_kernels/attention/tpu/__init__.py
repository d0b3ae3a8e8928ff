"""Attention on a TPU, from v4 on, by kernels of blocks of queries and keys."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels import platforms
from pallas_kernels.attention.dropout import Dropout
from pallas_kernels.attention.masks import Mask
from pallas_kernels.attention.panels import panels
from pallas_kernels.attention.patterns import Pattern
from pallas_kernels.attention.relative import RelativeBias
from pallas_kernels.attention.schedule import schedule
from pallas_kernels.attention.tpu.backward import backward
from pallas_kernels.attention.tpu.forward import forward
from pallas_kernels.attention.tpu.inputs import (
  ROWS,
  Given,
  Inputs,
  Settings,
)
from pallas_kernels.attention.tpu.tile import table_rows

_DTYPES = (jnp.float32, jnp.bfloat16)
_MIB = 2**20
# Of VMEM, in MiB: most of what there is, for some is the compiler's.
_VMEM = {"TPU v5 lite": 96, "TPU v5": 48, "TPU v6 lite": 96, "TPU7x": 48}
_LEAST_VMEM = 15
# What VMEM has room for beside the blocks.
_WIDEST = 256
_GREATEST_DISTANCE = 2048
# Numbers in scalar memory: half of it.
_MOST_STEPS = 2**17
# A table of blocks takes T x S / size numbers.
_LEAST_SIZE = 16


@dataclasses.dataclass(frozen=True)
class Blocks:
  """Sizes in positions, multiples of 128; short rows have shorter blocks.

  Attributes:
    q: queries of a block.
    k: keys of a block.
    q_part: queries of a turn of the forward pass's loop; divides q.
    k_part: keys whose logits it has at once; divides k.
  """

  q: int = 1024
  k: int = 1024
  q_part: int = 512
  k_part: int = 256

  def __post_init__(self):
    sizes = dataclasses.astuple(self)
    if any(x < ROWS or x % ROWS for x in sizes):
      raise ValueError(f"blocks need multiples of {ROWS}, not {sizes}")
    if self.q % self.q_part or self.k % self.k_part:
      raise ValueError(f"parts must divide their blocks: {self}")

  @classmethod
  def picked(cls, head: int, vmem: int) -> "Blocks":
    """For heads of so many bytes a position: what a small VMEM has room for."""
    if vmem > _LEAST_VMEM * _MIB or head <= 2 * ROWS:
      return cls()
    return cls(k=512) if head <= 4 * ROWS else cls(256, 256, 256)

  def cut(self, q_length: int, k_length: int) -> "Blocks":
    """No longer than such rows need."""
    q = min(self.q, _up(q_length, ROWS))
    k = min(self.k, _up(k_length, ROWS))
    return Blocks(q, k, _part(q, self.q_part), _part(k, self.k_part))


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
  """As `reference.attention`, of what `refusal` does not refuse.

  Args:
    q: [B T N H].
    k: [B S K H].
    v: [B S K V].
    mask: its q_start is a number.
    bias: or None.
    relative_bias: or None.
    dropout: or None.
    scale: factor of the logits.
    soft_cap: or None.
    interpret: run the kernels in jax's interpreter, on any device.
    blocks: None picks.
  """
  size, q_length, heads, q_width = q.shape
  k_length, width = k.shape[1], v.shape[-1]
  dtype = jnp.result_type(q, k, v)
  head = max(q_width, width) * dtype.itemsize
  blocks = blocks or Blocks.picked(head, _vmem())
  blocks = blocks.cut(q_length, k_length)
  settings = Settings(
    q_block=blocks.q,
    k_block=blocks.k,
    q_part=blocks.q_part,
    k_part=blocks.k_part,
    k_length=k_length,
    scale=scale,
    soft_cap=soft_cap,
    causal=mask.causal,
    window=mask.window,
    pattern=mask.pattern,
    q_start=int(mask.q_start),
    rate=dropout.rate if dropout is not None else 0.0,
    threshold=dropout.threshold if dropout is not None else 0,
    vmem=_vmem(),
    interpret=interpret,
  )
  inputs = Inputs(
    _lengths_last(q.astype(dtype), blocks.q),
    _lengths_last(k.astype(dtype), blocks.k),
    _lengths_last(v.astype(dtype), blocks.k),
    None if bias is None else _bias(bias, blocks),
    None if relative_bias is None else _panels(relative_bias),
  )
  lists = functools.partial(
    schedule, mask, q_length, k_length, blocks.q, blocks.k
  )
  given = Given(
    by_queries=lists(),
    by_keys=lists(by_keys=True),
    q_segments=_row(mask.q_segments, blocks.q),
    k_segments=_row(mask.k_segments, blocks.k),
    k_prefix=_row(mask.k_prefix, blocks.k) if mask.causal else None,
    table=_table(mask.pattern, settings, inputs),
    seeds=None if dropout is None else _seeds(dropout, size, heads),
  )
  y, lse = _attend(settings, inputs, given)
  y = jnp.transpose(y[:, :, :width, :q_length], (0, 3, 1, 2))
  return y.astype(q.dtype), jnp.swapaxes(lse[..., :q_length], 1, 2)


def refusal(
  q: Any,
  k: Any,
  v: Any,
  *,
  mask: Mask,
  bias: Any = None,
  relative_bias: RelativeBias | None = None,
  **_: Any,
) -> str | None:
  """Why the kernels can't do this, or None; of arrays shapes and dtypes."""
  for name, x in (("q", q), ("k", k), ("v", v)):
    if x.dtype not in _DTYPES:
      return f"{name} of {x.dtype}, but the kernels have float32 and bfloat16"
    if not 0 < x.shape[-1] <= _WIDEST:
      return f"heads of {x.shape[-1]}, but the kernels have 1 to {_WIDEST}"
  if bias is not None and bias.dtype not in _DTYPES:
    return f"a bias of {bias.dtype}, but kernels have float32 and bfloat16"
  if q.shape[1] < 2:
    return "one query, which fills no block"
  if not isinstance(mask.q_start, int | np.integer):
    return "a q_start that is known only when the kernel runs"
  if relative_bias is not None:
    if relative_bias.max_distance > _GREATEST_DISTANCE:
      return f"a max_distance beyond {_GREATEST_DISTANCE} in a relative bias"
    if mask.q_start % ROWS:
      return f"a relative bias with a q_start that is no multiple of {ROWS}"
  pattern = mask.pattern
  if pattern is not None and pattern.blocks and pattern.size < _LEAST_SIZE:
    return f"a pattern of blocks of {pattern.size}: {_LEAST_SIZE} at least"
  by_row = mask.q_segments is not None or mask.k_prefix is not None
  steps = -(-q.shape[1] // Blocks.q) * -(-k.shape[1] // Blocks.k)
  if steps * (q.shape[0] if by_row else 1) > _MOST_STEPS:
    return "so many pairs of blocks that no list of them fits scalar memory"
  return None


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(
  settings: Settings, inputs: Inputs, given: Given
) -> tuple[jax.Array, jax.Array]:
  """Output [B N V T] and log-sum-exp [B N T], of whole blocks."""
  return forward(settings, inputs, given)


def _forward(
  settings: Settings, inputs: Inputs, given: Given
) -> tuple[tuple[jax.Array, jax.Array], tuple]:
  y, lse = forward(settings, inputs, given)
  return (y, lse), (inputs, given, y, lse)


def _backward(
  settings: Settings, kept: tuple, gradients: tuple[jax.Array, jax.Array]
) -> tuple[Inputs, None]:
  inputs, given, y, lse = kept
  dy, dlse = gradients
  # Its own dtype, of which y may have more digits: see `forward`.
  dy = dy.astype(inputs.q.dtype)
  return backward(settings, inputs, given, y, lse, dy, dlse), None


_attend.defvjp(_forward, _backward)


def _seeds(dropout: Dropout, rows: int, heads: int) -> jax.Array:
  """As of `Given`."""
  seeds = jnp.stack(dropout.seeds(rows, heads), axis=-1)
  return jax.lax.bitcast_convert_type(seeds, jnp.int32).reshape(-1)


def _vmem() -> int:
  """Bytes that a kernel may take on the device at hand."""
  return _VMEM.get(platforms.target().kind, _LEAST_VMEM) * _MIB


def _up(x: int, to: int) -> int:
  return -(-x // to) * to


def _part(block: int, part: int) -> int:
  """The greatest that divides the block and is no greater than `part`."""
  return next(x for x in range(part, 0, -ROWS) if block % x == 0)


def _lengths_last(x: jax.Array, block: int) -> jax.Array:
  """[B T N H] as [B N H T], filled up with zeros to whole blocks and rows."""
  rows = 32 // x.dtype.itemsize
  x = jnp.transpose(x, (0, 2, 3, 1))
  more = (-x.shape[2] % rows, -x.shape[3] % block)
  return jnp.pad(x, ((0, 0), (0, 0), *((0, m) for m in more)))


def _bias(bias: jax.Array, blocks: Blocks) -> jax.Array:
  """[1|B 1|N 1|T 1|S] as [1|B 1|N 1|S 1|T], of whole blocks."""
  bias = jnp.swapaxes(bias, 2, 3)
  # A side of size 1 stays so: it is for all queries, or all keys.
  more = [
    -side % block if side > 1 else 0
    for side, block in zip(bias.shape[2:], (blocks.k, blocks.q), strict=True)
  ]
  return jnp.pad(bias, ((0, 0), (0, 0), *((0, m) for m in more)))


def _panels(bias: RelativeBias) -> jax.Array:
  """As of `Inputs`: far numbers are panels too."""
  near, left, right = panels(bias, ROWS)
  near = jnp.swapaxes(near, 1, 2)
  shape = (near.shape[0], ROWS, ROWS)
  sides = (jnp.broadcast_to(x[:, None, None], shape) for x in (left, right))
  before, after = sides
  return jnp.concatenate([before, near, after], axis=1)


def _row(x: jax.Array | None, block: int) -> jax.Array | None:
  """[B T] as int32 [B 1 T] of whole blocks; the last is repeated."""
  if x is None:
    return None
  padded = jnp.pad(
    x.astype(jnp.int32), ((0, 0), (0, -x.shape[1] % block)), mode="edge"
  )
  return padded[:, None]


def _table(
  pattern: Pattern | None, settings: Settings, inputs: Inputs
) -> jax.Array | None:
  """As of `Given`, with rows to spare: a kernel reads some beyond the last."""
  if pattern is None or not pattern.blocks:
    return None
  count = inputs.k.shape[3] // pattern.size + 1
  rows = _up(count + table_rows(pattern.size, settings.k_block), 8)
  table = np.zeros((rows, len(pattern.blocks)), np.float32)
  for i, seen in enumerate(pattern.blocks):
    inside = [x for x in seen if x < rows]
    table[inside, i] = 1
  queries = settings.q_start + jnp.arange(inputs.q.shape[3])
  return jnp.take(
    jnp.asarray(table), queries // pattern.size, axis=1, mode="clip"
  )
