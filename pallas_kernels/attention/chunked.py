"""Attention in blocks of queries and keys, in memory linear in the length.

The softmax runs on with each block of keys (Milakov and Gimelshein 2018; Rabe
and Staats 2021), and the backward pass computes the weights of a block again
from the log-sum-exp (Dao et al. 2022, https://arxiv.org/abs/2205.14135).  One
loop goes over pairs of blocks, in any order; pairs that nobody sees are not
among them, and those that are seen whole have a loop without the mask.

A relative bias is one number per head and distance: a block reads the stretch
of distances that it spans, and adds its gradient there.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pallas_kernels.attention.dropout import Dropout
from pallas_kernels.attention.masks import Mask
from pallas_kernels.attention.relative import RelativeBias, diagonals


class _Settings(NamedTuple):
  """What is static."""

  q_block: int
  k_block: int
  scale: float
  soft_cap: float | None


class _Numbers(NamedTuple):
  """What gradients are taken by, with blocks [Q] and [S] first.

  Attributes:
    q: [Q B K G t H].
    k: [S B K s H].
    v: [S B K s V].
    bias: [1|B, 1|K, 1|G, 1|T, 1|S] or None.
    values: [N, T + S - 1], of a relative bias, or None.
  """

  q: jax.Array
  k: jax.Array
  v: jax.Array
  bias: jax.Array | None
  values: jax.Array | None


class _Given(NamedTuple):
  """What has no gradient.

  Attributes:
    mask: of the padded lengths.
    dropout: or None.
    partial: [P 2] pairs of blocks where the mask must be looked at.
    whole: [F 2] pairs where it need not.
  """

  mask: Mask
  dropout: Dropout | None
  partial: jax.Array
  whole: jax.Array


def attention(
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
  chunk: int,
) -> tuple[jax.Array, jax.Array]:
  """As `reference.attention`, with blocks of `chunk` queries and keys."""
  size, q_length, heads, _ = q.shape
  k_length, kv_heads = k.shape[1:3]
  q_block, k_block = min(chunk, q_length), min(chunk, k_length)
  q_more, k_more = -q_length % q_block, -k_length % k_block
  partial, whole = mask.seen_tiles(q_length, k_length, q_block, k_block)
  values = None
  if relative_bias is not None:
    values = relative_bias.values(
      q_length + q_more, k_length + k_more, mask.q_start
    )
  if bias is not None:
    # A side of size 1 stays so: it is for all queries, or all keys.
    b, n, t, s = bias.shape
    grow = (0, q_more * (t > 1)), (0, k_more * (s > 1))
    bias = jnp.pad(bias, ((0, 0), (0, 0), *grow))
    grouped = (kv_heads, heads // kv_heads) if n > 1 else (1, 1)
    bias = bias.reshape(b, *grouped, *bias.shape[2:])
  q = _blocks(q, q_block).reshape(
    -1, size, kv_heads, heads // kv_heads, q_block, q.shape[-1]
  )
  numbers = _Numbers(q, _blocks(k, k_block), _blocks(v, k_block), bias, values)
  given = _Given(
    mask.padded(q_length, k_length, q_block, k_block),
    dropout,
    jnp.asarray(partial),
    jnp.asarray(whole),
  )
  settings = _Settings(q_block, k_block, scale, soft_cap)
  y, lse = _attend(settings, numbers, given)
  return _rows(y, heads)[:, :q_length], _rows(lse, heads)[:, :q_length]


def _blocks(x: jax.Array, block: int) -> jax.Array:
  """[B T N H] as [blocks, B, N, block, H], with zeros at the end."""
  more = -x.shape[1] % block
  x = jnp.pad(x, ((0, 0), (0, more), (0, 0), (0, 0))) if more else x
  x = x.reshape(x.shape[0], -1, block, *x.shape[2:])
  return jnp.moveaxis(x, (1, 2), (0, 3))


def _rows(x: jax.Array, heads: int) -> jax.Array:
  """[blocks, B, K, G, block, ...] as [B T N ...]."""
  x = x.reshape(*x.shape[:2], heads, *x.shape[4:])
  x = jnp.moveaxis(x, (0, 3), (1, 2))
  return x.reshape(x.shape[0], -1, *x.shape[3:])


class _Tile(NamedTuple):
  """One pair of blocks.

  Attributes:
    i: block of queries.
    j: block of keys.
    masked: whether some key is hidden from some query.
  """

  i: jax.Array
  j: jax.Array
  masked: bool

  def queries(self, settings: _Settings) -> jax.Array:
    """Their indices [t]."""
    return self.i * settings.q_block + jnp.arange(settings.q_block)

  def keys(self, settings: _Settings) -> jax.Array:
    """Their indices [s]."""
    return self.j * settings.k_block + jnp.arange(settings.k_block)


class _Block(NamedTuple):
  """One of the blocks of an array."""

  number: jax.Array

  def read(self, x: jax.Array) -> jax.Array:
    return jax.lax.dynamic_index_in_dim(x, self.number, keepdims=False)

  def write(self, x: jax.Array, block: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_index_in_dim(x, block, self.number, 0)

  def add(self, x: jax.Array, more: jax.Array) -> jax.Array:
    return self.write(x, self.read(x) + more.astype(x.dtype))


class _Stretch(NamedTuple):
  """A part of an array that is not cut into blocks."""

  start: tuple[jax.Array | int, ...]
  shape: tuple[int, ...]

  def read(self, x: jax.Array) -> jax.Array:
    return jax.lax.dynamic_slice(x, self._start(), self.shape)

  def add(self, x: jax.Array, more: jax.Array) -> jax.Array:
    more = self.read(x) + more.astype(x.dtype)
    return jax.lax.dynamic_update_slice(x, more, self._start())

  def _start(self) -> list[jax.Array]:
    return [jnp.asarray(index, jnp.int32) for index in self.start]


def _places(
  settings: _Settings, numbers: _Numbers, tile: _Tile
) -> list[_Block | _Stretch | None]:
  """Where the numbers of a tile stand, in the order of `_Numbers`."""
  q_first, k_first = tile.i * settings.q_block, tile.j * settings.k_block
  bias = values = None
  if numbers.bias is not None:
    *outer, t, s = numbers.bias.shape
    # A side of size 1 is the same for all blocks.
    start = q_first if t > 1 else 0, k_first if s > 1 else 0
    shape = min(t, settings.q_block), min(s, settings.k_block)
    bias = _Stretch((0, 0, 0, *start), (*outer, *shape))
  if numbers.values is not None:
    # That of the least distance, from the block's last query to first key.
    first = (len(numbers.q) - 1 - tile.i) * settings.q_block + k_first
    length = settings.q_block + settings.k_block - 1
    values = _Stretch((0, first), (len(numbers.values), length))
  return [_Block(tile.i), _Block(tile.j), _Block(tile.j), bias, values]


def _read(settings: _Settings, numbers: _Numbers, tile: _Tile) -> Iterator[Any]:
  """What is in the places; None where there is none."""
  places: list[Any] = _places(settings, numbers, tile)
  for place, x in zip(places, numbers, strict=True):
    yield None if place is None else place.read(x)


def _add(
  settings: _Settings, total: _Numbers, tile: _Tile, more: _Numbers
) -> _Numbers:
  """The total with more in the places."""
  places: list[Any] = _places(settings, total, tile)
  return _Numbers._make(
    None if place is None else place.add(x, y)
    for place, x, y in zip(places, total, more, strict=True)
  )


def _logits(
  settings: _Settings,
  given: _Given,
  tile: _Tile,
  products: jax.Array,
  bias: jax.Array | None,
  values: jax.Array | None,
) -> jax.Array:
  """What the softmax is of, [B K G t s], from the products of q and k."""
  logits = products
  if settings.scale != 1.0:
    logits = logits * settings.scale
  if settings.soft_cap is not None:
    logits = settings.soft_cap * jnp.tanh(logits / settings.soft_cap)
  if bias is not None:
    logits = logits + bias
  if values is not None:
    spread = diagonals(values, settings.q_block)
    logits = logits + spread.reshape(1, *logits.shape[1:])
  if not tile.masked:
    return logits
  queries, keys = tile.queries(settings), tile.keys(settings)
  piece = given.mask.cut(
    queries[0], keys[0], settings.q_block, settings.k_block
  )
  seen = piece.visible(queries, keys)
  return (
    logits if seen is None else jnp.where(seen[:, :, None], logits, -jnp.inf)
  )


def _drop(
  settings: _Settings, given: _Given, tile: _Tile, weights: jax.Array
) -> jax.Array:
  if given.dropout is None:
    return weights
  size, *groups = weights.shape[:3]
  seeds = given.dropout.seeds(size, groups[0] * groups[1])
  first, second = (x.reshape(size, *groups) for x in seeds)
  return given.dropout(
    weights, (first, second), tile.queries(settings), tile.keys(settings)
  )


def _over_tiles(
  given: _Given, step: Callable[[Any, _Tile], Any], state: Any
) -> Any:
  """The state after a step for each pair of blocks."""
  for pairs, masked in ((given.whole, False), (given.partial, True)):
    if not len(pairs):
      continue

    def body(state: Any, pair: jax.Array, masked: bool = masked) -> Any:
      return step(state, _Tile(pair[0], pair[1], masked)), None

    state, _ = jax.lax.scan(body, state, pairs)
  return state


def _dtype(numbers: _Numbers) -> Any:
  return jnp.result_type(jnp.float32, numbers.q, numbers.k, numbers.v)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(
  settings: _Settings, numbers: _Numbers, given: _Given
) -> tuple[jax.Array, jax.Array]:
  """Output [Q B K G t V] in the dtype of q, and log-sum-exp [Q B K G t]."""
  dtype = _dtype(numbers)
  product = functools.partial(jnp.einsum, preferred_element_type=dtype)

  def step(state: tuple[jax.Array, ...], tile: _Tile) -> tuple[jax.Array, ...]:
    q, k, v, *biases = _read(settings, numbers, tile)
    block = _Block(tile.i)
    before, total, y = (block.read(x) for x in state)
    products = product("bkgth,bksh->bkgts", q, k)
    logits = _logits(settings, given, tile, products, *biases)
    top = jnp.maximum(before, jnp.max(logits, axis=-1))
    weights = jnp.exp(logits - top[..., None])
    fade = jnp.exp(before - top)
    total = fade * total + jnp.sum(weights, axis=-1)
    weights = _drop(settings, given, tile, weights).astype(v.dtype)
    y = fade[..., None] * y + product("bkgts,bksh->bkgth", weights, v)
    new = top, total, y
    return tuple(block.write(x, z) for x, z in zip(state, new, strict=True))

  rows = numbers.q.shape[:-1]
  top, total, y = _over_tiles(
    given,
    step,
    (
      # Finite, because -inf less -inf would be no number.
      jnp.full(rows, jnp.finfo(dtype).min, dtype),
      jnp.zeros(rows, dtype),
      jnp.zeros((*rows, numbers.v.shape[-1]), dtype),
    ),
  )
  # The greatest adds 1, if there is one.
  y = y / jnp.maximum(total, 1)[..., None]
  return y.astype(numbers.q.dtype), top + jnp.log(total)


def _forward(
  settings: _Settings, numbers: _Numbers, given: _Given
) -> tuple[tuple[jax.Array, jax.Array], tuple]:
  y, lse = _attend(settings, numbers, given)
  return (y, lse), (numbers, given, y, lse)


def _backward(
  settings: _Settings, kept: tuple, gradients: tuple[jax.Array, jax.Array]
) -> tuple[_Numbers, None]:
  """With weights w, and dw = dy v', logits have w (dw - <dy, y> + dlse)."""
  numbers, given, y, lse = kept
  dy, dlse = gradients
  dtype = _dtype(numbers)
  product = functools.partial(jnp.einsum, preferred_element_type=dtype)
  # A query that sees nothing has the weights exp(-inf - 0).
  lse = jnp.where(lse == -jnp.inf, jnp.zeros_like(lse), lse)
  offset = dlse - jnp.sum(dy.astype(dtype) * y.astype(dtype), axis=-1)

  def step(total: _Numbers, tile: _Tile) -> _Numbers:
    q, k, v, *biases = _read(settings, numbers, tile)
    dout, level, less = (_Block(tile.i).read(x) for x in (dy, lse, offset))
    logits, pull = jax.vjp(
      functools.partial(_logits, settings, given, tile),
      product("bkgth,bksh->bkgts", q, k),
      *biases,
    )
    weights = jnp.exp(logits - level[..., None])
    dweights = product("bkgth,bksh->bkgts", dout, v)
    dweights = _drop(settings, given, tile, dweights)
    dproducts, *dbiases = pull(weights * (dweights + less[..., None]))
    dproducts = dproducts.astype(q.dtype)
    weights = _drop(settings, given, tile, weights).astype(dout.dtype)
    more = _Numbers(
      product("bkgts,bksh->bkgth", dproducts, k),
      product("bkgts,bkgth->bksh", dproducts, q),
      product("bkgts,bkgth->bksh", weights, dout),
      *dbiases,
    )
    return _add(settings, total, tile, more)

  total = jax.tree.map(lambda x: jnp.zeros(x.shape, dtype), numbers)
  total = _over_tiles(given, step, total)
  return jax.tree.map(lambda g, x: g.astype(x.dtype), total, numbers), None


_attend.defvjp(_forward, _backward)
