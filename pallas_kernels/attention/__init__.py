"""Scaled dot-product attention with structured masks."""

import jax

from pallas_kernels.attention import reference

_IMPLEMENTATIONS = {"reference": reference.attention}


def attention(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  *,
  causal: bool = False,
  q_segments: jax.Array | None = None,
  k_segments: jax.Array | None = None,
  q_start: jax.Array | int = 0,
  bias: jax.Array | None = None,
  scale: float = 1.0,
  dropout: float = 0.0,
  key: jax.Array | None = None,
  implementation: str | None = None,
) -> jax.Array:
  """softmax(scale q k' + bias) v over the keys that a query may see.

  Args:
    q: [B T N H], any float dtype.
    k: [B S N H].
    v: [B S N H].
    causal: query t sees keys s <= q_start + t only.
    q_segments: [B T] int; a query sees keys of its own segment only.
    k_segments: [B S] int; given if and only if q_segments is.
    q_start: index of the first query among the keys (decoding with a cache).
    bias: [1 or B, N, T, S], added to the scaled logits in float32.
    scale: factor of the logits; T5 uses 1.
    dropout: rate of the attention weights to drop; needs `key` to act.
    key: jax.random key, or None for no dropout.
    implementation: a name insists on it; None picks for the platform.

  Returns:
    [B T N H] in the dtype of q.  Softmax is in float32.

  Raises:
    ValueError: unknown implementation, or only one of the segment arrays.
  """
  if (q_segments is None) != (k_segments is None):
    raise ValueError("attention needs both q_segments and k_segments, or none")
  name = implementation or "reference"
  if name not in _IMPLEMENTATIONS:
    known = ", ".join(sorted(_IMPLEMENTATIONS))
    raise ValueError(f"attention implementation {name!r} is not one of {known}")
  return _IMPLEMENTATIONS[name](
    q,
    k,
    v,
    causal=causal,
    q_segments=q_segments,
    k_segments=k_segments,
    q_start=q_start,
    bias=bias,
    scale=scale,
    dropout=dropout,
    key=key,
  )
