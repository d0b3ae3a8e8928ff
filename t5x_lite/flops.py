"""How much a training step computes, and how well the devices are used.

Model FLOPs are those of the matrix products that the mathematics asks for: of
activations with parameters, and the two of attention (query with key,
probability with value), or what a recurrence writes to and reads from its
state, token by token, however it is computed.  A backward pass has two such
products for each of the forward pass, so a step is three forward passes; what
rematerialization computes again does not count (Chowdhery et al. 2022, appendix
B).  Embedding lookups are no products; logits are.  Padding counts, and so do
pairs of tokens that only the data hide: of two examples packed in a row.

What devices could do in that time is in `utilization`.

A new layer or model joins by a rule beside the ones below (or in a file of
the user), `@of_layer.register` or `@of_model.register`.
"""

import collections
import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx

from t5x_lite import compat, layers, models, objectives, visible_pairs

Shapes = Mapping[str, Any]  # model features: arrays or ShapeDtypeStructs


@dataclasses.dataclass(frozen=True)
class Flops:
  """Floating-point operations by kind; a multiplication and addition are two.

  Attributes:
    matmul: products of activations with parameters.
    attention: the products of attention, for pairs of tokens that causality,
      window and pattern let see each other; about half of them if causal.
    attention_full: the same for all pairs, whatever the mask.
    states: writing to and reading from the states of recurrences.
  """

  matmul: float = 0.0
  attention: float = 0.0
  attention_full: float = 0.0
  states: float = 0.0

  def __add__(self, other: "Flops") -> "Flops":
    ours, theirs = dataclasses.astuple(self), dataclasses.astuple(other)
    return Flops(*(a + b for a, b in zip(ours, theirs, strict=True)))

  def __mul__(self, times: float) -> "Flops":
    return Flops(*(part * times for part in dataclasses.astuple(self)))

  @property
  def total(self) -> float:
    """With attention counted where it is not masked."""
    return self.matmul + self.states + self.attention

  @property
  def total_full(self) -> float:
    """With all attention counted in full."""
    return self.matmul + self.states + self.attention_full


@dataclasses.dataclass(frozen=True)
class Tokens:
  """What a layer works on: B rows of T tokens, S tokens of memory each."""

  rows: int
  length: int
  memory_length: int = 0


@functools.singledispatch
def of_layer(layer: nnx.Module, tokens: Tokens) -> Flops:
  """FLOPs of a layer's forward pass; by default those of its parts.

  Raises:
    NotImplementedError: for a layer that has a matrix of its own and no rule,
      rather than to count too little.
  """
  total = Flops()
  for name, part in vars(layer).items():
    if compat.is_variable(part) and len(compat.axes_of(part)) > 1:
      raise NotImplementedError(
        f"no FLOPs rule for {type(layer).__name__}, which has the matrix"
        f" {name!r}: give it one with flops.of_layer.register"
      )
    if isinstance(part, nnx.Module):
      total += of_layer(part, tokens)
  return total


@of_layer.register
def _(layer: layers.Einsum, tokens: Tokens) -> Flops:
  return _product(layer.kernel, tokens.rows * tokens.length)


@of_layer.register
def _(layer: layers.LogitsHead, tokens: Tokens) -> Flops:
  return _product(layer.kernel, tokens.rows * tokens.length)


@of_layer.register(layers.RelativeBias)
@of_layer.register(layers.LearnedPositions)
@of_layer.register(layers.TokenTypes)
@of_layer.register(layers.Embedding)
@of_layer.register(layers.GatedRMSNorm)
def _(layer: nnx.Module, tokens: Tokens) -> Flops:
  # No products but of elements; the model counts logits tied to an embedding.
  return Flops()


@of_layer.register
def _(layer: layers.Attention, tokens: Tokens) -> Flops:
  projections = (layer.query, layer.key, layer.value, layer.out)
  total = _scores(layer, tokens, tokens.length, causal=layer.causal)
  for projection in projections:
    total += of_layer(projection, tokens)
  return total


@of_layer.register
def _(layer: layers.CrossAttention, tokens: Tokens) -> Flops:
  memory = Tokens(tokens.rows, tokens.memory_length)
  return (
    of_layer(layer.query, tokens)
    + of_layer(layer.key, memory)
    + of_layer(layer.value, memory)
    + _scores(layer, tokens, tokens.memory_length, causal=False)
    + of_layer(layer.out, tokens)
  )


@of_layer.register
def _(layer: layers.CausalConvolution, tokens: Tokens) -> Flops:
  return _product(layer.kernel, tokens.rows * tokens.length)


@of_layer.register
def _(layer: layers.LinearAttention, tokens: Tokens) -> Flops:
  return _recurrence(layer, tokens, layer.heads * layer.head_dim**2)


@of_layer.register
def _(layer: layers.Retention, tokens: Tokens) -> Flops:
  size = layer.heads * layer.head_dim * layer.value_dim
  return _recurrence(layer, tokens, size)


@of_layer.register
def _(layer: layers.Mamba, tokens: Tokens) -> Flops:
  return _recurrence(layer, tokens, math.prod(layer.a_log.shape[-2:]))


@of_layer.register
def _(layer: layers.Mamba2, tokens: Tokens) -> Flops:
  size = layer.heads * layer.head_dim * layer.state_dim
  return _recurrence(layer, tokens, size)


@of_layer.register
def _(layer: layers.S4 | layers.S4D, tokens: Tokens) -> Flops:
  ways = 2 if layer.bidirectional else 1
  return _recurrence(layer, tokens, ways * layer.dim * layer.state_dim)


@of_layer.register
def _(layer: layers.Stack, tokens: Tokens) -> Flops:
  # The parameters are stacked, but every rule counts those of one layer.
  return of_layer(layer.layers, tokens) * layer.num_layers


@functools.singledispatch
def of_model(model: nnx.Module, batch: Shapes) -> Flops:
  """FLOPs of a forward pass over a batch of model features [B ...]."""
  raise NotImplementedError(
    f"no FLOPs rule for {type(model).__name__}: give it one with"
    " flops.of_model.register"
  )


@of_model.register
def _(model: models.EncoderDecoder, batch: Shapes) -> Flops:
  rows, source = batch["encoder_input_tokens"].shape
  _, target = batch["decoder_input_tokens"].shape
  decoded = Tokens(rows, target, memory_length=source)
  encoded = Tokens(rows, source)
  return (
    of_layer(model.embedding, encoded)
    + of_layer(model.encoder, encoded)
    + of_layer(model.embedding, decoded)
    + of_layer(model.decoder, decoded)
    + _next_token(model, decoded)
  )


@of_model.register
def _(model: models.DecoderOnly, batch: Shapes) -> Flops:
  # Further heads have a few classes at one position: nothing to speak of.
  tokens = Tokens(*batch["decoder_input_tokens"].shape)
  return (
    of_layer(model.embedding, tokens)
    + of_layer(model.decoder, tokens)
    + _next_token(model, tokens)
  )


@of_model.register
def _(model: models.EncoderOnly, batch: Shapes) -> Flops:
  tokens = Tokens(*batch["encoder_input_tokens"].shape)
  total = of_layer(model.embedding, tokens) + of_layer(model.encoder, tokens)
  for name in model.heads.names:
    head = getattr(model.heads, name)
    total += of_layer(head, tokens)
    if isinstance(head, layers.MaskedLMHead):
      total += _tied(model.embedding, tokens)
  return total


def _next_token(model: Any, tokens: Tokens) -> Flops:
  if model.head is None:
    return _tied(model.embedding, tokens)
  return of_layer(model.head, tokens)


def _tied(embedding: nnx.Module, tokens: Tokens) -> Flops:
  """Logits by the embedding's own matrices."""
  positions = tokens.rows * tokens.length
  return sum(
    (
      _product(matrix, positions)
      for matrix in jax.tree.leaves(embedding, is_leaf=compat.is_variable)
    ),
    Flops(),
  )


def of_forward_pass(model: Any, batch: Shapes, objective: Any = None) -> Flops:
  """As `of_model`, with logits where the objective wants them alone.

  Args:
    model: real or abstract.
    batch: model features of all hosts; only shapes are read.
    objective: None for logits of all positions.
  """
  total = of_model(model, batch)
  if isinstance(objective, objectives.MaskedLM) and objective.predictions:
    rows, length = batch["encoder_input_tokens"].shape
    without = Tokens(rows, max(0, length - objective.predictions))
    head = of_layer(model.heads.masked_lm, without)
    total += (head + _tied(model.embedding, without)) * -1
  return total


def of_training_step(
  model: nnx.Module, batch: Shapes, objective: Any = None
) -> Flops:
  """FLOPs of a forward and backward pass; see `of_forward_pass`."""
  return of_forward_pass(model, batch, objective) * 3


def num_parameters(model: Any) -> int:
  """All parameters of a real or abstract model."""
  return sum(math.prod(x.shape) for x in jax.tree.leaves(model))


def num_matmul_parameters(model: nnx.Module) -> int:
  """Parameters that every token is multiplied with: the N of 6 N a token.

  Without embedding tables, norms and biases; with those of the logits.
  """
  one = jax.ShapeDtypeStruct((1, 1), "int32")
  any_feature: Shapes = collections.defaultdict(lambda: one)
  return round(of_model(model, any_feature).matmul / 2)


def _product(kernel: Any, positions: int) -> Flops:
  """Each position times a kernel; without its stacked dimensions."""
  axes = len(compat.axes_of(kernel))
  size = math.prod(kernel.shape[-axes:])
  return Flops(matmul=2.0 * positions * size)


def _scores(
  layer: layers.Attention, tokens: Tokens, keys: int, *, causal: bool
) -> Flops:
  pair, sizes = 4.0 * layer.heads * layer.head_dim, (tokens.length, keys)
  seen = visible_pairs.count(
    *sizes, causal=causal, window=layer.window, pattern=layer.pattern
  )
  seen, full = tokens.rows * seen, tokens.rows * math.prod(sizes)
  return Flops(attention=pair * seen, attention_full=pair * full)


def _recurrence(layer: nnx.Module, tokens: Tokens, size: int) -> Flops:
  """The parts of a mixer, and a state of so many numbers.

  Each number of the state is written to and read from once a token, by a
  multiplication and an addition each; its decay is left out.
  """
  total = Flops(states=2 * 2.0 * tokens.rows * tokens.length * size)
  for part in vars(layer).values():
    if isinstance(part, nnx.Module):
      total += of_layer(part, tokens)
  return total
