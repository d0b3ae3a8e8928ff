"""Scaled dot-product attention with structured masks."""

from typing import Any

import jax
import numpy as np

from pallas_kernels import platforms
from pallas_kernels.attention import pick
from pallas_kernels.attention.dropout import Dropout, Place
from pallas_kernels.attention.masks import Mask
from pallas_kernels.attention.patterns import Pattern, bigbird, longformer
from pallas_kernels.attention.relative import RelativeBias
from pallas_kernels.attention.tiles import Window

__all__ = [
  "Pattern",
  "RelativeBias",
  "attention",
  "bigbird",
  "longformer",
  "pick_attention",
]

# On a CPU blocks that its caches hold; elsewhere ones that fill a device.
_CHUNKS = {"cpu": 128}
_CHUNK = 512


def attention(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  *,
  causal: bool = False,
  q_segments: jax.Array | None = None,
  k_segments: jax.Array | None = None,
  k_prefix: jax.Array | None = None,
  q_start: jax.Array | int = 0,
  window: tuple[int | None, int | None] | None = None,
  pattern: Pattern | None = None,
  bias: jax.Array | None = None,
  relative_bias: RelativeBias | None = None,
  scale: float = 1.0,
  soft_cap: float | None = None,
  dropout: float = 0.0,
  key: jax.Array | None = None,
  place: Place | None = None,
  return_lse: bool = False,
  chunk: int | None = None,
  implementation: str | None = None,
  interpret: bool = False,
) -> Any:
  """softmax(scale q k' + bias) v over the keys that a query may see.

  Query head n reads key head n // (N / K): K = N is multi-head, K = 1
  multi-query (Shazeer 2019), between them grouped-query attention (Ainslie et
  al. 2023).  A key is seen if all of causal (or prefix), window, pattern and
  segments let it be; a query that sees none gets zeros.

  Gradients go to q, k, v, bias and the table of relative_bias.

  Args:
    q: [B T N H], any float dtype.
    k: [B S K H]; K divides N.
    v: [B S K V]; V is mostly H.
    causal: query t sees keys s <= q_start + t only.
    q_segments: [B T] int; a query sees keys of its own segment only.
    k_segments: [B S] int; given if and only if q_segments is.
    k_prefix: [B S] bool, keys that `causal` does not hide (prefix LM).
    q_start: index of the first query among the keys (decoding with a cache).
    window: (left, right); query t sees keys from q_start + t - left to
      q_start + t + right, None for no limit of a side.
    pattern: sparse mask, of `longformer`, `bigbird` or made by hand.
    bias: [1 or B, 1 or N, 1 or T, 1 or S], added to the scaled logits in
      float32.
    relative_bias: T5's, added likewise; its distances are s - t - q_start.
    scale: factor of the logits; T5 uses 1.
    soft_cap: c of c tanh(logits / c), before bias and mask; None for none.
    dropout: rate of the attention weights to drop; needs `key` to act.  Which
      are dropped depends on the key and their place alone.
    key: jax.random key, or None for no dropout.
    place: (first row, first head, number of all heads) of what is given here
      in a call that is divided among devices, so that dropout is that of the
      whole; None where nothing is divided.
    return_lse: the log-sum-exp of the logits, too.
    chunk: queries, and keys, of a block of "chunked"; None picks.
    implementation: "reference" (the definition: memory for [B N T S]),
      "chunked" (memory linear in T and S, forward and backward, in jnp), or a
      kernel, as linear in memory: "mosaic_tpu", "mosaic_gpu" (Hopper),
      "triton" (other NVIDIA GPUs).  All but the definition have derivatives
      in reverse mode only.  None is what `pick_attention` says.
    interpret: run a kernel step by step on any device, to test it.

  Returns:
    [B T N V] in the dtype of q.  Softmax is in float32, or in float64 if an
    input is.  With return_lse also [B T N] in that dtype, -inf for a query
    that sees nothing.

  Raises:
    ValueError: unknown implementation, or one that is a kernel and cannot do
      what is asked for, only one of the segment arrays, shapes that do not
      fit, heads that the key heads do not divide, a rate, a window or a chunk
      that is none.
  """
  inputs = _inputs(
    q,
    k,
    v,
    causal=causal,
    q_segments=q_segments,
    k_segments=k_segments,
    k_prefix=k_prefix,
    q_start=q_start,
    window=window,
    pattern=pattern,
    bias=bias,
    relative_bias=relative_bias,
    scale=scale,
    soft_cap=soft_cap,
    dropout=Dropout.of(dropout, key, place),
  )
  if chunk is not None and chunk < 1:
    raise ValueError(f"attention needs a chunk of at least 1, not {chunk}")
  name = implementation or pick.pick(q, k, v, **inputs)
  run = pick.module(name).attention
  if implementation:
    pick.check(name, q, k, v, **inputs)
  if interpret and name not in platforms.KERNELS:
    raise ValueError(
      f"attention by {name!r} is not a kernel: it runs anywhere without"
      " `interpret`"
    )
  if name == "chunked":
    platform = platforms.target().platform
    inputs["chunk"] = chunk or _CHUNKS.get(platform, _CHUNK)
  elif name in platforms.KERNELS:
    inputs["interpret"] = interpret
  y, lse = run(q, k, v, **inputs)
  return (y, lse) if return_lse else y


def pick_attention(
  q: jax.Array | jax.ShapeDtypeStruct,
  k: jax.Array | jax.ShapeDtypeStruct,
  v: jax.Array | jax.ShapeDtypeStruct | None = None,
  **arguments: Any,
) -> str:
  """The implementation that `attention` takes where none is named.

  The first kernel for the devices of the mesh in scope, or the default device,
  that does not refuse the inputs, if it need not be divided among devices (in
  `jax.shard_map`, or with one device).  Else "chunked" where one head's logits
  of one row, T x S, are 2^22 or more (2,048 x 2,048), else "reference".

  Args:
    q: [B T N H]; shape and dtype are all that is asked for.
    k: [B S K H], likewise.
    v: [B S K V], likewise; None for one like k.
    **arguments: others of `attention`.
  """
  v = k if v is None else v
  dropout = Dropout.of(
    *(arguments.pop(name, no) for name, no in _RANDOM.items())
  )
  return pick.pick(q, k, v, **_inputs(q, k, v, dropout=dropout, **arguments))


_RANDOM: dict[str, Any] = {"dropout": 0.0, "key": None, "place": None}


def _inputs(
  q: Any,
  k: Any,
  v: Any,
  *,
  dropout: Dropout | None,
  causal: bool = False,
  q_segments: jax.Array | None = None,
  k_segments: jax.Array | None = None,
  k_prefix: jax.Array | None = None,
  q_start: jax.Array | int = 0,
  window: tuple[int | None, int | None] | None = None,
  pattern: Pattern | None = None,
  bias: jax.Array | None = None,
  relative_bias: RelativeBias | None = None,
  scale: float = 1.0,
  soft_cap: float | None = None,
) -> dict[str, Any]:
  """What an implementation is given beside q, k and v; ValueError if wrong."""
  _check_shapes(q, k, v, q_segments, k_segments, k_prefix)
  _check_biases(q, k, bias, relative_bias)
  if pattern is not None and isinstance(q_start, int | np.integer):
    pattern.check(int(q_start) + q.shape[1])
  mask = Mask(
    causal=causal,
    window=_window(window),
    pattern=pattern,
    q_segments=q_segments,
    k_segments=k_segments,
    k_prefix=k_prefix,
    q_start=q_start,
  )
  return {
    "mask": mask,
    "bias": bias,
    "relative_bias": relative_bias,
    "dropout": dropout,
    "scale": scale,
    "soft_cap": soft_cap,
  }


def _window(window: tuple[int | None, int | None] | None) -> Window | None:
  if window is None or tuple(window) == (None, None):
    return None
  left, right = window
  if any(side is not None and side < 0 for side in (left, right)):
    raise ValueError(f"attention needs a window of sides >= 0, not {window}")
  return Window(left, right)


def _check_shapes(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  q_segments: jax.Array | None,
  k_segments: jax.Array | None,
  k_prefix: jax.Array | None,
) -> None:
  if (q_segments is None) != (k_segments is None):
    raise ValueError("attention needs both q_segments and k_segments, or none")
  (size, q_length, heads, width), kv_heads = q.shape, k.shape[2]
  if heads % kv_heads:
    raise ValueError(
      f"attention has {heads} query heads and {kv_heads} key heads, which must"
      " divide them"
    )
  shapes = {
    "k": (k, (size, k.shape[1], kv_heads, width)),
    "v": (v, (*k.shape[:3], v.shape[-1])),
    "q_segments": (q_segments, (size, q_length)),
    "k_segments": (k_segments, k.shape[:2]),
    "k_prefix": (k_prefix, k.shape[:2]),
  }
  for name, (x, shape) in shapes.items():
    if x is not None and x.shape != shape:
      raise ValueError(f"attention needs {name} of shape {shape}: {x.shape}")


def _check_biases(
  q: jax.Array,
  k: jax.Array,
  bias: jax.Array | None,
  relative_bias: RelativeBias | None,
) -> None:
  whole = (q.shape[0], q.shape[2], q.shape[1], k.shape[1])
  if bias is not None:
    fits = bias.ndim == 4 and all(
      x in (1, y) for x, y in zip(bias.shape, whole, strict=True)
    )
    if not fits:
      raise ValueError(
        f"attention needs a bias that broadcasts to {whole}, not {bias.shape}"
      )
  if relative_bias is not None:
    shape = relative_bias.table.shape
    if len(shape) != 2 or shape[1] != q.shape[2]:
      raise ValueError(
        f"attention needs a relative bias of shape [buckets, {q.shape[2]}], not"
        f" {shape}"
      )
