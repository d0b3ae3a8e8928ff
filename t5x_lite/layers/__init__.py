"""Layers: parameters, and the sublayers that a block is wired from.

Letters, the same in einsum strings, docstrings and names:

  B batch       T query length   S key length   D model width
  N heads       H head width     K heads of keys and values
  F feed-forward width           G query heads per key head
  V vocabulary  L layers         C classes

Every mixer and feed-forward has one signature,

  sublayer(x [B T D], ctx, state) -> (y [B T D], state)
  sublayer.init_state(batch_size, length, dtype, ctx) -> state or None

where `ctx` is a `Context`, and `state` is None in training or the sublayer's
own pytree (a key-value cache) of arrays [B ...] in decoding; what no step
changes in it is a `Constant`.  Modules never change after their construction:
state goes in and comes out.
"""

from t5x_lite.layers.attention import Attention, CrossAttention
from t5x_lite.layers.biased_attention import BiasedAttention
from t5x_lite.layers.bidirectional import Bidirectional
from t5x_lite.layers.block import Block, Parallel
from t5x_lite.layers.causal_convolution import CausalConvolution
from t5x_lite.layers.context import Context
from t5x_lite.layers.embedding import (
  Embedding,
  FactorizedEmbedding,
  LogitsHead,
  TokenTypes,
  readout,
)
from t5x_lite.layers.feed_forward import FeedForward, GatedFeedForward
from t5x_lite.layers.heads import (
  Classifier,
  Heads,
  MaskedLMHead,
  Pooler,
  TokenClassifier,
)
from t5x_lite.layers.linear import Einsum, FixedNormal, fan_in, param
from t5x_lite.layers.linear_attention import LinearAttention
from t5x_lite.layers.mamba import Mamba
from t5x_lite.layers.mamba2 import GatedRMSNorm, Mamba2
from t5x_lite.layers.norms import LayerNorm, RMSNorm
from t5x_lite.layers.positions import (
  Alibi,
  LearnedPositions,
  RelativeBias,
  SinusoidalPositions,
)
from t5x_lite.layers.residual import (
  DeepNorm,
  PostNorm,
  PreNorm,
  ReZero,
  SandwichNorm,
)
from t5x_lite.layers.retention import FixedDecay, GatedDecay, Retention
from t5x_lite.layers.rotary import LinearScaling, Llama3Scaling, Rotary
from t5x_lite.layers.s4 import S4, S4D, S4Output
from t5x_lite.layers.selective import FanInUniform, StepSizes
from t5x_lite.layers.stack import Stack
from t5x_lite.layers.state import Constant, Stacked

__all__ = [
  "S4",
  "S4D",
  "Alibi",
  "Attention",
  "BiasedAttention",
  "Bidirectional",
  "Block",
  "CausalConvolution",
  "Classifier",
  "Constant",
  "Context",
  "CrossAttention",
  "DeepNorm",
  "Einsum",
  "Embedding",
  "FactorizedEmbedding",
  "FanInUniform",
  "FeedForward",
  "FixedDecay",
  "FixedNormal",
  "GatedDecay",
  "GatedFeedForward",
  "GatedRMSNorm",
  "Heads",
  "LayerNorm",
  "LearnedPositions",
  "LinearAttention",
  "LinearScaling",
  "Llama3Scaling",
  "LogitsHead",
  "Mamba",
  "Mamba2",
  "MaskedLMHead",
  "Parallel",
  "Pooler",
  "PostNorm",
  "PreNorm",
  "RMSNorm",
  "ReZero",
  "RelativeBias",
  "Retention",
  "Rotary",
  "S4Output",
  "SandwichNorm",
  "SinusoidalPositions",
  "Stack",
  "Stacked",
  "StepSizes",
  "TokenClassifier",
  "TokenTypes",
  "fan_in",
  "param",
  "readout",
]
