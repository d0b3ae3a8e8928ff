"""Mamba-2, as `Mamba2ForCausalLM` of transformers.

  theirs                                   ours
  backbone.layers.3.mixer.in_proj.weight   decoder.layers.mamba2.sublayer
                                             .gate, .x, .b, .c, .step (.kernel)
  backbone.layers.3.mixer.conv1d.weight    ....x_convolution, .b_convolution,
                                             .c_convolution (.kernel)

Other tensors have the names of Mamba's.
"""

from collections.abc import Collection
from typing import Any

from t5x_lite import errors, layers
from t5x_lite.interop import decoder_only, family, mamba, mapping

_UNBOUND = [0.0, float("inf")]


def _counterpart(model: Any, path: mapping.Path) -> mapping.Counterpart | None:
  match path:
    case ("decoder", "layers", "mamba2", "sublayer", *rest):
      return _of_mixer(model.decoder.layers.mamba2.sublayer, tuple(rest))
  return mamba.outside(path, "mamba2")


def _of_mixer(mixer: Any, path: mapping.Path) -> mapping.Counterpart | None:
  """Where a parameter of the mixer lies."""
  where = f"{mamba.LAYER}mixer."
  inner, group = mixer.heads * mixer.head_dim, mixer.groups * mixer.state_dim
  entered = _places(gate=inner, x=inner, b=group, c=group, step=mixer.heads)
  filtered = _places(
    x_convolution=inner, b_convolution=group, c_convolution=group
  )
  match path:
    case (part, kind) if part in entered:
      start, of = entered[part]
      if kind == "kernel":
        return mapping.linear(f"{where}in_proj.weight", start=start, of=of)
      return mapping.vector(f"{where}in_proj.bias", start=start, of=of)
    case (part, kind) if part in filtered:
      start, of = filtered[part]
      if kind == "kernel":
        return mapping.depthwise(f"{where}conv1d.weight", start=start, of=of)
      return mapping.vector(f"{where}conv1d.bias", start=start, of=of)
    case ("step_bias",):
      return mapping.same(f"{where}dt_bias")
    case ("a_log",):
      return mapping.same(f"{where}A_log")
    case ("skip",):
      return mapping.same(f"{where}D")
    case ("norm", "scale"):
      return mapping.vector(f"{where}norm.weight")
    case ("out", "kernel"):
      return mapping.linear(f"{where}out_proj.weight", inputs=2)
    case ("out", "bias"):
      return mapping.vector(f"{where}out_proj.bias")
  return None


def _places(**sizes: int) -> dict[str, tuple[int, int]]:
  """Where parts begin that lie one after another, and the size of all."""
  starts, total = {}, 0
  for name, size in sizes.items():
    starts[name], total = total, total + size
  return {name: (start, total) for name, start in starts.items()}


def _settings(fields: family.Fields, names: Collection[str]) -> family.Settings:
  # They gate before the norm whatever norm_before_gate says.
  fields.harmless("chunk_size", "time_step_rank", "norm_before_gate")
  result = mamba.bindings(fields, ties=False)
  heads, head_dim = fields.take("num_heads"), fields.take("head_dim", 64)
  width = result["EXPAND"] * result["DIM"]
  if heads * head_dim != width:
    raise errors.ConfigError(
      f"{fields.where}: num_heads {heads} times head_dim {head_dim} is not"
      f" expand times hidden_size, {width}; see that the file is that of the"
      " checkpoint"
    )
  result["HEAD_DIM"] = head_dim
  result["GROUPS"] = fields.take("n_groups", 8)
  if fields.take("use_bias", False):
    result["layers.Mamba2.use_bias"] = True
  least, most = map(_number, fields.take("time_step_limit", _UNBOUND))
  if least > 0.0:
    result["layers.StepSizes.least"] = least
  if most != float("inf"):
    result["layers.StepSizes.most"] = most
  notes = decoder_only.notes(fields, first=0)
  return family.Settings("models/mamba2.gin", result, notes)


def _number(value: Any) -> float:
  """A number of a config.json, where infinity may be {"__float__": ...}."""
  if isinstance(value, dict):
    value = value.get("__float__")
  return float(value)


def _config(model: Any) -> dict[str, Any]:
  mixer = model.decoder.layers.mamba2.sublayer
  where = "decoder.layers.mamba2.sublayer"
  fields = mamba.config_of(model, "mamba2")
  norm = mixer.norm
  family.expect_type(norm, f"{where}.norm", layers.GatedRMSNorm)
  epsilon = fields["layer_norm_epsilon"]
  family.expect(norm, f"{where}.norm", epsilon=epsilon, groups=mixer.groups)
  limits = _limits(mixer.steps)
  return {
    "architectures": ["Mamba2ForCausalLM"],
    "model_type": "mamba2",
    **fields,
    "num_heads": mixer.heads,
    "head_dim": mixer.head_dim,
    "n_groups": mixer.groups,
    # Without bounds, the field is absent: they write infinity in two ways.
    **({} if limits == _UNBOUND else {"time_step_limit": limits}),
  }


def _limits(steps: layers.StepSizes) -> list[float]:
  most = steps.most
  return [steps.least, float("inf") if most is None else most]


def _fits(model: Any) -> bool:
  return mamba.is_wired(model, "mamba2", layers.Mamba2)


FAMILY = family.Family(
  name="Mamba-2",
  model_types=("mamba2",),
  names=mapping.Names(
    counterpart=_counterpart, tied=mamba.tied, rename=mamba.rename
  ),
  settings=_settings,
  config=_config,
  fits=_fits,
)
