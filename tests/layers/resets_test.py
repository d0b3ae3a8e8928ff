"""Where examples begin and end."""

import jax.numpy as jnp
import numpy as np

from t5x_lite.layers import context, resets

POSITIONS = [[0, 1, 2, 0, 1, 0, 0], [4, 5, 0, 1, 2, 3, 4]]
SEGMENTS = [[1, 1, 1, 2, 2, 0, 0], [3, 3, 4, 4, 5, 5, 5]]


def rows(found):
  return np.asarray(found).astype(int).tolist()


def made(segments=SEGMENTS):
  if segments is not None:
    segments = jnp.asarray(segments, jnp.int32)
  return context.Context(jnp.asarray(POSITIONS, jnp.int32), segments)


def test_examples_begin_at_position_zero():
  assert rows(resets.resets(made(None))) == [
    [1, 0, 0, 1, 0, 1, 1],
    [0, 0, 1, 0, 0, 0, 0],
  ]


def test_examples_begin_where_the_segment_changes():
  """The first token goes on from the state before: its position is 4."""
  assert rows(resets.resets(made())) == [
    [1, 0, 0, 1, 0, 1, 1],
    [0, 0, 1, 0, 1, 0, 0],
  ]


def test_examples_end_where_the_next_begins():
  assert rows(resets.reverse_resets(made())) == [
    [0, 0, 1, 0, 1, 1, 1],
    [0, 1, 0, 1, 0, 0, 1],
  ]


def test_a_step_of_decoding_goes_on():
  ctx = context.Context(
    jnp.asarray([[7], [0]], jnp.int32), jnp.ones((2, 1), jnp.int32)
  )
  assert rows(resets.resets(ctx)) == [[0], [1]]
  assert rows(resets.reverse_resets(ctx)) == [[1], [1]]
