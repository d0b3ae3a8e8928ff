"""Heads: what a model says of every position besides the next token.

A head is (x [B T D], embedding, key) -> [B T C] float32.  It answers at all
positions, and an objective's weights pick those that count, such as the first
token of each example; so packed rows need nothing special.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn import initializers

from t5x_lite.layers.context import dropout
from t5x_lite.layers.feed_forward import activation_of
from t5x_lite.layers.linear import Einsum, Initializer, fan_in, param
from t5x_lite.layers.norms import LayerNorm


class Heads(nnx.Module):
  """Heads by name.

  Attributes:
    names: of the heads, which are also their attribute names.
  """

  def __init__(
    self,
    vocab_size: int,
    dim: int,
    heads: Mapping[str, Callable[..., Any]],
    *,
    rngs: nnx.Rngs,
  ):
    self.names = tuple(heads)
    for name, head in heads.items():
      setattr(self, name, head(vocab_size, dim, rngs=rngs))

  def __call__(
    self, x: jax.Array, embedding: Any, key: jax.Array | None
  ) -> dict[str, jax.Array]:
    return {name: getattr(self, name)(x, embedding, key) for name in self.names}

  def readout(
    self, name: str, embedding: Any, key: jax.Array | None
  ) -> jax.tree_util.Partial:
    """One head with what it needs, a function of x alone and a pytree."""
    return jax.tree_util.Partial(_read, getattr(self, name), embedding, key)


class MaskedLMHead(nnx.Module):
  """Logits of the token at each position, tied to the embedding (BERT).

  embedding.attend(norm(activation(transform(x)))) + bias.
  """

  def __init__(
    self,
    vocab_size: int,
    dim: int,
    *,
    activation: str = "gelu_exact",
    norm: Callable[..., Any] = LayerNorm,
    init: Callable[..., Initializer] = fan_in,
    rngs: nnx.Rngs,
  ):
    self.activation = activation
    self.transform = _square(dim, init, rngs)
    self.norm = norm(dim, rngs=rngs)
    self.bias = param(rngs, (vocab_size,), ("vocab",), initializers.zeros)

  def __call__(
    self, x: jax.Array, embedding: Any, key: jax.Array | None
  ) -> jax.Array:
    x = activation_of(self.activation)(self.transform(x))
    return embedding.attend(self.norm(x)) + self.bias[...]


class Classifier(nnx.Module):
  """Classes of a whole example, asked for at one of its tokens.

  out(dropout(activation(pooler(x)))): BERT's next-sentence head and the
  classification heads of BERT and RoBERTa.  With one class, a regression.
  """

  def __init__(
    self,
    vocab_size: int,
    dim: int,
    *,
    num_classes: int,
    activation: str = "tanh",
    dropout: float = 0.0,
    init: Callable[..., Initializer] = fan_in,
    rngs: nnx.Rngs,
  ):
    del vocab_size
    self.num_classes = num_classes
    self.activation, self.dropout = activation, dropout
    self.pooler = _square(dim, init, rngs)
    self.out = _classes(dim, num_classes, init, rngs)

  def __call__(
    self, x: jax.Array, embedding: Any, key: jax.Array | None
  ) -> jax.Array:
    x = activation_of(self.activation)(self.pooler(x))
    return self.out(dropout(x, self.dropout, key)).astype(jnp.float32)


class Pooler(nnx.Module):
  """A vector of a whole example, asked for at its first token.

  activation(pooler(x)), a `Classifier` that has no classes yet: what published
  BERTs without a head keep of the one that they were trained with.
  """

  def __init__(
    self,
    vocab_size: int,
    dim: int,
    *,
    activation: str = "tanh",
    init: Callable[..., Initializer] = fan_in,
    rngs: nnx.Rngs,
  ):
    del vocab_size
    self.activation = activation
    self.pooler = _square(dim, init, rngs)

  def __call__(
    self, x: jax.Array, embedding: Any, key: jax.Array | None
  ) -> jax.Array:
    x = activation_of(self.activation)(self.pooler(x))
    return x.astype(jnp.float32)


class TokenClassifier(nnx.Module):
  """Classes of each token; with two, the start and end of an answer."""

  def __init__(
    self,
    vocab_size: int,
    dim: int,
    *,
    num_classes: int,
    dropout: float = 0.0,
    init: Callable[..., Initializer] = fan_in,
    rngs: nnx.Rngs,
  ):
    del vocab_size
    self.num_classes, self.dropout = num_classes, dropout
    self.out = _classes(dim, num_classes, init, rngs)

  def __call__(
    self, x: jax.Array, embedding: Any, key: jax.Array | None
  ) -> jax.Array:
    return self.out(dropout(x, self.dropout, key)).astype(jnp.float32)


def _read(
  head: Any, embedding: Any, key: jax.Array | None, x: jax.Array
) -> jax.Array:
  return head(x, embedding, key)


def _square(
  dim: int, init: Callable[..., Initializer], rngs: nnx.Rngs
) -> Einsum:
  # Its second dimension has no name: a mesh axis cuts only one of the two.
  shape, axes = (dim, dim), ("embed", None)
  return Einsum(
    "btd,de->bte", shape, axes, init=init(0), use_bias=True, rngs=rngs
  )


def _classes(
  dim: int, count: int, init: Callable[..., Initializer], rngs: nnx.Rngs
) -> Einsum:
  shape, axes = (dim, count), ("embed", None)
  return Einsum(
    "btd,dc->btc", shape, axes, init=init(0), use_bias=True, rngs=rngs
  )
