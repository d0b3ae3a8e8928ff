"""What Hopper's kernels of attention are given, and the blocks they work in.

Lengths are filled up to whole blocks, head dimensions to whole swizzled rows,
both with zeros; kernels hide the keys added by their positions.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pallas_kernels.attention.dropout import Dropout
from pallas_kernels.attention.masks import Mask
from pallas_kernels.attention.panels import Panels, panels
from pallas_kernels.attention.patterns import Pattern
from pallas_kernels.attention.relative import RelativeBias
from pallas_kernels.attention.schedule import Schedule, schedule
from pallas_kernels.attention.tiles import Window

# Rows of a warpgroup's accumulator, and of a panel.
ROWS = 64
# 16-bit numbers of a swizzled row of shared memory.
LANES = 64
LOG2E = math.log2(math.e)


class Walk(NamedTuple):
  """How one kernel goes over the pairs of positions.

  A block of threads keeps `rows` positions of one side, a warpgroup 64 of
  them, and walks over blocks of the other side.

  Attributes:
    warpgroups: of a block of threads.
    columns: positions of a block that is walked over, a multiple of 64.
    stages: blocks of that side in shared memory at a time.
  """

  warpgroups: int
  columns: int
  stages: int = 2

  @property
  def rows(self) -> int:
    """Positions that a block of threads keeps."""
    return ROWS * self.warpgroups


class Blocks(NamedTuple):
  """One walk a kernel.

  Attributes:
    forward: keeps queries and walks over keys.
    dq: likewise.
    dkv: keeps keys and walks over queries.
  """

  forward: Walk
  dq: Walk
  dkv: Walk

  @property
  def q_multiple(self) -> int:
    """T is filled up to a multiple of it.

    The side that is kept may end in the middle of a block: warpgroups beyond
    the end do the last rows again, and keep what they find to themselves.
    """
    return math.lcm(ROWS, self.dkv.columns)

  @property
  def k_multiple(self) -> int:
    """S, likewise."""
    return math.lcm(ROWS, self.forward.columns, self.dq.columns)

  @classmethod
  def of(
    cls, width: int, v_width: int, q_length: int, dropout: bool
  ) -> "Blocks":
    """Those picked where none are given.

    Args:
      width: H, filled up.
      v_width: V, likewise.
      q_length: T; no more warpgroups than it has work for.
      dropout: its bits need registers that three warpgroups do not leave.
    """
    widest = max(width, v_width)
    if widest <= 64:
      forward, back = Walk(2 if dropout else 3, 128), Walk(2, 64)
    elif widest <= 128:
      forward, back = Walk(2, 128), Walk(2, 64)
    else:
      forward, back = Walk(2, 64), Walk(1, 64)
    busy = -(-q_length // ROWS)
    few = min(forward.warpgroups, busy)
    return cls(forward._replace(warpgroups=few), back, back)


class Settings(NamedTuple):
  """What is static.

  Attributes:
    blocks: see there.
    scale: of the products.
    soft_cap: or None.
    causal: as the following of `Mask`.
    window: or None.
    pattern: or None.
    q_start: position of the first query, a multiple of 64.
    rate: of dropout, 0 for none.
    threshold: of dropout's bits; 0 for none.
    q_length: T before it was filled up.
    k_length: S, likewise.
    interpret: keeps to what the interpreter knows.
  """

  blocks: Blocks
  scale: float
  soft_cap: float | None
  causal: bool
  window: Window | None
  pattern: Pattern | None
  q_start: int
  rate: float
  threshold: int
  q_length: int
  k_length: int
  interpret: bool

  @property
  def factor(self) -> float:
    """From a tile's numbers to logits in base 2."""
    return (self.soft_cap or self.scale) * LOG2E


class Inputs(NamedTuple):
  """What gradients are taken by, filled up.

  Attributes:
    q: [B T N H].
    k: [B S K H].
    v: [B S K V].
    bias: [1|B, 1|N, 1|T, 1|S] in its own dtype, or None.
    panels: of a relative bias with R = 64, or None.
  """

  q: jax.Array
  k: jax.Array
  v: jax.Array
  bias: jax.Array | None
  panels: Panels | None


class Given(NamedTuple):
  """What has no gradient.

  Attributes:
    q_segments: [B T] int32 or None.
    k_segments: [B S], likewise.
    k_prefix: [B S] int32, 1 for a key of the prefix; None unless causal.
    seeds: [2, B, N] uint32 of dropout, or None.
    forward: blocks of keys for each block of queries.
    dq: likewise, in the blocks of dq.
    dkv: blocks of queries for each block of keys.
  """

  q_segments: jax.Array | None
  k_segments: jax.Array | None
  k_prefix: jax.Array | None
  seeds: jax.Array | None
  forward: Schedule
  dq: Schedule
  dkv: Schedule


def prepare(
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
  interpret: bool,
  blocks: Blocks | None,
) -> tuple[Settings, Inputs, Given]:
  """Fills up what `attention` is given and finds the pairs of blocks."""
  q_length, k_length = q.shape[1], k.shape[1]
  q, k, v = (_filled(x, 3, LANES) for x in (q, k, v))
  if blocks is None:
    blocks = Blocks.of(q.shape[-1], v.shape[-1], q_length, dropout is not None)
  q_multiple, k_multiple = blocks.q_multiple, blocks.k_multiple
  if bias is not None:
    bias = _filled(bias, 2, q_multiple if bias.shape[2] > 1 else 1)
    bias = _filled(bias, 3, k_multiple if bias.shape[3] > 1 else 1)

  def along(x: jax.Array | None, multiple: int) -> jax.Array | None:
    return None if x is None else _filled(x.astype(jnp.int32), 1, multiple)

  def pairs(walk: Walk, by_keys: bool = False) -> Schedule:
    sides = (walk.columns, walk.rows) if by_keys else (walk.rows, walk.columns)
    return schedule(mask, q_length, k_length, *sides, by_keys=by_keys)

  settings = Settings(
    blocks=blocks,
    scale=scale,
    soft_cap=soft_cap,
    causal=mask.causal,
    window=mask.window,
    pattern=mask.pattern,
    q_start=int(mask.q_start),
    rate=0.0 if dropout is None else dropout.rate,
    threshold=0 if dropout is None else dropout.threshold,
    q_length=q_length,
    k_length=k_length,
    interpret=interpret,
  )
  inputs = Inputs(
    _filled(q, 1, q_multiple),
    _filled(k, 1, k_multiple),
    _filled(v, 1, k_multiple),
    bias,
    None if relative_bias is None else panels(relative_bias, ROWS),
  )
  given = Given(
    q_segments=along(mask.q_segments, q_multiple),
    k_segments=along(mask.k_segments, k_multiple),
    k_prefix=along(mask.k_prefix if mask.causal else None, k_multiple),
    seeds=None if dropout is None else jnp.stack(dropout.seeds(*q.shape[:3:2])),
    forward=pairs(blocks.forward),
    dq=pairs(blocks.dq),
    dkv=pairs(blocks.dkv, by_keys=True),
  )
  return settings, inputs, given


def _filled(x: jax.Array, axis: int, multiple: int) -> jax.Array:
  """With zeros at the end of an axis, up to a multiple."""
  more = -x.shape[axis] % multiple
  if not more:
    return x
  widths = [(0, 0)] * x.ndim
  widths[axis] = (0, more)
  return jnp.pad(x, widths)
