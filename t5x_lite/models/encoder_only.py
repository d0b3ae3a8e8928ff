"""The encoder alone (Devlin et al. 2019): BERT, RoBERTa, SpanBERT."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from t5x_lite.layers import Context, Embedding, Heads, Stack


class EncoderOnly(nnx.Module):
  """Token and type embeddings, one stack that sees both ways, and heads.

  Attributes:
    vocab_size: rows of the embedding, at least the vocabulary's size.
    dim: width D.
    encoder: constructor of a stack, called with (dim, rngs=...).
    types: constructor of embeddings of token types, called with (dim,
      rngs=...); None for none.
    heads: constructors of heads by name, called with (vocab_size, dim,
      rngs=...); objectives ask for them by these names.
    dtype: of activations; parameters are float32.
  """

  def __init__(
    self,
    *,
    vocab_size: int,
    dim: int,
    encoder: Callable[..., Any] = Stack,
    embedding: Callable[..., Any] = Embedding,
    types: Callable[..., Any] | None = None,
    heads: Mapping[str, Callable[..., Any]],
    dtype: str = "float32",
    rngs: nnx.Rngs,
  ):
    self.vocab_size, self.dim, self.dtype = vocab_size, dim, dtype
    self.embedding = embedding(vocab_size, dim, rngs=rngs)
    self.types = types(dim, rngs=rngs) if types else None
    self.encoder = encoder(dim, rngs=rngs)
    self.heads = Heads(vocab_size, dim, heads, rngs=rngs)

  def hidden(
    self, batch: Mapping[str, jax.Array], *, key: jax.Array | None = None
  ) -> jax.Array:
    """The stack's output [B T D]; see `__call__`."""
    tokens = batch["encoder_input_tokens"]
    positions = batch.get("encoder_positions")
    if positions is None:
      counted = jnp.arange(tokens.shape[1], dtype=jnp.int32)
      positions = jnp.broadcast_to(counted, tokens.shape)
    x = self.embedding(tokens, self.dtype)
    if self.types is not None:
      types = batch.get("encoder_token_types", jnp.zeros_like(tokens))
      x = x + self.types(types, self.dtype)
    ctx = Context(positions, batch.get("encoder_segment_ids"), key=key)
    return self.encoder(x, ctx)[0]

  def __call__(
    self, batch: Mapping[str, jax.Array], *, key: jax.Array | None = None
  ) -> dict[str, jax.Array]:
    """What each head says of each position, float32 [B T C] by its name.

    Args:
      batch: `encoder_input_tokens` [B T]; for packed or padded rows
        `encoder_segment_ids` and `encoder_positions`; `encoder_token_types`,
        0 if absent.
      key: for dropout; None is deterministic.
    """
    x = self.hidden(batch, key=key)
    key = None if key is None else jax.random.fold_in(key, 1)
    return self.heads(x, self.embedding, key)

  def readout(
    self, name: str, *, key: jax.Array | None = None
  ) -> jax.tree_util.Partial:
    """What makes one of the outputs of `hidden`, and is a pytree."""
    key = None if key is None else jax.random.fold_in(key, 1)
    return self.heads.readout(name, self.embedding, key)
