"""T5 1.0 and 1.1, Flan-T5, ByT5, mT5 and umT5, as transformers has them.

  theirs                                                ours
  shared.weight                                         embedding.tokens
  encoder.block.3.layer.0.SelfAttention.q.weight        encoder.layers.attention
                                                          .sublayer.query.kernel
  encoder.block.3.layer.1.DenseReluDense.wi_0.weight    encoder.layers
                                                          .feed_forward.sublayer
                                                          .gate.kernel

T5 1.0 ties its logits to the embedding and scales them by 1 / sqrt(D); the
others have a head and no factor, which their config.json expresses by
tie_word_embeddings=false.  Transformers 5 sets that field to true in all that
it writes, and means the factor by scale_decoder_outputs.
"""

from collections.abc import Collection
from typing import Any

from t5x_lite import layers, models
from t5x_lite.interop import family, mapping

_SUBLAYERS = {
  "attention": "SelfAttention",
  "cross_attention": "EncDecAttention",
  "feed_forward": "DenseReluDense",
}
_BIAS = "relative_attention_bias.weight"
_SHARED = "shared.weight"
_HEAD = "lm_head.weight"
_COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
_IGNORED = {
  rf"decoder\.block\.0\.layer\.1\.EncDecAttention\.{_BIAS}": (
    "published T5 1.0 weights hold it, and no implementation reads it"
  )
}


def _fits(model: Any) -> bool:
  return isinstance(model, models.EncoderDecoder)


def _counterpart(model: Any, path: mapping.Path) -> mapping.Counterpart | None:
  match path:
    case ("embedding", "tokens"):
      return mapping.same(_SHARED)
    case ("head", "kernel"):
      return mapping.linear(_HEAD)
    case (("encoder" | "decoder") as side, "final_norm", "scale"):
      return mapping.same(f"{side}.final_layer_norm.weight")
    case (("encoder" | "decoder") as side, "bias", "table"):
      return mapping.same(f"{side}.block.0.layer.0.SelfAttention.{_BIAS}")
    case (("encoder" | "decoder") as side, "layers", name, *rest):
      block = getattr(model, side).layers
      prefix = f"{side}.block.{{layer}}.layer.{block.names.index(name)}."
      if rest == ["norm", "scale"]:
        return mapping.same(f"{prefix}layer_norm.weight")
      if name in _SUBLAYERS and rest[0] == "sublayer":
        gated = hasattr(getattr(block, name).sublayer, "gate")
        return _of_sublayer(f"{prefix}{_SUBLAYERS[name]}.", rest[1:], gated)
  return None


def _of_sublayer(
  prefix: str, path: list[str], gated: bool
) -> mapping.Counterpart | None:
  if path[0] == "attention":  # within a BiasedAttention
    path = path[1:]
  match path:
    case ["bias", "table"]:
      return mapping.same(f"{prefix}{_BIAS}")
    case [("query" | "key" | "value") as name, "kernel"]:
      return mapping.linear(f"{prefix}{name[0]}.weight")
    case ["out", "kernel"]:
      return mapping.linear(f"{prefix}o.weight", inputs=2)
    case ["gate", "kernel"]:
      return mapping.linear(f"{prefix}wi_0.weight")
    case ["wi", "kernel"]:
      return mapping.linear(f"{prefix}{'wi_1' if gated else 'wi'}.weight")
    case ["wo", "kernel"]:
      return mapping.linear(f"{prefix}wo.weight")
  return None


def _tied(model: Any) -> dict[str, str]:
  copies = _COPIES if model.head is not None else (*_COPIES, _HEAD)
  return dict.fromkeys(copies, _SHARED)


def _copied(model: Any) -> tuple[str, ...]:
  # Without a factor, transformers 4 ties nothing and looks for a head.
  return (_HEAD,) if model.head is None and not _scaled(model) else ()


def _scaled(model: Any) -> bool:
  return model.embedding.logits_scale != 1.0


def _settings(fields: family.Fields, names: Collection[str]) -> family.Settings:
  kind = fields.take("model_type")
  fields.require("is_encoder_decoder", True)
  fields.harmless("dropout_rate", "initializer_factor", "n_positions")
  default = "relu" if kind == "t5" else "gated-gelu"
  projection = fields.take("feed_forward_proj", default)
  gated, _, name = projection.rpartition("-")
  theirs = "gelu_new" if projection == "gated-gelu" else name
  fields.require("dense_act_fn", theirs)
  fields.require("is_gated_act", bool(gated))
  file = {"mt5": "mt5", "umt5": "umt5"}.get(kind, "t5_1_1")
  if not gated:
    fields.require("model_type", "t5")
    file = "t5_1_0"
  bindings = {
    macro: fields.take(field)
    for macro, field in (
      ("VOCAB_SIZE", "vocab_size"),
      ("DIM", "d_model"),
      ("HEADS", "num_heads"),
      ("HEAD_DIM", "d_kv"),
      ("HIDDEN", "d_ff"),
      ("ENCODER_LAYERS", "num_layers"),
    )
  }
  decoder_layers = fields.take("num_decoder_layers", None)
  bindings["DECODER_LAYERS"] = decoder_layers or bindings["ENCODER_LAYERS"]
  bindings |= _head(fields, kind, gated, _HEAD in names)
  activation = family.our_activation(fields, "feed_forward_proj", theirs)
  if activation != ("gelu" if gated else "relu"):
    layer = "GatedFeedForward" if gated else "FeedForward"
    bindings[f"layers.{layer}.activation"] = activation
  epsilon = fields.take("layer_norm_epsilon", 1e-6)
  if epsilon != 1e-6:
    bindings |= {
      "layers.PreNorm.norm": family.At("layers.RMSNorm"),
      "layers.Stack.final_norm": family.At("layers.RMSNorm"),
      "layers.RMSNorm.epsilon": epsilon,
    }
  for name, usual in (("buckets", 32), ("max_distance", 128)):
    theirs = f"relative_attention_{'num_' * (usual == 32)}{name}"
    if (value := fields.take(theirs, usual)) != usual:
      bindings[f"layers.RelativeBias.{name}"] = value
  return family.Settings(f"models/{file}.gin", bindings)


def _head(
  fields: family.Fields, kind: str, gated: str, head: bool
) -> dict[str, Any]:
  """Whether the logits are tied, and whether they are scaled."""
  tied = fields.take("tie_word_embeddings", True)
  scaled = fields.take("scale_decoder_outputs", tied) and kind != "mt5"
  if kind == "umt5" and head:
    # Published weights need no factor, and say so by false; transformers 5
    # writes true for all, and applies the factor to all.
    fields.require("tie_word_embeddings", False)
  if scaled or not head:
    bindings: dict[str, Any] = {"HEAD": None} if gated else {}
    if not scaled:
      bindings["models.EncoderDecoder.embedding"] = family.At(
        "layers.Embedding"
      )
      bindings["layers.Embedding.logits_scale"] = 1.0
    return bindings
  return {} if gated else {"HEAD": family.At("layers.LogitsHead")}


def _config(model: Any) -> dict[str, Any]:
  family.expect_type(model, "model", models.EncoderDecoder)
  family.expect_type(model.embedding, "embedding", layers.Embedding)
  family.expect(model.embedding, "embedding", scale=1.0)
  tied = model.head is None and _scaled(model)
  if tied:
    scale = model.dim**-0.5
    family.expect(model.embedding, "embedding", logits_scale=scale)
  facts = family.Facts()
  _stack(model.encoder, "encoder", ("attention", "feed_forward"), facts)
  names = ("attention", "cross_attention", "feed_forward")
  _stack(model.decoder, "decoder", names, facts)
  kind = "UMT5" if facts.pop("biased") else "T5"
  return {
    "architectures": [f"{kind}ForConditionalGeneration"],
    "model_type": kind.lower(),
    "is_encoder_decoder": True,
    "vocab_size": model.vocab_size,
    "d_model": model.dim,
    "num_layers": model.encoder.num_layers,
    "num_decoder_layers": model.decoder.num_layers,
    **facts,
    "dropout_rate": 0.1,
    "tie_word_embeddings": tied,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
  }


def _stack(
  stack: Any, side: str, names: tuple[str, ...], facts: family.Facts
) -> None:
  family.expect(stack, side, positions=None, input_norm=None)
  family.expect_type(stack.layers, f"{side}.layers", layers.Block)
  family.expect(stack.layers, f"{side}.layers", names=names)
  _norm(stack.final_norm, f"{side}.final_norm", facts)
  for name in names:
    residual, where = getattr(stack.layers, name), f"{side}.layers.{name}"
    family.expect_type(residual, where, layers.PreNorm)
    _norm(residual.norm, f"{where}.norm", facts)
    part, where = residual.sublayer, f"{where}.sublayer"
    if name == "feed_forward":
      _feed_forward(part, where, facts)
    elif name == "cross_attention":
      family.expect_type(part, where, layers.CrossAttention)
      _attention(part, where, False, facts)
    else:
      biased = isinstance(part, layers.BiasedAttention)
      facts.agree("biased", biased, where)
      _bias(part.bias if biased else stack.bias, where, side, facts)
      if biased:
        family.expect(stack, side, bias=None)
        part = part.attention
      family.expect_type(part, where, layers.Attention)
      _attention(part, where, side == "decoder", facts)


def _norm(norm: Any, where: str, facts: family.Facts) -> None:
  family.expect_type(norm, where, layers.RMSNorm)
  facts.agree("layer_norm_epsilon", norm.epsilon, where)


def _attention(
  part: Any, where: str, causal: bool, facts: family.Facts
) -> None:
  family.expect(
    part,
    where,
    causal=causal,
    kv_heads=part.heads,
    scale=1.0,
    window=None,
    pattern=None,
    soft_cap=None,
    rotary=None,
  )
  facts.agree("num_heads", part.heads, where)
  facts.agree("d_kv", part.head_dim, where)


def _bias(bias: Any, where: str, side: str, facts: family.Facts) -> None:
  family.expect_type(bias, f"{where}: its bias", layers.RelativeBias)
  family.expect(bias, f"{where}: bias", bidirectional=side == "encoder")
  facts.agree("relative_attention_num_buckets", bias.buckets, where)
  facts.agree("relative_attention_max_distance", bias.max_distance, where)


def _feed_forward(part: Any, where: str, facts: family.Facts) -> None:
  facts.agree("d_ff", part.wi.kernel.shape[-1], where)
  if type(part) is layers.GatedFeedForward:
    # Where there is a gate, they call our gelu so, and have no other.
    if part.activation == "gelu_exact":
      family.expect(part, where, activation="gelu")
    theirs = family.their_activation(part.activation, where)
    projection = f"gated-{'gelu' if theirs == 'gelu_new' else theirs}"
  else:
    family.expect_type(part, where, layers.FeedForward)
    projection = family.their_activation(part.activation, where)
  facts.agree("feed_forward_proj", projection, where)


FAMILY = family.Family(
  name="T5",
  model_types=("t5", "mt5", "umt5"),
  names=mapping.Names(
    counterpart=_counterpart, tied=_tied, copied=_copied, ignored=_IGNORED
  ),
  settings=_settings,
  config=_config,
  fits=_fits,
)
