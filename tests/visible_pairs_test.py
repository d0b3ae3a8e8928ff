"""Pairs counted without the mask equal those of the mask that attention has."""

import numpy as np
import pytest

import pallas_kernels
from pallas_kernels.attention import masks
from t5x_lite import visible_pairs

PATTERNS = {
  "none": None,
  "longformer": pallas_kernels.longformer(6, global_tokens=3),
  "window_alone": pallas_kernels.Pattern((2, 0)),
  "global_alone": pallas_kernels.Pattern(global_tokens=4),
  "nothing": pallas_kernels.Pattern(),
  "bigbird": pallas_kernels.bigbird(
    37, size=4, window=3, global_blocks=2, random_blocks=2
  ),
  # Blocks with a window and global tokens that overlap them.
  "all": pallas_kernels.Pattern(
    (5, 2), 3, tuple(((i * 3) % 10, i, (i * 7) % 10) for i in range(10)), 4
  ),
}
WINDOWS = (None, (3, 2), (0, 0), (None, 4), (2, None), (50, 50))


def by_hand(queries, keys, causal, window, pattern):
  mask = masks.Mask(
    causal=causal,
    window=window and masks.Window(*window),
    pattern=pattern,
  )
  seen = mask.visible(np.arange(queries), np.arange(keys))
  return queries * keys if seen is None else int(np.asarray(seen).sum())


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("causal", [False, True])
def test_count_equals_the_mask_summed_up(name, causal):
  pattern = PATTERNS[name]
  for window in WINDOWS:
    for queries, keys in ((37, 37), (1, 1), (37, 20), (9, 37)):
      counted = visible_pairs.count(
        queries, keys, causal=causal, window=window, pattern=pattern
      )
      expected = by_hand(queries, keys, causal, window, pattern)
      assert counted == expected, (window, queries, keys)


def test_causal_is_half_of_all_and_half_the_diagonal():
  assert visible_pairs.count(1000, 1000) == 10**6
  assert visible_pairs.count(1000, 1000, causal=True) == 1000 * 1001 / 2


def test_sparse_attention_of_a_long_row_costs_as_its_length():
  """Longformer's 4,096 tokens, and BigBird's, by the numbers of the papers."""
  longformer = pallas_kernels.longformer(512)
  counted = visible_pairs.count(4096, 4096, pattern=longformer)
  middle = 4096 * 513 - 256 * 257  # less what the ends cut off
  assert middle < counted < middle + 2 * 4096
  bigbird = pallas_kernels.bigbird(4096)
  counted = visible_pairs.count(4096, 4096, pattern=bigbird)
  # 62 rows of 3 + 2 + 3 blocks (those by an end share some), 2 rows of all.
  blocks = counted / 64**2
  assert blocks == sum(map(len, bigbird.blocks))
  assert 62 * 7 + 2 * 64 < blocks <= 62 * 8 + 2 * 64
