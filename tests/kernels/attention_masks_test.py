"""Masks of attention: which keys are seen, and which blocks are visited."""

import jax.numpy as jnp
import numpy as np
import pytest

import pallas_kernels
from pallas_kernels.attention.masks import Mask
from pallas_kernels.attention.tiles import Window
from tests.kernels import plain_attention


def drawn(mask, length):
  """The mask of rows of `length` as lines of # and dots."""
  counted = jnp.arange(length)
  seen = np.asarray(mask.visible(counted, counted)).reshape(length, length)
  return ["".join(".#"[int(x)] for x in row) for row in seen]


def test_windows_spelled_out():
  assert drawn(Mask(window=Window(1, 2)), 5) == [
    "###..",
    "####.",
    ".####",
    "..###",
    "...##",
  ]
  assert drawn(Mask(causal=True, window=Window(1, None)), 4) == [
    "#...",
    "##..",
    ".##.",
    "..##",
  ]


def test_a_longformer_spelled_out():
  pattern = pallas_kernels.longformer(window=2, global_tokens=1)
  assert drawn(Mask(pattern=pattern), 6) == [
    "######",
    "###...",
    "####..",
    "#.###.",
    "#..###",
    "#...##",
  ]


def test_a_bigbird_spelled_out():
  pattern = pallas_kernels.bigbird(
    13, size=2, window=1, global_blocks=1, random_blocks=0
  )
  assert pattern.blocks == (
    (0, 1, 2, 3, 4, 5, 6),
    *((0, i) for i in range(1, 7)),
  )
  causal = pallas_kernels.bigbird(6, size=2, random_blocks=0, global_blocks=0)
  assert drawn(Mask(causal=True, pattern=causal), 6) == [
    "#.....",
    "##....",
    "###...",
    "####..",
    "..###.",
    "..####",
  ]


def test_a_published_bigbird():
  pattern = pallas_kernels.bigbird(4096)
  blocks = pattern.blocks
  assert (pattern.size, len(blocks)) == (64, 64)
  assert blocks[0] == blocks[63] == tuple(range(64))
  for i, row in enumerate(blocks[1:-1], start=1):
    assert {0, 63, i - 1, i, i + 1} <= set(row)
    assert len(set(row)) == len({0, 63, i - 1, i, i + 1}) + 3
  assert blocks == pallas_kernels.bigbird(4096).blocks
  assert blocks != pallas_kernels.bigbird(4096, seed=1).blocks


MASKS = {
  "causal": {"causal": True},
  "later": {"causal": True, "q_start": 6},
  "window": {"window": (5, 2)},
  "left": {"window": (5, None), "causal": True, "q_start": 3},
  "longformer": {"pattern": pallas_kernels.longformer(6, 3)},
  "bigbird": {
    "pattern": pallas_kernels.bigbird(33, size=3, random_blocks=1),
    "causal": True,
  },
  "all": {
    "pattern": pallas_kernels.Pattern((1, 4), 2, ((0, 1), (), (0,)), 11),
    "window": (9, 9),
  },
  "nothing": {"pattern": pallas_kernels.Pattern()},
}


def made(name):
  how = dict(MASKS[name])
  if "window" in how:
    how["window"] = Window(*how["window"])
  return Mask(**how)


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("blocks", [(4, 4), (7, 5)])
def test_blocks_are_those_of_the_whole_mask(name, blocks):
  """No block is left out that has a key to see, none called whole falsely."""
  t, s = 26, 30
  dense = plain_attention.mask((1, t, s), **MASKS[name])[0]
  mask = made(name)
  visible = mask.visible(jnp.arange(t), jnp.arange(s))
  np.testing.assert_array_equal(np.broadcast_to(visible[0, 0], (t, s)), dense)
  partial, whole = mask.seen_tiles(t, s, *blocks)
  kinds = {
    **{(int(i), int(j)): "partial" for i, j in partial},
    **{(int(i), int(j)): "whole" for i, j in whole},
  }
  assert len(kinds) == len(partial) + len(whole)
  alone = name not in ("bigbird", "all", "left")  # Else parts don't know.
  q_block, k_block = blocks
  for i, j in np.ndindex(-(-t // q_block), -(-s // k_block)):
    tile = dense[i * q_block :, j * k_block :][:q_block, :k_block]
    kind = kinds.get((i, j))
    if tile.any() or kind == "whole":
      assert kind in ("partial", "whole"), (i, j)
    elif alone:
      assert kind is None, (i, j)
    if kind == "whole":
      assert tile.all() and tile.shape[1] == k_block, (i, j)


def test_numbers_of_blocks():
  """Work is a half for causal attention, and linear in a window."""
  partial, whole = Mask(causal=True).seen_tiles(4096, 4096, 128, 128)
  assert (len(partial), len(whole)) == (32, 32 * 31 // 2)
  near = Mask(causal=True, window=Window(511, 0))
  partial, whole = near.seen_tiles(4096, 4096, 128, 128)
  assert len(partial) + len(whole) < 32 * 5
  partial, whole = Mask().seen_tiles(100, 100, 50, 50)
  assert (len(partial), len(whole)) == (0, 4)


def test_what_depends_on_data_skips_nothing():
  ids = jnp.zeros((1, 8), jnp.int32)
  both = {"q_segments": ids, "k_segments": ids}
  for mask, seen in (
    (Mask(causal=True, **both), 3),
    (Mask(causal=True, k_prefix=ids == 0), 4),
    (Mask(causal=True, q_start=jnp.asarray(0)), 4),
    (Mask(window=Window(0, 0), k_prefix=ids == 0), 2),
  ):
    partial, whole = mask.seen_tiles(8, 8, 4, 4)
    assert len(partial) + len(whole) == seen
  partial, whole = Mask(causal=True, **both).seen_tiles(8, 8, 4, 4)
  assert len(whole) == 0


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda: pallas_kernels.longformer(5), "window of 5 has no halves"),
    (lambda: pallas_kernels.bigbird(64, window=2), "2 blocks has no middle"),
    (lambda: pallas_kernels.Pattern(size=0), "size >= 1 and global_tokens"),
  ],
)
def test_wrong_patterns(make, message):
  with pytest.raises(ValueError, match=message):
    make()
