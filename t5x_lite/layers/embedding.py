"""Embeddings of tokens, and the two ways from activations to logits."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn import initializers

from t5x_lite.layers import step_kernels
from t5x_lite.layers.linear import Einsum, Initializer, fan_in, param
from t5x_lite.rules import constrain


class Embedding(nnx.Module):
  """A row per token.

  Attributes:
    std: of the rows at initialization.
    scale: factor of the rows where they enter the model.
    logits_scale: factor of tied logits; None is 1 / sqrt(D), as in T5 and
      PaLM; 1 elsewhere.
  """

  def __init__(
    self,
    vocab_size: int,
    dim: int,
    *,
    std: float = 1.0,
    scale: float = 1.0,
    logits_scale: float | None = None,
    rngs: nnx.Rngs,
  ):
    self.scale = scale
    self.logits_scale = dim**-0.5 if logits_scale is None else logits_scale
    init = initializers.normal(std)
    self.tokens = param(rngs, (vocab_size, dim), ("vocab", "embed"), init)

  def __call__(self, tokens: jax.Array, dtype: str) -> jax.Array:
    """Rows [B T D] of tokens [B T], in `dtype`."""
    x = jnp.take(self.tokens[...], tokens, axis=0).astype(dtype)
    if self.scale != 1.0:
      x = x * self.scale
    return constrain(x, "batch", "length", "embed")

  def attend(self, x: jax.Array) -> jax.Array:
    """Tied float32 logits [B T V] of x [B T D]."""
    if self.logits_scale != 1.0:
      x = x * self.logits_scale
    table = self.tokens[...].astype(x.dtype)
    return _logits("btd,vd->btv", x, table)

  def for_steps(self) -> Callable[[jax.Array], jax.Array] | None:
    """What stands for `attend` in steps of decoding; None is itself."""
    return step_kernels.logits(self.tokens[...].T, self.logits_scale)


class FactorizedEmbedding(nnx.Module):
  """Rows of a smaller width, projected to D (ALBERT; Lan et al. 2020).

  Attributes:
    inner: the smaller width E.
    std: of the rows at initialization.
  """

  def __init__(
    self,
    vocab_size: int,
    dim: int,
    *,
    inner: int,
    std: float = 0.02,
    init: Callable[..., Initializer] = fan_in,
    rngs: nnx.Rngs,
  ):
    self.rows = Embedding(
      vocab_size, inner, std=std, logits_scale=1.0, rngs=rngs
    )
    self.project = Einsum(
      "bte,ed->btd", (inner, dim), (None, "embed"), init=init(0), rngs=rngs
    )

  def __call__(self, tokens: jax.Array, dtype: str) -> jax.Array:
    """Projected rows [B T D] of tokens [B T], in `dtype`."""
    x = self.project(self.rows(tokens, dtype))
    return constrain(x, "batch", "length", "embed")

  def attend(self, x: jax.Array) -> jax.Array:
    """Tied float32 logits [B T V] of x [B T D], by way of the width E."""
    kernel = self.project.kernel[...].astype(x.dtype)
    return self.rows.attend(jnp.einsum("btd,ed->bte", x, kernel))

  def for_steps(self) -> None:
    """Nothing stands for `attend` in steps of decoding."""


class TokenTypes(nnx.Module):
  """A row per kind of token: BERT's first and second segment.

  Where there is but one, as in RoBERTa, all tokens are of it.
  """

  def __init__(
    self, dim: int, *, num_types: int = 2, std: float = 0.02, rngs: nnx.Rngs
  ):
    init = initializers.normal(std)
    self.table = param(rngs, (num_types, dim), (None, "embed"), init)

  def __call__(self, types: jax.Array, dtype: str) -> jax.Array:
    """Rows [B T D] of types [B T], in `dtype`."""
    rows = jnp.take(self.table[...], types, axis=0, mode="clip")
    return rows.astype(dtype)


class LogitsHead(nnx.Module):
  """Untied logits: a matrix of their own (T5 1.1, LLaMA)."""

  def __init__(
    self,
    vocab_size: int,
    dim: int,
    *,
    init: Callable[..., Initializer] = fan_in,
    rngs: nnx.Rngs,
  ):
    shape, axes = (dim, vocab_size), ("embed", "vocab")
    self.kernel = param(rngs, shape, axes, init(0))

  def __call__(self, x: jax.Array) -> jax.Array:
    """float32 logits [B T V] of x [B T D]."""
    return _logits("btd,dv->btv", x, self.kernel[...].astype(x.dtype))

  def for_steps(self) -> Callable[[jax.Array], jax.Array] | None:
    """What stands for a call in steps of decoding; None is itself."""
    return step_kernels.logits(self.kernel[...])


def readout(
  head: LogitsHead | None, embedding: Embedding | FactorizedEmbedding
) -> jax.tree_util.Partial:
  """From x [B T D] to float32 logits [B T V]; a pytree of what that needs.

  Args:
    head: None for logits that are tied to the embedding.
    embedding: of the model.
  """
  if head is None:
    return jax.tree_util.Partial(_attend, embedding)
  return jax.tree_util.Partial(_call, head)


def _attend(
  embedding: Embedding | FactorizedEmbedding, x: jax.Array
) -> jax.Array:
  return embedding.attend(x)


def _call(head: LogitsHead, x: jax.Array) -> jax.Array:
  return head(x)


def _logits(equation: str, x: jax.Array, kernel: jax.Array) -> jax.Array:
  logits = jnp.einsum(equation, x, kernel, preferred_element_type=jnp.float32)
  return constrain(logits, "batch", "length", "vocab")
