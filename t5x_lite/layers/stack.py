"""A stack: one block repeated, scanned over its stacked parameters."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from t5x_lite import errors
from t5x_lite.layers import step_kernels
from t5x_lite.layers.block import Block
from t5x_lite.layers.context import Context, dropout
from t5x_lite.layers.norms import RMSNorm
from t5x_lite.layers.state import Stacked

# What the backward pass finds saved; everything else it computes again.
_REMAT = {
  "none": None,
  "minimal": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
  "dots": jax.checkpoint_policies.dots_saveable,
  "full": jax.checkpoint_policies.nothing_saveable,
  "offload": jax.checkpoint_policies.offload_dot_with_no_batch_dims(
    "device", "pinned_host"
  ),
}


class Stack(nnx.Module):
  """`num_layers` blocks, and what stands once before and after them.

  x + positions, input norm, dropout, the layers with a bias in common, final
  norm, dropout; all but the layers may be absent.  Parameters of the layers
  are stacked along a leading axis "layers".

  Attributes:
    block: constructor of a layer, called with (dim, rngs=...).
    bias: of attention logits, for all layers; called with rngs=....
    positions: added to the input; called with (dim, rngs=...).
    input_norm: called with (dim, rngs=...); BERT's and BART's.
    final_norm: likewise; None where residuals end in a norm.
    dropout: rate on the input of the layers.
    output_dropout: rate on the output of the stack; T5's is `dropout`.
    remat: what is recomputed in the backward pass: "none", "minimal" (all
      but matmuls with parameters), "dots" (all but matmuls), "full"; or
      "offload", which is "minimal" with what is kept in the host's memory.
    remat_group: layers of which only the input is kept in any case, so that
      no layer's arrays exist but those of one group at a time; `remat` is of
      the layers of the group.  1 is no groups.
    unroll: how many layers make one step of the scan.  Numbers and
      checkpoints don't depend on it; compile time and speed do.
  """

  def __init__(
    self,
    dim: int,
    *,
    num_layers: int,
    block: Callable[..., Any] = Block,
    bias: Callable[..., Any] | None = None,
    positions: Callable[..., Any] | None = None,
    input_norm: Callable[..., Any] | None = None,
    final_norm: Callable[..., Any] | None = RMSNorm,
    dropout: float = 0.0,
    output_dropout: float = 0.0,
    remat: str = "none",
    remat_group: int = 1,
    unroll: int = 1,
    rngs: nnx.Rngs,
  ):
    if remat not in _REMAT:
      raise errors.ConfigError(
        f"remat {remat!r} is not one of {', '.join(_REMAT)}"
        f"{errors.suggest(remat, _REMAT)}"
      )
    if remat_group < 1 or num_layers % remat_group:
      below = range(1, min(max(remat_group, 1), num_layers) + 1)
      near = max(n for n in below if num_layers % n == 0)
      raise errors.ConfigError(
        f"remat_group {remat_group} does not divide the {num_layers} layers of"
        f" a stack: use {near}, or another divisor"
      )
    self.num_layers, self.remat, self.unroll = num_layers, remat, unroll
    self.remat_group = remat_group
    self.dropout, self.output_dropout = dropout, output_dropout
    keys = jax.random.split(rngs.params(), num_layers)
    self.layers = jax.vmap(lambda key: block(dim, rngs=nnx.Rngs(key)))(keys)
    self.bias = bias(rngs=rngs) if bias else None
    self.positions = positions(dim, rngs=rngs) if positions else None
    self.input_norm = input_norm(dim, rngs=rngs) if input_norm else None
    self.final_norm = final_norm(dim, rngs=rngs) if final_norm else None

  def init_state(
    self, batch_size: int, length: int, dtype: str, ctx: Context
  ) -> tuple[Any, ...]:
    """States of the layers.

    Raises:
      ConfigError: the positions don't reach so far.
    """
    if self.positions is not None:
      self.positions.check(length)
    return tuple(
      layer.init_state(batch_size, length, dtype, ctx) for layer in self.apart()
    )

  def init_stacked(
    self, batch_size: int, length: int, dtype: str, ctx: Context
  ) -> Stacked:
    """As `init_state`, for passes that scan over the layers."""

    def one(layer: Any) -> Any:
      return layer.init_state(batch_size, length, dtype, ctx)

    return Stacked(jax.vmap(one, axis_size=self.num_layers)(self.layers))

  def apart(self) -> tuple[Any, ...]:
    """The layers, each with parameters of its own."""
    return tuple(
      jax.tree.map(lambda stacked, i=i: stacked[i], self.layers)
      for i in range(self.num_layers)
    )

  def for_steps(self) -> tuple[Any, ...] | None:
    """The layers as many calls in a loop read them best; None as they are.

    On a CPU, XLA would copy a layer's part of the stacked parameters before
    every product; elsewhere it reads a part where it lies.
    """
    if not step_kernels.useful():
      return None
    layers = step_kernels.for_steps(self.apart())
    return jax.lax.optimization_barrier(layers)

  def __call__(
    self,
    x: jax.Array,
    ctx: Context,
    state: tuple[Any, ...] | Stacked | None = None,
    *,
    cache_length: int | None = None,
    layers: tuple[Any, ...] | None = None,
  ) -> tuple[jax.Array, Any]:
    """Runs the layers.

    Args:
      x: [B T D].
      ctx: without bias, which is added here.
      state: states of the layers, of `init_state` in decoding; None in
        training, or `Stacked` if its rows go on from those of another call.
      cache_length: number of keys that the state has room for; the bias
        covers so many, instead of T.
      layers: what `for_steps` gave, in steps of decoding.

    Returns:
      [B T D] and the new states.
    """
    if self.bias is not None:
      start = 0 if ctx.start is None else ctx.start
      bias = self.bias(x.shape[1], cache_length or x.shape[1], start)
      ctx = dataclasses.replace(ctx, bias=bias)
    if self.positions is not None:
      x = x + self.positions(ctx.positions, x.dtype)
    if self.input_norm is not None:
      x = self.input_norm(x)
    x = dropout(x, self.dropout, ctx.fold(0).key)
    if state is None or isinstance(state, Stacked):
      x, state = self._scan(x, ctx, state)
    else:
      layers = layers or self.apart()
      x, state = _one_by_one(layers, x, ctx.fold(1), state)
    if self.final_norm is not None:
      x = self.final_norm(x)
    return dropout(x, self.output_dropout, ctx.fold(2).key), state

  def _scan(
    self, x: jax.Array, ctx: Context, state: Stacked | None
  ) -> tuple[jax.Array, Stacked | None]:
    """Runs the layers without states or with all of them at hand."""
    key = ctx.fold(1).key
    keys = None if key is None else jax.random.split(key, self.num_layers)

    def body(x: jax.Array, inputs: Any) -> tuple[jax.Array, Any]:
      layer, key, before = inputs
      return layer(x, dataclasses.replace(ctx, key=key), before)

    if self.remat != "none":
      policy = _REMAT[self.remat]
      body = jax.checkpoint(body, policy=policy, prevent_cse=False)
    inputs = (self.layers, keys, None if state is None else state.value)
    scan = functools.partial(jax.lax.scan, body, unroll=self.unroll)
    if self.remat_group == 1:
      x, new = scan(x, inputs)
    else:
      x, new = _in_groups(scan, self.remat_group, x, inputs)
    return x, None if state is None else Stacked(new)


def _in_groups(
  scan: Callable[..., Any], size: int, x: jax.Array, inputs: Any
) -> tuple[jax.Array, Any]:
  """A scan over layers, each group of which is one step of another scan.

  Arrays of as many layers as there are groups are kept, and those of one
  group in the backward pass, which computes it again (Chen et al. 2016).
  """
  groups = jax.tree.map(lambda y: y.reshape(-1, size, *y.shape[1:]), inputs)
  group = jax.checkpoint(scan, prevent_cse=False)
  x, new = jax.lax.scan(group, x, groups)
  return x, jax.tree.map(lambda y: y.reshape(-1, *y.shape[2:]), new)


def _one_by_one(
  layers: tuple[Any, ...], x: jax.Array, ctx: Context, states: tuple[Any, ...]
) -> tuple[jax.Array, tuple[Any, ...]]:
  """Runs the layers with states, each of which can change where it lies.

  A scan would copy the states, every one of them at every step.
  """
  new = []
  for i, (layer, state) in enumerate(zip(layers, states, strict=True)):
    x, state = layer(x, ctx.fold(i), state)
    new.append(state)
  return x, tuple(new)
