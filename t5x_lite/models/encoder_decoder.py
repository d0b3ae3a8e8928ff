"""The encoder-decoder (Vaswani et al. 2017; Raffel et al. 2020)."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from t5x_lite.layers import Context, Embedding, LogitsHead, Stack, readout
from t5x_lite.models.decode_state import DecodeState
from t5x_lite.models.prompts import ending_together


class EncoderDecoder(nnx.Module):
  """T5, BART: token embedding in common, two stacks, logits tied or not.

  Attributes:
    vocab_size: rows of the embedding, at least the vocabulary's size.
    dim: width D.
    encoder: constructor of a stack, called with (dim, rngs=...).
    decoder: likewise; its blocks hold a cross-attention.
    head: constructor of a logits head, called with (vocab_size, dim,
      rngs=...); None ties the logits to the embedding (T5 1.0, BART).
    dtype: of activations; parameters are float32.
  """

  def __init__(
    self,
    *,
    vocab_size: int,
    dim: int,
    encoder: Callable[..., Any] = Stack,
    decoder: Callable[..., Any] = Stack,
    embedding: Callable[..., Any] = Embedding,
    head: Callable[..., Any] | None = LogitsHead,
    dtype: str = "float32",
    rngs: nnx.Rngs,
  ):
    self.vocab_size, self.dim, self.dtype = vocab_size, dim, dtype
    self.embedding = embedding(vocab_size, dim, rngs=rngs)
    self.encoder = encoder(dim, rngs=rngs)
    self.decoder = decoder(dim, rngs=rngs)
    self.head = head(vocab_size, dim, rngs=rngs) if head else None

  def encode(
    self,
    tokens: jax.Array,
    *,
    segments: jax.Array | None = None,
    positions: jax.Array | None = None,
    key: jax.Array | None = None,
  ) -> jax.Array:
    """Memory [B S D] of tokens [B S].

    Args:
      tokens: [B S] int32.
      segments: [B S] ids of packed examples, 0 for padding; by default every
        non-zero token is of one example.
      positions: [B S]; counted from 0 by default.
      key: for dropout; None is deterministic.
    """
    if segments is None:
      segments = (tokens != 0).astype(jnp.int32)
    ctx = Context(_positions(tokens, positions), segments, key=key)
    return self.encoder(self.embedding(tokens, self.dtype), ctx)[0]

  def decode(
    self,
    tokens: jax.Array,
    memory: jax.Array,
    memory_segments: jax.Array,
    *,
    segments: jax.Array | None = None,
    positions: jax.Array | None = None,
    key: jax.Array | None = None,
  ) -> jax.Array:
    """float32 logits [B T V] of the token after each of tokens [B T]."""
    x = self._decode(tokens, memory, memory_segments, segments, positions, key)
    return self._logits(x)

  def _decode(
    self,
    tokens: jax.Array,
    memory: jax.Array,
    memory_segments: jax.Array,
    segments: jax.Array | None,
    positions: jax.Array | None,
    key: jax.Array | None,
  ) -> jax.Array:
    if segments is None:
      segments = jnp.ones_like(tokens)
    ctx = Context(
      _positions(tokens, positions),
      segments,
      memory=memory,
      memory_segments=memory_segments,
      key=key,
    )
    return self.decoder(self.embedding(tokens, self.dtype), ctx)[0]

  def __call__(
    self, batch: Mapping[str, jax.Array], *, key: jax.Array | None = None
  ) -> jax.Array:
    """float32 logits [B T V] of a batch of model features.

    Args:
      batch: `encoder_input_tokens` [B S], `decoder_input_tokens` [B T], and
        for packed rows `*_segment_ids` and `*_positions` of both.
      key: for dropout; None is deterministic.
    """
    return self._logits(self.hidden(batch, key=key))

  def readout(self) -> jax.tree_util.Partial:
    """What makes logits of `hidden`, and is a pytree."""
    return readout(self.head, self.embedding)

  def hidden(
    self, batch: Mapping[str, jax.Array], *, key: jax.Array | None = None
  ) -> jax.Array:
    """The decoder's output [B T D]; see `__call__`."""
    encoder_key, decoder_key = (None, None) if key is None else _split(key)
    inputs = batch["encoder_input_tokens"]
    segments = batch.get("encoder_segment_ids")
    if segments is None:
      segments = (inputs != 0).astype(jnp.int32)
    memory = self.encode(
      inputs,
      segments=segments,
      positions=batch.get("encoder_positions"),
      key=encoder_key,
    )
    return self._decode(
      batch["decoder_input_tokens"],
      memory,
      segments,
      batch.get("decoder_segment_ids"),
      batch.get("decoder_positions"),
      decoder_key,
    )

  def prefill(
    self, batch: Mapping[str, jax.Array], length: int
  ) -> tuple[jax.Array | None, DecodeState]:
    """Encodes, and makes room for `length` tokens to decode.

    Args:
      batch: `encoder_input_tokens` [B S] and, optionally,
        `encoder_segment_ids`; one example a row.  With tokens that the decoder
        is to go on from, `decoder_input_tokens` [B P], the start token among
        them, padded at the end, and `decoder_segment_ids`, 0 for padding.
      length: number of steps that the caches have room for.

    Returns:
      float32 logits [B V] of the token after those that are given, or None if
      there are none, since decoding then begins with a start token; the state.
    """
    tokens = batch["encoder_input_tokens"]
    segments = (tokens != 0).astype(jnp.int32)
    segments = batch.get("encoder_segment_ids", segments)
    memory = self.encode(tokens, segments=segments)
    size = tokens.shape[0]
    if "decoder_input_tokens" in batch:
      prompts = ending_together(batch, length)
      ctx, width = prompts.context, prompts.tokens.shape[1]
    else:
      prompts, width = None, 0
      ctx = Context(jnp.zeros((size, 1), jnp.int32))
    ctx = dataclasses.replace(ctx, memory=memory, memory_segments=segments)
    room = width + length
    state = DecodeState(
      layers=self.decoder.init_state(size, room, self.dtype, ctx),
      index=jnp.asarray(width, jnp.int32),
      positions=prompts.next_positions if prompts else ctx.positions[:, 0],
      memory_segments=segments,
      cache_segments=ctx.cache_segments,
      decoder=self.decoder.for_steps(),
      logits=(self.head or self.embedding).for_steps(),
      length=room,
    )
    if prompts is None:
      return None, state
    x = self.embedding(prompts.tokens, self.dtype)
    x, layers = self.decoder(x, ctx, state.layers, cache_length=room)
    logits = self._logits(x[:, -1:])[:, 0]
    return logits, dataclasses.replace(state, layers=layers)

  def step(
    self, tokens: jax.Array, state: DecodeState
  ) -> tuple[jax.Array, DecodeState]:
    """float32 logits [B V] after tokens [B], each row's at the same index."""
    x = self.embedding(tokens[:, None], self.dtype)
    ctx = Context(
      state.positions[:, None],
      segments=jnp.ones((tokens.shape[0], 1), jnp.int32),
      start=state.index,
      cache_segments=state.cache_segments,
      memory_segments=state.memory_segments,
    )
    x, layers = self.decoder(
      x,
      ctx,
      state.layers,
      cache_length=state.length,
      layers=state.decoder,
    )
    state = dataclasses.replace(
      state,
      layers=layers,
      index=state.index + 1,
      positions=state.positions + 1,
    )
    logits = state.logits(x) if state.logits else self._logits(x)
    return logits[:, 0], state

  def _logits(self, x: jax.Array) -> jax.Array:
    return self.readout()(x)


def _positions(tokens: jax.Array, positions: jax.Array | None) -> jax.Array:
  if positions is not None:
    return positions
  counted = jnp.arange(tokens.shape[1], dtype=jnp.int32)
  return jnp.broadcast_to(counted, tokens.shape)


def _split(key: jax.Array) -> tuple[jax.Array, jax.Array]:
  first, second = jax.random.split(key)
  return first, second
