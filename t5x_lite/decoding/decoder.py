"""Autoregressive decoding, one token of every row at a time.

The decoder knows two methods of a model and nothing of its layers:

  model.prefill(batch, length) -> state, with room for `length` tokens
  model.step(tokens [B], state) -> (logits [B V] of the next token, state)

so a key-value cache, a convolution tail or a recurrent state all decode alike.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from t5x_lite import errors
from t5x_lite.decoding import sampling

PAD, EOS, START = 0, 1, 0  # T5's ids; decoding starts from padding


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Decoded:
  """A pytree.

  Attributes:
    tokens: [B T] int32; the end of sequence is included, 0 comes after it.
    scores: [B] float32, sum of the log-probabilities of those tokens.
  """

  tokens: jax.Array
  scores: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Loop:
  """What a turn of the loop changes; index counts the tokens decoded."""

  index: jax.Array
  last: jax.Array
  done: jax.Array
  tokens: jax.Array
  scores: jax.Array
  state: Any


@dataclasses.dataclass(frozen=True)
class Decoder:
  """Decodes until every row has ended, or up to `max_length` tokens.

  Attributes:
    max_length: greatest number of tokens, the end of sequence included.
    strategy: chooses tokens from logits; see `sampling`.
  """

  max_length: int
  strategy: sampling.Strategy = sampling.greedy

  def __post_init__(self) -> None:
    if self.max_length < 1:
      raise errors.ConfigError(
        f"Decoder.max_length {self.max_length} must be at least 1"
      )

  def __call__(
    self,
    model: Any,
    batch: Mapping[str, jax.Array],
    key: jax.Array | None = None,
  ) -> Decoded:
    """Decodes a batch; works under jax.jit, and costs one compilation.

    A row whose features are all zero is padding: it is given no tokens, score
    0, and does not keep the others waiting.

    Args:
      model: has `prefill` and `step`.
      batch: model features, each [B ...].
      key: for strategies that draw.
    """
    leaves = jax.tree.leaves(dict(batch))
    size = leaves[0].shape[0]
    real = [jnp.any(x.reshape(size, -1) != 0, axis=1) for x in leaves]
    loop = _Loop(
      index=jnp.zeros((), jnp.int32),
      last=jnp.full((size,), START, jnp.int32),
      done=~jnp.any(jnp.stack(real), axis=0),
      tokens=jnp.full((size, self.max_length), PAD, jnp.int32),
      scores=jnp.zeros((size,), jnp.float32),
      state=model.prefill(batch, self.max_length),
    )

    def unfinished(loop: _Loop) -> jax.Array:
      return (loop.index < self.max_length) & ~jnp.all(loop.done)

    def advance(loop: _Loop) -> _Loop:
      logits, state = model.step(loop.last, loop.state)
      chosen = self.strategy(logits, _fold(key, loop.index))
      log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
      score = jnp.take_along_axis(log_probs, chosen[:, None], axis=1)[:, 0]
      chosen = jnp.where(loop.done, PAD, chosen)
      return _Loop(
        index=loop.index + 1,
        last=chosen,
        done=loop.done | (chosen == EOS),
        tokens=loop.tokens.at[:, loop.index].set(chosen),
        scores=loop.scores + jnp.where(loop.done, 0.0, score),
        state=state,
      )

    loop = jax.lax.while_loop(unfinished, advance, loop)
    return Decoded(loop.tokens, loop.scores)


def _fold(key: jax.Array | None, index: jax.Array) -> jax.Array | None:
  return None if key is None else jax.random.fold_in(key, index)
