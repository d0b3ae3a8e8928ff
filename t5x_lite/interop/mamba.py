"""Mamba, as `MambaForCausalLM` of transformers.

theirs                                   ours
backbone.embeddings.weight               embedding.tokens
backbone.layers.3.mixer.in_proj.weight   decoder.layers.mamba.sublayer
                                           .wi.kernel and .gate.kernel
backbone.layers.3.mixer.conv1d.weight    ....convolution.kernel
"""

import math
import re
from collections.abc import Collection
from typing import Any

from t5x_lite import layers, models
from t5x_lite.interop import decoder_only, family, mapping

EMBEDDING = "backbone.embeddings.weight"
HEAD = "lm_head.weight"
LAYER = "backbone.layers.{layer}."
# Fields that tell how their training starts or how their kernels compute, and
# those that published files keep of the library they were trained with.
HARMLESS = (
  *("initializer_range", "rescale_prenorm_residual", "residual_in_fp32"),
  *("time_step_min", "time_step_max", "time_step_floor"),
  *("d_inner", "d_model", "n_layer", "fused_add_norm"),
  *("pad_vocab_size_multiple", "ssm_cfg"),
)


def outside(path: mapping.Path, name: str) -> mapping.Counterpart | None:
  """Where a parameter lies that is not the mixer's.

  Args:
    path: of the parameter.
    name: of the only sublayer of a block.
  """
  match path:
    case ("embedding", "tokens"):
      return mapping.same(EMBEDDING)
    case ("head", "kernel"):
      return mapping.linear(HEAD)
    case ("decoder", "final_norm", "scale"):
      return mapping.same("backbone.norm_f.weight")
    case ("decoder", "layers", sublayer, "norm", "scale") if sublayer == name:
      return mapping.same(f"{LAYER}norm.weight")
  return None


def _counterpart(model: Any, path: mapping.Path) -> mapping.Counterpart | None:
  match path:
    case ("decoder", "layers", "mamba", "sublayer", *rest):
      return _of_mixer(model.decoder.layers.mamba.sublayer, tuple(rest))
  return outside(path, "mamba")


def _of_mixer(mixer: Any, path: mapping.Path) -> mapping.Counterpart | None:
  """Where a parameter of the mixer lies."""
  where, inner = f"{LAYER}mixer.", mixer.skip.shape[-1]
  match path:
    case ("wi" | "gate" as part, kind):
      start = inner if part == "gate" else 0
      fused = mapping.linear if kind == "kernel" else mapping.vector
      name = "weight" if kind == "kernel" else "bias"
      return fused(f"{where}in_proj.{name}", start=start, of=2 * inner)
    case ("convolution", "kernel"):
      return mapping.depthwise(f"{where}conv1d.weight")
    case ("convolution", "bias"):
      return mapping.vector(f"{where}conv1d.bias")
    case ("select", "kernel"):
      return mapping.linear(f"{where}x_proj.weight")
    case ("step", "kernel"):
      return mapping.linear(f"{where}dt_proj.weight")
    case ("step_bias",):
      return mapping.same(f"{where}dt_proj.bias")
    case ("a_log",):
      return mapping.same(f"{where}A_log")
    case ("skip",):
      return mapping.same(f"{where}D")
    case ("out", "kernel"):
      return mapping.linear(f"{where}out_proj.weight")
    case ("out", "bias"):
      return mapping.vector(f"{where}out_proj.bias")
  return None


def tied(model: Any) -> dict[str, str]:
  """The logits' matrix, where it is the embedding's."""
  return {HEAD: EMBEDDING} if model.head is None else {}


def rename(name: str) -> str:
  """The name in files of a model with its head, as transformers has it now."""
  name = re.sub(r"^(?=(embeddings?|layers|norm_f)\.)", "backbone.", name)
  return re.sub(r"^backbone\.embedding\.", "backbone.embeddings.", name)


def bindings(fields: family.Fields, *, ties: bool) -> dict[str, Any]:
  """What both Mambas say, in gin.

  Args:
    fields: of config.json.
    ties: whether the logits are tied where the file does not say it.
  """
  fields.harmless(*HARMLESS)
  fields.require("hidden_act", "silu", "swish")
  fields.require("rms_norm", True)
  result = {
    "VOCAB_SIZE": fields.take("vocab_size"),
    "DIM": fields.take("hidden_size"),
    "NUM_LAYERS": fields.take("num_hidden_layers"),
    "STATE_DIM": fields.take("state_size"),
    "EXPAND": fields.take("expand", 2),
    "CONVOLUTION_WIDTH": fields.take("conv_kernel", 4),
    "EPSILON": fields.take("layer_norm_epsilon", 1e-5),
  }
  width = result["EXPAND"] * result["DIM"]
  fields.require("intermediate_size", width)
  if not fields.take("tie_word_embeddings", ties):
    result["HEAD"] = family.At("layers.LogitsHead")
  if not fields.take("use_conv_bias", True):
    result["layers.CausalConvolution.use_bias"] = False
  return result


def _settings(fields: family.Fields, names: Collection[str]) -> family.Settings:
  fields.harmless("time_step_scale", "time_step_init_scheme")
  fields.harmless("use_mambapy", "use_associative_scan")
  result = bindings(fields, ties=True)
  rank, usual = fields.take("time_step_rank", "auto"), _rank(result["DIM"])
  if rank not in ("auto", usual):
    result["layers.Mamba.rank"] = rank
  if fields.take("use_bias", False):
    result["layers.Mamba.use_bias"] = True
  notes = decoder_only.notes(fields, first=0)
  return family.Settings("models/mamba.gin", result, notes)


def _rank(dim: int) -> int:
  return math.ceil(dim / 16)


def config_of(model: Any, name: str) -> dict[str, Any]:
  """The fields that both Mambas have.

  Args:
    model: a DecoderOnly.
    name: of the only sublayer of a block.

  Raises:
    ConfigError: theirs does not compute what this model computes.
  """
  facts = family.Facts()
  stack, block = model.decoder, model.decoder.layers
  family.expect_type(model.embedding, "embedding", layers.Embedding)
  family.expect(model.embedding, "embedding", scale=1.0)
  if model.head is None:
    family.expect(model.embedding, "embedding", logits_scale=1.0)
  family.expect(model.heads, "heads", names=())
  family.expect(stack, "decoder", bias=None, input_norm=None, positions=None)
  family.expect(block, "decoder.layers", names=(name,))
  residual, where = getattr(block, name), f"decoder.layers.{name}"
  family.expect_type(residual, where, layers.PreNorm)
  norms = {"decoder.final_norm": stack.final_norm, where: residual.norm}
  for place, norm in norms.items():
    family.expect_type(norm, place, layers.RMSNorm)
    facts.agree("layer_norm_epsilon", norm.epsilon, place)
  mixer = residual.sublayer
  convolution = getattr(mixer, "x_convolution", None) or mixer.convolution
  family.expect_type(
    convolution, f"{where}.sublayer.convolution", layers.CausalConvolution
  )
  return {
    "vocab_size": model.vocab_size,
    "hidden_size": model.dim,
    "num_hidden_layers": stack.num_layers,
    "state_size": mixer.state_dim,
    "expand": mixer.expand,
    "conv_kernel": convolution.width,
    "use_bias": mixer.out.bias is not None,
    "use_conv_bias": convolution.bias is not None,
    "hidden_act": "silu",
    "tie_word_embeddings": model.head is None,
    # Their defaults are ids of a vocabulary that may be another.
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
    **facts,
  }


def _config(model: Any) -> dict[str, Any]:
  mixer = model.decoder.layers.mamba.sublayer
  where = "decoder.layers.mamba.sublayer.steps"
  family.expect(mixer.steps, where, least=0.0, most=None)
  return {
    "architectures": ["MambaForCausalLM"],
    "model_type": "mamba",
    **config_of(model, "mamba"),
    "intermediate_size": mixer.expand * model.dim,
    "time_step_rank": mixer.rank,
  }


def is_wired(model: Any, name: str, mixer: type) -> bool:
  """Whether a model is pre-norm blocks of one such mixer.

  Args:
    model: any of ours.
    name: of the only sublayer.
    mixer: its class.
  """
  if type(model) is not models.DecoderOnly:
    return False
  block = model.decoder.layers
  if type(block) is not layers.Block or block.names != (name,):
    return False
  residual = getattr(block, name)
  return type(residual) is layers.PreNorm and type(residual.sublayer) is mixer


def _fits(model: Any) -> bool:
  return is_wired(model, "mamba", layers.Mamba)


FAMILY = family.Family(
  name="Mamba",
  model_types=("mamba",),
  names=mapping.Names(counterpart=_counterpart, tied=tied, rename=rename),
  settings=_settings,
  config=_config,
  fits=_fits,
)
