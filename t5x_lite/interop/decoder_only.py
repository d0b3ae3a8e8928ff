"""What our decoder must be to be one of transformers', GPT or LLaMA."""

from typing import Any

from t5x_lite import layers, models
from t5x_lite.interop import family

_NAMES = ("attention", "feed_forward")


def is_wired(model: Any, residual: type, norm: type) -> bool:
  """Whether a model is blocks of attention and feed-forward in such a residual.

  Args:
    model: any of ours.
    residual: class of both residual connections.
    norm: class of their norms.
  """
  if type(model) is not models.DecoderOnly:
    return False
  block = model.decoder.layers
  return (
    type(block) is layers.Block
    and block.names == _NAMES
    and all(type(getattr(block, name)) is residual for name in _NAMES)
    and all(type(getattr(block, name).norm) is norm for name in _NAMES)
  )


def notes(fields: family.Fields, first: int) -> tuple[str, ...]:
  """What is to be set besides the model.

  Args:
    fields: of config.json.
    first: the id that texts begin with, where config.json does not say it.
  """
  first = fields.take("bos_token_id", first)
  if first is None:
    return ()
  return (
    f"texts begin with id {first}: set START = {first} after"
    " objectives/causal_lm.gin",
  )


def facts_of(
  model: Any, *, residual: type, norm: type, feed_forward: type, final: bool
) -> family.Facts:
  """What all of these decoders say in config.json, under our names.

  Args:
    model: a DecoderOnly.
    residual: class of both residual connections.
    norm: class of all norms.
    feed_forward: class of the feed-forward sublayer.
    final: whether a norm ends the stack.

  Returns:
    `epsilon` of the norms; `heads`, `head_dim` and `hidden`; `attention_bias`
    and `feed_forward_bias`; `activation` in their name.

  Raises:
    ConfigError: something that none of them has.
  """
  facts = family.Facts()
  stack, block = model.decoder, model.decoder.layers
  family.expect_type(model.embedding, "embedding", layers.Embedding)
  family.expect(model.embedding, "embedding", scale=1.0)
  if model.head is None:
    family.expect(model.embedding, "embedding", logits_scale=1.0)
  family.expect(model.heads, "heads", names=())
  family.expect(stack, "decoder", bias=None, input_norm=None)
  family.expect_type(block, "decoder.layers", layers.Block)
  family.expect(block, "decoder.layers", names=_NAMES)
  if final:
    _norm(stack.final_norm, "decoder.final_norm", norm, facts)
  else:
    family.expect(stack, "decoder", final_norm=None)
  for name in _NAMES:
    where, part = f"decoder.layers.{name}", getattr(block, name)
    family.expect_type(part, where, residual)
    _norm(part.norm, f"{where}.norm", norm, facts)
  _attention(block.attention.sublayer, facts)
  where, part = "decoder.layers.feed_forward.sublayer", block.feed_forward
  family.expect_type(part.sublayer, where, feed_forward)
  facts["hidden"] = part.sublayer.wi.kernel.shape[-1]
  facts["feed_forward_bias"] = part.sublayer.wi.bias is not None
  facts["activation"] = family.their_activation(part.sublayer.activation, where)
  return facts


def _norm(norm: Any, where: str, kind: type, facts: family.Facts) -> None:
  family.expect_type(norm, where, kind)
  facts.agree("epsilon", norm.epsilon, where)


def _attention(part: Any, facts: family.Facts) -> None:
  where = "decoder.layers.attention.sublayer"
  family.expect_type(part, where, layers.Attention)
  scale = part.head_dim**-0.5
  family.expect(
    part,
    where,
    causal=True,
    scale=scale,
    window=None,
    pattern=None,
    soft_cap=None,
    query_norm=None,
  )
  facts["heads"], facts["head_dim"] = part.heads, part.head_dim
  facts["attention_bias"] = part.query.bias is not None
