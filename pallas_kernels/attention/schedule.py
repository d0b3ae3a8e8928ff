"""Which pairs of blocks a kernel visits, and in which the mask decides.

What positions hide is known in NumPy and makes the lists short; what segments
and prefixes hide is found from the least and the greatest of each block, so
that packed rows cost the squares of their examples' lengths.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels.attention.masks import Mask

# What is seen of a pair of blocks: nothing, something, everything.
_NONE, _SOME, _ALL = 0, 1, 2


class Schedule(NamedTuple):
  """For each block of one side the blocks of the other that it meets.

  Attributes:
    other: [1 or B, I, J] int32, ascending; from its length on the last one is
      repeated, so that nothing new is fetched.  0 where there is none at all.
    partial: [1 or B, I, J] int32, 1 where some pair of positions is hidden,
      or may be.
    lengths: [1 or B, I] int32, how many it meets.
  """

  other: jax.Array
  partial: jax.Array
  lengths: jax.Array


def schedule(
  mask: Mask,
  q_length: int,
  k_length: int,
  q_block: int,
  k_block: int,
  *,
  by_keys: bool = False,
) -> Schedule:
  """The lists of blocks of keys for each block of queries, or the reverse.

  Lengths may end in the middle of a block; what the last block of keys is
  filled up with is hidden by `mask` itself (`Mask.padded`) or by the kernel:
  blocks that hold some are partial.

  Args:
    mask: its arrays may be padded to whole blocks already.
    q_length: T before padding.
    k_length: S before padding.
    q_block: queries of a block.
    k_block: keys of a block.
    by_keys: a list for each block of keys, of blocks of queries.
  """
  positions = dataclasses.replace(mask, q_segments=None, k_segments=None)
  partial, whole = positions.seen_tiles(q_length, k_length, q_block, k_block)
  q_blocks, k_blocks = -(-q_length // q_block), -(-k_length // k_block)
  static = np.zeros((q_blocks, k_blocks), np.int32)
  static[tuple(partial.T)] = _SOME
  static[tuple(whole.T)] = _ALL
  seen = jnp.asarray(static)[None]
  if mask.causal and mask.k_prefix is not None:
    seen = _with_prefix(seen, mask, q_block, k_block)
  if mask.q_segments is not None and mask.k_segments is not None:
    q, k = _range(mask.q_segments, q_block), _range(mask.k_segments, k_block)
    seen = _with_segments(seen, q, k)
  if by_keys:
    seen, static = jnp.swapaxes(seen, 1, 2), static.T
  longest = max(int((static > 0).sum(1).max()), 1)
  return _lists(seen, longest)


def _lists(seen: jax.Array, longest: int) -> Schedule:
  """From what is seen [1 or B, I, J] of each pair of blocks."""
  lengths = jnp.sum(seen > _NONE, axis=2, dtype=jnp.int32)
  order = jnp.argsort(seen == _NONE, axis=2, stable=True)
  last = jnp.maximum(lengths - 1, 0)[..., None]
  place = jnp.minimum(jnp.arange(longest), last)
  other = jnp.take_along_axis(order, place, axis=2).astype(jnp.int32)
  other = jnp.where(lengths[..., None] > 0, other, 0)
  kind = jnp.take_along_axis(seen, other, axis=2)
  return Schedule(other, (kind == _SOME).astype(jnp.int32), lengths)


def _with_prefix(
  seen: jax.Array, mask: Mask, q_block: int, k_block: int
) -> jax.Array:
  """Drops pairs that `causal` hides and that have no key of a prefix.

  Those are among the ones seen in part, as data decide on them.
  """
  assert mask.k_prefix is not None
  prefix = _range(mask.k_prefix.astype(jnp.int32), k_block)[1] > 0
  first = jnp.arange(seen.shape[2]) * k_block
  last = mask.q_start + (jnp.arange(seen.shape[1]) + 1) * q_block - 1
  causal = last[:, None] >= first[None, :]
  return jnp.where(causal[None] | prefix[:, None, :], seen, _NONE)


def _with_segments(
  seen: jax.Array,
  q: tuple[jax.Array, jax.Array],
  k: tuple[jax.Array, jax.Array],
) -> jax.Array:
  """Drops pairs without a common segment; those of one segment stay.

  Args:
    seen: [1 or B, I, J].
    q: the least and the greatest segment [B I] of each block.
    k: [B J], likewise.
  """
  q_low, q_high = (x[:, :, None] for x in q)
  k_low, k_high = (x[:, None, :] for x in k)
  one = (q_low == q_high) & (k_low == k_high) & (q_low == k_low)
  seen = jnp.where(one, seen, jnp.minimum(seen, _SOME))
  return jnp.where((q_high < k_low) | (k_high < q_low), _NONE, seen)


def _range(segments: jax.Array, block: int) -> tuple[jax.Array, jax.Array]:
  """The least and the greatest [B blocks] of each block of [B length]."""
  more = -segments.shape[1] % block
  # The last is repeated: padding makes no range wider.
  padded = jnp.pad(segments, ((0, 0), (0, more)), mode="edge")
  blocks = padded.reshape(len(segments), -1, block)
  return blocks.min(-1), blocks.max(-1)
