"""What BERT, RoBERTa and BART share: one module of theirs for each of ours.

A family says by `Places` which module that is; which tensors it holds, and in
what layout, follows from ours.  Every linear map and norm has a bias, norms
stand after the residuals, and the positions are learned.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from t5x_lite import errors, layers
from t5x_lite.interop import family, mapping

# Path of a module of ours -> name of theirs.
Places = Mapping[mapping.Path, str]

# Fields of old files that say what all of these models do.
_USUAL = {"position_embedding_type": "absolute", "tie_word_embeddings": True}


def counterpart(
  places: Places, path: mapping.Path
) -> mapping.Counterpart | None:
  """Where a parameter lies."""
  owner, name = path[:-1], path[-1]
  if owner not in places:
    return None
  module = places[owner]
  if name == "kernel":
    # An attention's output is made of heads and their widths.
    inputs = 2 if owner[-2:] == ("sublayer", "out") else 1
    return mapping.linear(f"{module}.weight", inputs=inputs)
  if name == "bias":
    return mapping.vector(f"{module}.bias")
  return mapping.same(f"{module}.weight")


def require_usual(fields: family.Fields) -> None:
  """Refuses what no checkpoint of these families may have."""
  for name, value in _USUAL.items():
    fields.require(name, value)


def head_dim(fields: family.Fields, width: str, heads: str) -> int:
  """The width of a head, that of the model divided by their number.

  Raises:
    ConfigError: the number does not divide the width.
  """
  dim, count = fields.take(width), fields.take(heads)
  if dim % count:
    raise errors.ConfigError(
      f"{fields.where}: {heads} {count} does not divide {width} {dim}; see"
      " that the file is that of the checkpoint"
    )
  return int(dim // count)


def check_biases(model: Any) -> None:
  """Raises ConfigError where a linear map or norm lacks its bias."""
  paths = {path for path, _ in mapping.variables(model)}
  for *owner, name in sorted(paths):
    if name in ("kernel", "scale") and (*owner, "bias") not in paths:
      raise errors.ConfigError(
        f"{'.'.join(owner)} has no bias, which theirs has: only a model with"
        " use_bias = True can be exported"
      )


def facts_of(
  stack: Any, where: str, *, sublayers: Collection[str], causal: bool = False
) -> family.Facts:
  """Checks a stack, and says what a config.json has fields for.

  Args:
    stack: of our model.
    where: its path in the model.
    sublayers: names of those of a block, in their order.
    causal: what its self-attention must be.

  Returns:
    `activation` (their name), `epsilon`, `heads`, `hidden`, `layers`,
    `length` and `offset` (of the positions).

  Raises:
    ConfigError: theirs does not compute what this stack computes.
  """
  facts = family.Facts(layers=stack.num_layers)
  family.expect(stack, where, bias=None, final_norm=None)
  family.expect(stack.layers, f"{where}.layers", names=tuple(sublayers))
  positions = f"{where}.positions"
  family.expect_type(stack.positions, positions, layers.LearnedPositions)
  facts.agree("length", stack.positions.length, positions)
  facts.agree("offset", stack.positions.offset, positions)
  _norm(stack.input_norm, f"{where}.input_norm", facts)
  for name, residual in _residuals(stack):
    path = f"{where}.layers.{name}"
    family.expect_type(residual, path, layers.PostNorm)
    _norm(residual.norm, f"{path}.norm", facts)
    part, path = residual.sublayer, f"{path}.sublayer"
    if name == "feed_forward":
      family.expect_type(part, path, layers.FeedForward)
      activation = family.their_activation(part.activation, path)
      facts.agree("activation", activation, path)
      facts.agree("hidden", part.wi.kernel.shape[-1], path)
      continue
    cross = name == "cross_attention"
    kind = layers.CrossAttention if cross else layers.Attention
    family.expect_type(part, path, kind)
    _attention(part, path, causal and not cross)
    facts.agree("heads", part.heads, path)
  return facts


def _residuals(stack: Any) -> Iterator[tuple[str, Any]]:
  for name in stack.layers.names:
    yield name, getattr(stack.layers, name)


def _norm(norm: Any, where: str, facts: family.Facts) -> None:
  family.expect_type(norm, where, layers.LayerNorm)
  facts.agree("epsilon", norm.epsilon, where)


def _attention(part: Any, where: str, causal: bool) -> None:
  dim = part.out.kernel.shape[-1]
  family.expect(
    part,
    where,
    causal=causal,
    kv_heads=part.heads,
    head_dim=dim // part.heads,
    scale=part.head_dim**-0.5,
    window=None,
    pattern=None,
    soft_cap=None,
    rotary=None,
    query_norm=None,
  )
