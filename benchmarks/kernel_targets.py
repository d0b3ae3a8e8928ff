"""Attention and scans to be compiled for chips that are absent."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

import pallas_kernels

LENGTH = 2048
BLOCK = 512  # queries, and keys, of a TPU's step


def jax_flash(width: int, backward: bool = False, block: int = BLOCK) -> Any:
  """jax's own TPU attention, without mask or bias."""
  from jax.experimental.pallas.ops.tpu import flash_attention as flash

  names = flash.BlockSizes.__dataclass_fields__
  sizes = {name: 1 if name == "block_b" else block for name in names}
  attend = functools.partial(
    flash.flash_attention, block_sizes=flash.BlockSizes(**sizes)
  )

  def gradients(q: jax.Array, k: jax.Array, v: jax.Array) -> Any:
    def total(*qkv: jax.Array) -> jax.Array:
      return attend(*qkv).astype(jnp.float32).sum()

    return jax.grad(total, (0, 1, 2))(q, k, v)

  q = jax.ShapeDtypeStruct((2, 8, LENGTH, width), jnp.bfloat16)
  return (gradients if backward else attend), [q, q, q]


def jax_triton(width: int, backward: bool = False) -> Any:
  """jax's own Triton attention, causal, with its default blocks."""
  from jax.experimental.pallas.ops.gpu import attention

  def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    return attention.mha(q, k, v, segment_ids=None, causal=True)

  def gradients(q: jax.Array, k: jax.Array, v: jax.Array) -> Any:
    def total(*qkv: jax.Array) -> jax.Array:
      return attend(*qkv).astype(jnp.float32).sum()

    return jax.grad(total, (0, 1, 2))(q, k, v)

  q = jax.ShapeDtypeStruct((2, LENGTH, 8, width), jnp.bfloat16)
  return (gradients if backward else attend), [q, q, q]


def attention(
  width: int,
  implementation: str = "mosaic_tpu",
  backward: bool = False,
  t5_bias: bool = False,
  causal: bool = False,
  keys: int = LENGTH,
) -> Any:
  """Ours, in bfloat16."""

  def attend(q: Any, k: Any, v: Any, table: Any) -> jax.Array:
    relative = pallas_kernels.RelativeBias(table, not causal)
    return pallas_kernels.attention(
      q,
      k,
      v,
      causal=causal,
      relative_bias=relative if t5_bias else None,
      scale=1.0 if t5_bias else width**-0.5,
      implementation=implementation,
    )

  def gradients(q: Any, k: Any, v: Any, table: Any) -> Any:
    y, pull = jax.vjp(attend, q, k, v, table)
    return pull(y)

  q = jax.ShapeDtypeStruct((2, LENGTH, 8, width), jnp.bfloat16)
  k = jax.ShapeDtypeStruct((2, keys, 8, width), jnp.bfloat16)
  table = jax.ShapeDtypeStruct((32, 8), jnp.float32)
  return (gradients if backward else attend), [q, k, k, table]


def tpu_attention(
  width: int, keys: int = LENGTH, backward: bool = False
) -> Any:
  """Ours in blocks as large as those that jax's has here."""
  from pallas_kernels.attention import tpu
  from pallas_kernels.attention.masks import Mask

  def attend(q: Any, k: Any, v: Any) -> jax.Array:
    return tpu.attention(
      q,
      k,
      v,
      mask=Mask(),
      bias=None,
      relative_bias=None,
      dropout=None,
      scale=width**-0.5,
      soft_cap=None,
      blocks=tpu.Blocks(BLOCK, BLOCK, BLOCK, BLOCK // 2),
    )[0]

  def gradients(q: Any, k: Any, v: Any) -> Any:
    y, pull = jax.vjp(attend, q, k, v)
    return pull(y)

  q = jax.ShapeDtypeStruct((2, LENGTH, 8, width), jnp.bfloat16)
  k = jax.ShapeDtypeStruct((2, keys, 8, width), jnp.bfloat16)
  return (gradients if backward else attend), [q, k, k]


def selective_scan(implementation: str, backward: bool = False) -> Any:
  """Mamba's, with softplus and gate, of 8 x 2,048 steps, 2,048 channels."""
  float32 = jnp.float32
  wide = jax.ShapeDtypeStruct((8, LENGTH, 2048), jnp.bfloat16)
  narrow = jax.ShapeDtypeStruct((8, LENGTH, 16), jnp.bfloat16)
  inputs = {
    **dict.fromkeys(("x", "dt", "z"), wide),
    **dict.fromkeys(("b", "c"), narrow),
    **dict.fromkeys(("d", "dt_bias"), jax.ShapeDtypeStruct((2048,), float32)),
    "a": jax.ShapeDtypeStruct((2048, 16), float32),
  }

  def scan(inputs: Any) -> jax.Array:
    y, _ = pallas_kernels.selective_scan(
      **inputs, dt_softplus=True, implementation=implementation
    )
    return y

  def gradients(inputs: Any) -> Any:
    y, pull = jax.vjp(scan, inputs)
    return pull(y)

  return (gradients if backward else scan), [inputs]
