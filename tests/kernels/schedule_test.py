"""What kernels are told of blocks: where to go, and the bias between them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pallas_kernels
from pallas_kernels.attention.masks import Mask
from pallas_kernels.attention.panels import panels
from pallas_kernels.attention.schedule import schedule
from pallas_kernels.attention.tiles import Window

ROWS = 2


def random_mask(rng):
  """A mask of a random kind, and the lengths that it is for."""
  t = int(rng.integers(5, 60))
  s = t if rng.random() < 0.5 else int(rng.integers(5, 60))
  parts = {"causal": rng.random() < 0.5}
  if rng.random() < 0.3:
    right = None if rng.random() < 0.5 else int(rng.integers(9))
    parts["window"] = Window(int(rng.integers(20)), right)
  if rng.random() < 0.6:
    for name, length in (("q_segments", t), ("k_segments", s)):
      packed = np.sort(rng.integers(0, 4, (ROWS, length)), axis=1)
      parts[name] = jnp.asarray(packed)
  if parts["causal"] and rng.random() < 0.5:
    parts["k_prefix"] = jnp.arange(s) < jnp.asarray([[3], [9]])
  if rng.random() < 0.3:
    parts["pattern"] = pallas_kernels.longformer(6, 2)
  return Mask(**parts), t, s


@pytest.mark.parametrize("by_keys", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_no_seen_pair_is_left_out_and_no_hidden_one_is_in_a_whole_block(
  seed, by_keys
):
  rng = np.random.default_rng(seed)
  mask, t, s = random_mask(rng)
  q_block, k_block = (int(x) for x in rng.integers(3, 17, 2))
  visible = mask.visible(jnp.arange(t), jnp.arange(s))
  seen = True if visible is None else np.asarray(visible)[:, 0]
  seen = np.broadcast_to(seen, (ROWS, t, s))
  lists = jax.device_get(
    schedule(mask, t, s, q_block, k_block, by_keys=by_keys)
  )
  for row, i, j in np.ndindex(ROWS, -(-t // q_block), -(-s // k_block)):
    pairs = seen[row, i * q_block :, j * k_block :][:q_block, :k_block]
    own, other = (j, i) if by_keys else (i, j)
    of_row = min(row, len(lists.lengths) - 1)
    length = lists.lengths[of_row, own]
    visited = lists.other[of_row, own, :length].tolist()
    assert visited == sorted(set(visited))
    if other not in visited:
      assert not pairs.any()
    elif not lists.partial[of_row, own, visited.index(other)]:
      assert pairs.all()


def test_lists_are_as_long_as_positions_let_them_be():
  window = Mask(causal=True, window=Window(31, None))
  lists = schedule(window, 1024, 1024, 32, 32)
  assert lists.other.shape == (1, 32, 2)
  assert lists.lengths[0].tolist() == [1] + [2] * 31


def test_packed_rows_visit_the_squares_of_their_examples():
  segments = jnp.repeat(jnp.arange(1, 5), 64)[None]
  mask = Mask(q_segments=segments, k_segments=segments)
  lists = schedule(mask, 256, 256, 32, 32)
  assert lists.lengths[0].tolist() == [2] * 8
  assert lists.partial.sum() == 0


def test_behind_its_end_a_list_repeats_what_it_visited_last():
  lists = schedule(Mask(causal=True), 64, 64, 16, 16)
  assert lists.other[0, 1].tolist() == [0, 1, 1, 1]


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(
  ("rows", "max_distance"), [(128, 128), (64, 128), (16, 33), (16, 34)]
)
def test_panels_hold_the_bias_of_every_pair_of_blocks(
  rows, max_distance, bidirectional
):
  table = jax.random.normal(jax.random.key(0), (32, 3))
  bias = pallas_kernels.RelativeBias(table, bidirectional, max_distance)
  cut = panels(bias, rows)
  count = cut.reach + 3
  whole = np.asarray(bias.whole(count * rows, count * rows)[0])
  for a, c in np.ndindex(count, count):
    block = whole[:, a * rows : (a + 1) * rows, c * rows : (c + 1) * rows]
    away = c - a
    if abs(away) <= cut.reach:
      piece = cut.near[:, :, (away + cut.reach) * rows :][:, :, :rows]
    else:
      piece = (cut.left if away < 0 else cut.right)[:, None, None]
    np.testing.assert_array_equal(block, np.broadcast_to(piece, block.shape))
