"""Matrices as steps of decoding read them fastest on a CPU.

A step multiplies a few rows by every matrix of a model.  XLA's product for CPUs
first packs the whole matrix, which costs more than the product.  Cut in blocks
of columns [G I C], each of which stays in a cache while all rows pass, a
product and a sum of elements takes half the time for 4 to 32 rows
(benchmarks/decoding.py).

Letters: M rows, I inputs, J outputs, G blocks, C columns of a block.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from pallas_kernels import platforms
from t5x_lite.layers.linear import Einsum

_COLUMNS = 64


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=["kernel", "bias"],
  meta_fields=["inputs", "outputs", "scale", "dtype"],
)
@dataclasses.dataclass(frozen=True)
class Blocks:
  """scale x kernel + bias, as `Einsum`; sums are in float32.

  Attributes:
    kernel: [G I C], the last block filled up with zeros.
    bias: [*outputs], or None.
    inputs: how many of the last dimensions of x are summed over.
    outputs: the dimensions that come in their place.
    scale: of x.
    dtype: of the result; None is that of x.
  """

  kernel: jax.Array
  bias: jax.Array | None
  inputs: int
  outputs: tuple[int, ...]
  scale: float = 1.0
  dtype: str | None = None

  def __call__(self, x: jax.Array) -> jax.Array:
    """[... *outputs]."""
    kept = x.shape[: -self.inputs]
    rows = x.reshape(math.prod(kept), -1)
    if self.scale != 1.0:
      rows = rows * self.scale
    # Else XLA would compute x again for every column, or, where x is the input
    # of several products, write out [G M I C] for all of them.
    rows, kernel = jax.lax.optimization_barrier((rows, self.kernel))
    kernel = kernel.astype(x.dtype).astype(jnp.float32)
    y = _product(rows.astype(jnp.float32), kernel)
    y = y[:, : math.prod(self.outputs)]
    y = y.reshape(*kept, *self.outputs).astype(self.dtype or x.dtype)
    return y if self.bias is None else y + self.bias.astype(y.dtype)


def _product(rows: jax.Array, kernel: jax.Array) -> jax.Array:
  """[M J] of rows [M I] and a kernel [G I C]."""
  if rows.shape[0] == 1:  # XLA has a good product for a vector.
    y = jnp.einsum("mi,gic->gmc", rows, kernel)
  else:
    y = jnp.sum(rows[None, :, :, None] * kernel[:, None], axis=2)
    # Else the sum is computed in the order of what follows, not in blocks.
    y = jax.lax.optimization_barrier(y)
  return jnp.swapaxes(y, 0, 1).reshape(rows.shape[0], -1)


def useful() -> bool:
  """Whether steps will run where blocks are faster: on a CPU."""
  return platforms.target().platform == "cpu"


def logits(kernel: jax.Array, scale: float = 1.0) -> Blocks | None:
  """From x [... D] to float32 logits [... V]; None where not `useful`."""
  if not useful():
    return None
  cut_up = cut(kernel)
  made = dataclasses.replace(cut_up, scale=scale, dtype="float32")
  return jax.lax.optimization_barrier(made)


def cut(kernel: jax.Array, inputs: int = 1) -> Blocks:
  """Blocks of a kernel whose first so many dimensions are summed over."""
  outputs = kernel.shape[inputs:]
  flat = kernel.reshape(math.prod(kernel.shape[:inputs]), -1)
  flat = jnp.pad(flat, ((0, 0), (0, -flat.shape[1] % _COLUMNS)))
  blocks = flat.reshape(flat.shape[0], -1, _COLUMNS).swapaxes(0, 1)
  return Blocks(blocks, None, inputs, outputs)


def for_steps(module: Any) -> Any:
  """The module, or modules, with blocks in place of each `Einsum`."""
  return jax.tree.map(_cut, module, is_leaf=lambda x: isinstance(x, Einsum))


def _cut(x: Any) -> Any:
  if not isinstance(x, Einsum):
    return x
  given, result = x.equation.split("->")
  rows, letters = given.split(",")
  inputs = sum(letter not in result for letter in letters)
  summed, made = letters[:inputs], letters[inputs:]
  if not (rows.endswith(summed) and result == rows[:-inputs] + made):
    return x  # Its kernel has another order.
  bias = None if x.bias is None else x.bias[...]
  return dataclasses.replace(cut(x.kernel[...], inputs), bias=bias)
