"""What the TPU's attention kernels are given, forward and backward.

All arrays have their length last, on the lanes of a vector register: heads of
64 fill them as heads of 128 do, and the logits of a block are held with keys
down and queries across [s t], so that sums and maxima over keys are sums of
registers and what belongs to a query is one row.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from pallas_kernels.attention.patterns import Pattern
from pallas_kernels.attention.schedule import Schedule
from pallas_kernels.attention.tiles import Window

# Positions of a block of panels; q_block, k_block and their parts are multiples
# of it, and so is q_start where there is a relative bias.
ROWS = 128


class Settings(NamedTuple):
  """What is static.

  Attributes:
    q_block: queries of a block, a multiple of ROWS.
    k_block: keys of a block, likewise.
    q_part: queries of a turn of the forward pass's loop over a block.
    k_part: keys whose logits it has at once.
    k_length: S before padding; later keys are hidden.
    scale: factor of the logits.
    soft_cap: or None.
    causal: hides keys after a query unless they are of a prefix.
    window: or None.
    pattern: or None.
    q_start: index of query 0 among the keys.
    rate: of dropout; 0 for none.
    threshold: `Dropout.threshold`.
    vmem: bytes of it that a kernel may take.
    interpret: whether kernels are interpreted.
  """

  q_block: int
  k_block: int
  q_part: int
  k_part: int
  k_length: int
  scale: float
  soft_cap: float | None
  causal: bool
  window: Window | None
  pattern: Pattern | None
  q_start: int
  rate: float
  threshold: int
  vmem: int
  interpret: bool


class Inputs(NamedTuple):
  """What gradients are taken by; T and S are multiples of the blocks.

  Attributes:
    q: [B N H T].
    k: [B K H S].
    v: [B K V S], of one dtype with q and k.
    bias: [1|B, 1|N, 1|S, 1|T], float32 or bfloat16, or None.
    panels: [N, (2 w + 3) R, R] float32 with R = ROWS, or None: a relative
      bias.  Keys are down and queries across.  The block of keys c and that of
      queries a, from position 0, add rows [x R, (x + 1) R) with
      x = clip(c - a + w + 1, 0, 2 w + 2).  The first and the last R rows are
      one number each, that of far blocks; all panels are near ones else.
  """

  q: jax.Array
  k: jax.Array
  v: jax.Array
  bias: jax.Array | None
  panels: jax.Array | None


class Given(NamedTuple):
  """What has no gradient.

  Attributes:
    by_queries: the blocks of keys of each block of queries.
    by_keys: the blocks of queries of each block of keys.
    q_segments: [B 1 T] int32 or None.
    k_segments: [B 1 S] int32 or None.
    k_prefix: [B 1 S] int32, 1 for keys that `causal` does not hide, or None.
    table: [P T] float32, 1 where a query sees the pattern's block of keys, or
      None where the pattern has no blocks.
    seeds: [2 B N] int32 of dropout, two for each head of each row, or None.
  """

  by_queries: Schedule
  by_keys: Schedule
  q_segments: jax.Array | None
  k_segments: jax.Array | None
  k_prefix: jax.Array | None
  table: jax.Array | None
  seeds: jax.Array | None

  def masked(self, settings: Settings) -> bool:
    """Whether any block may be partial."""
    return bool(
      settings.causal
      or settings.window is not None
      or settings.pattern is not None
      or self.q_segments is not None
      or settings.k_length % settings.k_block
    )


class Lists(NamedTuple):
  """A Schedule in scalar memory.

  Attributes:
    blocks: [1|B I J] int32 flattened; twice the number of a block, and one
      more where it is partial.
    lengths: [1|B I] int32 flattened.
  """

  blocks: jax.Array
  lengths: jax.Array

  @classmethod
  def of(cls, schedule: Schedule) -> "Lists":
    blocks = 2 * schedule.other + schedule.partial
    return cls(blocks.reshape(-1), schedule.lengths.reshape(-1))


class Walk(NamedTuple):
  """How a kernel's last two grid axes go through Lists.

  Attributes:
    rows: 1 or B.
    blocks: I, of the side of which each has a list.
    longest: J.
  """

  rows: int
  blocks: int
  longest: int

  @classmethod
  def of(cls, schedule: Schedule) -> "Walk":
    return cls(*schedule.other.shape)

  def other(
    self, lists: Lists, b: jax.Array, i: jax.Array, j: jax.Array
  ) -> jax.Array:
    """Number of the block that step j of block i of row b meets."""
    return self._entry(lists, b, i, j) >> 1

  def partial(
    self, lists: Lists, b: jax.Array, i: jax.Array, j: jax.Array
  ) -> jax.Array:
    """Whether some of that pair is hidden."""
    return (self._entry(lists, b, i, j) & 1) == 1

  def length(self, lists: Lists, b: jax.Array, i: jax.Array) -> jax.Array:
    """Steps of block i; there is nothing to do in those from it on."""
    return lists.lengths[(b * self.blocks if self.rows > 1 else 0) + i]

  def _entry(
    self, lists: Lists, b: jax.Array, i: jax.Array, j: jax.Array
  ) -> jax.Array:
    row = b * self.blocks if self.rows > 1 else 0
    return lists.blocks[(row + i) * self.longest + j]


def reach(panels: jax.Array) -> int:
  """w, how many blocks away a block is near."""
  return (panels.shape[1] // ROWS - 3) // 2


def precision(x: jax.Array) -> jax.lax.Precision | None:
  """Of products of such operands: float32 is not rounded to bfloat16."""
  return jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
