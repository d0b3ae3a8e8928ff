"""FLOPs of mixers that are no attention, against sums written out."""

import functools

import jax
import pytest
from flax import nnx

from t5x_lite import flops, layers

ROWS, LENGTH, DIM = 2, 10, 8
TOKENS = flops.Tokens(ROWS, LENGTH)
partial = functools.partial
MAMBA = partial(layers.Mamba, DIM, expand=2, state_dim=3, rank=5)
# Multiplications of a token with parameters, and numbers of the state.
MAMBA_COUNTS = (
  2 * DIM * 16 + 4 * 16 + 16 * (5 + 2 * 3) + 5 * 16 + 16 * DIM,
  16 * 3,
)
CASES = {
  "linear_attention": (
    partial(layers.LinearAttention, DIM, heads=2, head_dim=3),
    (4 * DIM * 6, 2 * 3 * 3),
  ),
  "retention": (
    partial(layers.Retention, DIM, heads=2, head_dim=3, value_dim=5),
    (2 * DIM * 6 + 3 * DIM * 10, 2 * 3 * 5),
  ),
  "gated_retention": (
    partial(
      layers.Retention,
      DIM,
      heads=2,
      head_dim=3,
      value_dim=5,
      decay=layers.GatedDecay,
    ),
    (2 * DIM * 6 + 3 * DIM * 10 + DIM * 2, 2 * 3 * 5),
  ),
  "mamba": (MAMBA, MAMBA_COUNTS),
  "mamba2": (
    partial(layers.Mamba2, DIM, head_dim=4, state_dim=3, groups=2),
    # x, b, c, the gate and the step; three convolutions; out.
    (DIM * (2 * 16 + 2 * 6 + 4) + 4 * (16 + 2 * 6) + 16 * DIM, 4 * 3 * 4),
  ),
  "s4": (
    partial(layers.S4, DIM, state_dim=6),
    (2 * DIM * DIM, DIM * 6),
  ),
  "s4d_both_ways": (
    partial(layers.S4D, DIM, state_dim=6, bidirectional=True, output=None),
    (0, 2 * DIM * 6),
  ),
  "bidirectional": (
    partial(
      layers.Bidirectional,
      DIM,
      mixer=lambda dim, rngs: MAMBA(rngs=rngs),
    ),
    tuple(2 * count for count in MAMBA_COUNTS),
  ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_mixer_is_its_products_and_its_state(name):
  constructor, (products, state) = CASES[name]
  layer = jax.eval_shape(lambda: constructor(rngs=nnx.Rngs(0)))
  found = flops.of_layer(layer, TOKENS)
  positions = ROWS * LENGTH
  assert found.matmul == 2 * positions * products
  # Written and read, each with a multiplication and an addition.
  assert found.states == 4 * positions * state
  assert found.attention == found.attention_full == 0
  assert found.total == found.matmul + found.states
  assert (found * 3 + found).states == 4 * found.states


def test_cost_grows_as_the_length():
  layer = jax.eval_shape(lambda: MAMBA(rngs=nnx.Rngs(0)))
  one, ten = (flops.of_layer(layer, flops.Tokens(1, n)) for n in (7, 70))
  assert ten.total == 10 * one.total
