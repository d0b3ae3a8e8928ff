"""T5's relative bias for kernels, which can neither gather nor scatter.

The bias is a function of the distance, and constant beyond `max_distance`.
Between a block of R queries and a block of R keys it is one aligned piece of a
panel, whose row r is shifted by r, if the blocks are near one another, and one
number if they are far.  Its gradient has the same shape: near blocks add their
logits' gradient to their piece, far ones their sum to one number.
"""

from typing import NamedTuple

import jax

from pallas_kernels.attention.relative import RelativeBias, diagonals


class Panels(NamedTuple):
  """What a kernel adds to its logits.

  The piece for the block of queries a and the block of keys c, both of R
  positions and counted from position 0, is, with d = c - a and w = reach,

    near[n, :, (d + w) R : (d + w + 1) R]  where |d| <= w,
    left[n]   where d < -w,
    right[n]  where d > w.

  Attributes:
    near: [N, R, (2 w + 1) R] float32.
    left: [N], of keys far before a query.
    right: [N], of keys far after it.
  """

  near: jax.Array
  left: jax.Array
  right: jax.Array

  @property
  def reach(self) -> int:
    """w, how many blocks away a block is near."""
    rows, columns = self.near.shape[1:]
    return (columns // rows - 1) // 2


def panels(bias: RelativeBias, rows: int) -> Panels:
  """The panels of a table, differentiable by it.

  Args:
    bias: of N heads.
    rows: R; the lengths of the kernel's blocks are multiples of it.
  """
  # From block w + 1 on, distances are w R + 1 and more.
  reach = -(-(bias.max_distance - 1) // rows)
  # Ascending distances, from that of the last row to the first column.
  values = bias.values((reach + 1) * rows, (reach + 1) * rows)
  # As long as a panel and its shifts need: its columns begin w blocks back.
  near = diagonals(values, rows)
  return Panels(near, values[:, 0], values[:, -1])
