"""Layers: parameters, and the sublayers that a block is wired from.

Letters, the same in einsum strings, docstrings and names:

  B batch       T query length   S key length   D model width
  N heads       H head width     F feed-forward width
  V vocabulary  L layers

Every mixer and feed-forward has one signature,

  sublayer(x [B T D], ctx, state) -> (y [B T D], state)
  sublayer.init_state(batch_size, length, dtype, ctx) -> state or None

where `ctx` is a `Context`, and `state` is None in training or the sublayer's
own pytree (a key-value cache) in decoding.  Modules never change after their
construction: state goes in and comes out.
"""

from t5x_lite.layers.attention import Attention, CrossAttention
from t5x_lite.layers.biased_attention import BiasedAttention
from t5x_lite.layers.block import Block, PreNorm
from t5x_lite.layers.context import Context
from t5x_lite.layers.embedding import Embedding, LogitsHead
from t5x_lite.layers.feed_forward import FeedForward, GatedFeedForward
from t5x_lite.layers.linear import Einsum, param
from t5x_lite.layers.norms import RMSNorm
from t5x_lite.layers.positions import RelativeBias
from t5x_lite.layers.stack import Stack

__all__ = [
  "Attention",
  "BiasedAttention",
  "Block",
  "Context",
  "CrossAttention",
  "Einsum",
  "Embedding",
  "FeedForward",
  "GatedFeedForward",
  "LogitsHead",
  "PreNorm",
  "RMSNorm",
  "RelativeBias",
  "Stack",
  "param",
]
