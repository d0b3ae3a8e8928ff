"""The decoder alone (Radford et al. 2018): GPT, PaLM, LLaMA."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from t5x_lite.layers import (
  Context,
  Embedding,
  Heads,
  LogitsHead,
  Stack,
  Stacked,
  readout,
)
from t5x_lite.models.decode_state import DecodeState
from t5x_lite.models.prompts import ending_together


class DecoderOnly(nnx.Module):
  """Token embedding, one causal stack, logits of the next token.

  Attributes:
    vocab_size: rows of the embedding, at least the vocabulary's size.
    dim: width D.
    decoder: constructor of a stack, called with (dim, rngs=...).
    head: constructor of a logits head, called with (vocab_size, dim,
      rngs=...); None ties the logits to the embedding.
    heads: constructors of further heads by name, called likewise; such as
      the classifier that GPT-1 is fine-tuned with.
    dtype: of activations; parameters are float32.
  """

  def __init__(
    self,
    *,
    vocab_size: int,
    dim: int,
    decoder: Callable[..., Any] = Stack,
    embedding: Callable[..., Any] = Embedding,
    head: Callable[..., Any] | None = LogitsHead,
    heads: Mapping[str, Callable[..., Any]] | None = None,
    dtype: str = "float32",
    rngs: nnx.Rngs,
  ):
    self.vocab_size, self.dim, self.dtype = vocab_size, dim, dtype
    self.embedding = embedding(vocab_size, dim, rngs=rngs)
    self.decoder = decoder(dim, rngs=rngs)
    self.head = head(vocab_size, dim, rngs=rngs) if head else None
    self.heads = Heads(vocab_size, dim, heads or {}, rngs=rngs)

  def hidden(
    self, batch: Mapping[str, jax.Array], *, key: jax.Array | None = None
  ) -> jax.Array:
    """The stack's output [B T D]; see `__call__`."""
    return self._run(batch, key)[0]

  def _run(
    self,
    batch: Mapping[str, jax.Array],
    key: jax.Array | None,
    states: Stacked | None = None,
  ) -> tuple[jax.Array, Any]:
    tokens = batch["decoder_input_tokens"]
    positions = batch.get("decoder_positions")
    if positions is None:
      counted = jnp.arange(tokens.shape[1], dtype=jnp.int32)
      positions = jnp.broadcast_to(counted, tokens.shape)
    ctx = Context(
      positions,
      batch.get("decoder_segment_ids"),
      prefix=_prefix(batch),
      key=key,
    )
    return self.decoder(self.embedding(tokens, self.dtype), ctx, states)

  def __call__(
    self, batch: Mapping[str, jax.Array], *, key: jax.Array | None = None
  ) -> jax.Array:
    """float32 logits [B T V] of the token after each.

    Args:
      batch: `decoder_input_tokens` [B T]; for packed or padded rows
        `decoder_segment_ids` and `decoder_positions`; for prefix LMs
        `decoder_causal_attention`, 1 for tokens that all of their example
        sees, also what is before them.
      key: for dropout; None is deterministic.
    """
    return self._logits(self.hidden(batch, key=key))

  def outputs(
    self, batch: Mapping[str, jax.Array], *, key: jax.Array | None = None
  ) -> dict[str, jax.Array]:
    """`logits` [B T V], and [B T C] of every further head by its name."""
    x = self.hidden(batch, key=key)
    key = None if key is None else jax.random.fold_in(key, 1)
    return {"logits": self._logits(x)} | self.heads(x, self.embedding, key)

  def readout(
    self, name: str = "logits", *, key: jax.Array | None = None
  ) -> jax.tree_util.Partial:
    """What makes one of `outputs` of `hidden`, and is a pytree."""
    if name == "logits":
      return readout(self.head, self.embedding)
    key = None if key is None else jax.random.fold_in(key, 1)
    return self.heads.readout(name, self.embedding, key)

  def init_carried(self, batch_size: int, length: int = 1) -> Stacked:
    """States of the layers with nothing read, for `carry`.

    Args:
      batch_size: B.
      length: tokens that a state is to have room for, if it grows with them.
    """
    ctx = Context(jnp.zeros((batch_size, length), jnp.int32))
    return self.decoder.init_stacked(batch_size, length, self.dtype, ctx)

  def carry(
    self,
    batch: Mapping[str, jax.Array],
    states: Stacked,
    *,
    key: jax.Array | None = None,
  ) -> tuple[jax.Array, Stacked]:
    """As `hidden`, of rows that go on from those of another batch.

    Only a first token whose position is greater than 0 goes on; no gradient
    flows to the other batch.  For layers whose state has one size.

    Args:
      batch: as of `__call__`, but for `decoder_causal_attention`.
      states: of `init_carried`, or what this returned for the batch before.
      key: for dropout; None is deterministic.
    """
    return self._run(batch, key, jax.lax.stop_gradient(states))

  def prefill(
    self, batch: Mapping[str, jax.Array], length: int
  ) -> tuple[jax.Array, DecodeState]:
    """Reads the prompts, and makes room for `length` tokens after them.

    Args:
      batch: `decoder_input_tokens` [B P], padded at the end, with
        `decoder_segment_ids` 0 for padding (by default there is none); one
        example a row; and, for prefix LMs, `decoder_causal_attention`.
      length: number of steps that the caches have room for.

    Returns:
      float32 logits [B V] of the token after each prompt, and the state.
    """
    prompts = ending_together(batch, length, _prefix(batch))
    ctx, (size, width) = prompts.context, prompts.tokens.shape
    state = DecodeState(
      layers=self.decoder.init_state(size, width + length, self.dtype, ctx),
      index=jnp.asarray(width, jnp.int32),
      positions=prompts.next_positions,
      memory_segments=None,
      cache_segments=ctx.cache_segments,
      decoder=self.decoder.for_steps(),
      logits=(self.head or self.embedding).for_steps(),
      length=width + length,
    )
    x = self.embedding(prompts.tokens, self.dtype)
    x, layers = self.decoder(x, ctx, state.layers, cache_length=state.length)
    logits = self._logits(x[:, -1:])[:, 0]
    return logits, dataclasses.replace(state, layers=layers)

  def step(
    self, tokens: jax.Array, state: DecodeState
  ) -> tuple[jax.Array, DecodeState]:
    """float32 logits [B V] after tokens [B], each row's at the same index."""
    x = self.embedding(tokens[:, None], self.dtype)
    ctx = Context(
      state.positions[:, None],
      jnp.ones((tokens.shape[0], 1), jnp.int32),
      start=state.index,
      cache_segments=state.cache_segments,
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


def _prefix(batch: Mapping[str, jax.Array]) -> jax.Array | None:
  prefix = batch.get("decoder_causal_attention")
  return None if prefix is None else prefix != 0
