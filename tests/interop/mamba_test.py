"""Tensors and config.json of Mamba and Mamba-2."""

import functools

import pytest

from t5x_lite import errors, layers, models
from t5x_lite.interop import families, family, huggingface, mamba, mamba2
from tests import model_files, tiny
from tests.interop import post_norm

partial = functools.partial
# As published for transformers; the fields of the library that they were
# trained with are there too.
MAMBA_130M = {
  "architectures": ["MambaForCausalLM"],
  "bos_token_id": 0,
  "conv_kernel": 4,
  "d_inner": 1536,
  "d_model": 768,
  "eos_token_id": 0,
  "expand": 2,
  "fused_add_norm": True,
  "hidden_act": "silu",
  "hidden_size": 768,
  "initializer_range": 0.1,
  "intermediate_size": 1536,
  "layer_norm_epsilon": 1e-05,
  "model_type": "mamba",
  "n_layer": 24,
  "num_hidden_layers": 24,
  "pad_token_id": 0,
  "pad_vocab_size_multiple": 8,
  "rescale_prenorm_residual": False,
  "residual_in_fp32": True,
  "rms_norm": True,
  "ssm_cfg": {},
  "state_size": 16,
  "time_step_floor": 0.0001,
  "time_step_init_scheme": "random",
  "time_step_max": 0.1,
  "time_step_min": 0.001,
  "time_step_rank": 48,
  "time_step_scale": 1.0,
  "torch_dtype": "float32",
  "transformers_version": "4.39.0.dev0",
  "use_bias": False,
  "use_cache": True,
  "use_conv_bias": True,
  "vocab_size": 50280,
}
MAMBA2_130M = {
  "architectures": ["Mamba2ForCausalLM"],
  "bos_token_id": 0,
  "chunk_size": 256,
  "conv_kernel": 4,
  "eos_token_id": 0,
  "expand": 2,
  "head_dim": 64,
  "hidden_act": "silu",
  "hidden_size": 768,
  "layer_norm_epsilon": 1e-05,
  "model_type": "mamba2",
  "n_groups": 1,
  "norm_before_gate": True,
  "num_heads": 24,
  "num_hidden_layers": 24,
  "residual_in_fp32": True,
  "rms_norm": True,
  "state_size": 128,
  "tie_word_embeddings": True,
  "time_step_limit": [0.0, float("inf")],
  "time_step_rank": 48,
  "use_bias": False,
  "use_conv_bias": True,
  "vocab_size": 50288,
}
PUBLISHED = {
  "mamba": (mamba.FAMILY, MAMBA_130M),
  "mamba2": (mamba2.FAMILY, MAMBA2_130M),
}


def model(
  name,
  *,
  head=None,
  embedding=None,
  residual=layers.PreNorm,
  norm=layers.RMSNorm,
  epsilon=1e-5,
  use_bias=False,
  convolution=layers.CausalConvolution,
  gated=None,
  stack=None,
  **mixer,
):
  """The constructor of a small Mamba; `mixer` changes its mixer."""
  kind = layers.Mamba
  usual = {"state_dim": 3}
  if name == "mamba2":
    kind = layers.Mamba2
    usual |= {"head_dim": 4, "groups": 2}
    usual["norm"] = partial(layers.GatedRMSNorm, epsilon=gated or epsilon)
  usual["convolution"] = convolution
  norm = partial(norm, epsilon=epsilon)
  block = partial(
    layers.Block,
    sublayers={name: partial(kind, use_bias=use_bias, **usual | mixer)},
    residual=partial(residual, norm=norm),
  )
  return partial(
    models.DecoderOnly,
    vocab_size=13,
    dim=8,
    decoder=partial(
      layers.Stack,
      **{"num_layers": 2, "block": block, "final_norm": norm} | (stack or {}),
    ),
    embedding=partial(layers.Embedding, **embedding or {"logits_scale": 1.0}),
    head=head,
  )


SHORT = partial(layers.CausalConvolution, width=2, use_bias=False)

# Of one layer; the state is 3, the width 16, the step sizes' rank 1; two
# groups and four heads of 4.
MAMBA_LAYER = {
  "norm.weight": (8,),
  "mixer.in_proj.weight": (32, 8),
  "mixer.conv1d.weight": (16, 1, 4),
  "mixer.conv1d.bias": (16,),
  "mixer.x_proj.weight": (7, 16),
  "mixer.dt_proj.weight": (16, 1),
  "mixer.dt_proj.bias": (16,),
  "mixer.A_log": (16, 3),
  "mixer.D": (16,),
  "mixer.out_proj.weight": (8, 16),
}
MAMBA2_LAYER = {
  "norm.weight": (8,),
  "mixer.in_proj.weight": (2 * 16 + 2 * 6 + 4, 8),
  "mixer.conv1d.weight": (16 + 2 * 6, 1, 4),
  "mixer.conv1d.bias": (16 + 2 * 6,),
  "mixer.dt_bias": (4,),
  "mixer.A_log": (4,),
  "mixer.D": (4,),
  "mixer.norm.weight": (16,),
  "mixer.out_proj.weight": (8, 16),
}
BIASES = {
  "mamba": {"mixer.in_proj.bias": (32,), "mixer.out_proj.bias": (8,)},
  "mamba2": {"mixer.in_proj.bias": (48,), "mixer.out_proj.bias": (8,)},
}


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("use_bias", [False, True])
def test_names_and_shapes(name, use_bias):
  weights = huggingface.to_state_dict(tiny.fill(model(name, use_bias=use_bias)))
  layer = {"mamba": MAMBA_LAYER, "mamba2": MAMBA2_LAYER}[name]
  layer = layer | (BIASES[name] if use_bias else {})
  assert {name: tensor.shape for name, tensor in weights.items()} == {
    "backbone.embeddings.weight": (13, 8),
    "backbone.norm_f.weight": (8,),
    "lm_head.weight": (13, 8),
    **{
      f"backbone.layers.{number}.{name}": shape
      for number in (0, 1)
      for name, shape in layer.items()
    },
  }


@pytest.mark.parametrize(
  ("name", "changes"),
  [
    ("mamba", {}),
    ("mamba", {"rank": 4, "expand": 3, "epsilon": 1e-3}),
    ("mamba", {"use_bias": True, "head": layers.LogitsHead}),
    ("mamba2", {"convolution": SHORT}),
    ("mamba2", {"groups": 1, "use_bias": True, "head": layers.LogitsHead}),
    ("mamba2", {"steps": layers.StepSizes(least=0.5, most=2.0)}),
  ],
)
def test_there_and_back(name, changes):
  constructor, (found, _) = model(name, **changes), PUBLISHED[name]
  post_norm.check_there_and_back(constructor, found)
  ours = post_norm.shapes(constructor)
  assert families.of_model(ours) is found
  fields = family.Fields(found.config(ours), "config.json")
  again = post_norm.by_gin(found.settings(fields, ()))
  assert not fields.unknown()
  mixers = [getattr(m.decoder.layers, name).sublayer for m in (ours, again)]
  # Bounds of the step sizes are no parameters: a config.json alone has them.
  assert mixers[0].steps == mixers[1].steps


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs_give_the_shipped_models(name):
  found, values = PUBLISHED[name]
  settings = post_norm.settings(found, values)
  ours, shipped = (
    post_norm.by_gin(settings),
    model_files.load(f"{name}/130m"),
  )
  assert model_files.count(ours) == model_files.count(shipped)
  assert found.config(ours) == found.config(shipped)
  assert found.differences(values, found.config(ours)) == {}
  (note,) = settings.notes
  assert "set START = 0 after" in note


def test_names_of_files_without_a_head_and_of_the_first_library():
  ours = tiny.fill(model("mamba"))
  weights = huggingface.to_state_dict(ours)
  names = {name: name.removeprefix("backbone.") for name in weights}
  names["backbone.embeddings.weight"] = "backbone.embedding.weight"
  del weights["lm_head.weight"]
  bare = {names[name]: tensor for name, tensor in weights.items()}
  shapes = post_norm.shapes(model("mamba"))
  loaded = huggingface.from_state_dict(shapes, bare)
  tiny.assert_close(loaded, ours, rtol=0, atol=0)


@pytest.mark.parametrize(
  ("name", "fields", "message"),
  [
    ("mamba", {"hidden_act": "relu"}, "hidden_act is 'relu'"),
    ("mamba", {"rms_norm": False}, "rms_norm is False"),
    ("mamba", {"intermediate_size": 99}, "intermediate_size is 99"),
    ("mamba2", {"num_heads": 23}, "num_heads 23 times head_dim 64 is not"),
    ("mamba2", {"quantization_config": {"bits": 4}}, "quantization_config is"),
  ],
)
def test_configs_that_are_refused(name, fields, message):
  found, values = PUBLISHED[name]
  with pytest.raises(errors.ConfigError, match=message):
    post_norm.settings(found, {**values, **fields})


class Own(layers.CausalConvolution):
  """A convolution that transformers does not have."""


@pytest.mark.parametrize(
  ("name", "changes", "message"),
  [
    ("mamba", {"residual": layers.PostNorm}, "is a PostNorm"),
    ("mamba", {"norm": layers.LayerNorm}, "is a LayerNorm"),
    ("mamba", {"steps": layers.StepSizes(least=0.1)}, r"least is 0\.1"),
    ("mamba", {"embedding": {"logits_scale": 2.0}}, r"logits_scale is 2\.0"),
    ("mamba", {"convolution": Own}, "convolution is a Own"),
    ("mamba2", {"gated": 1e-3}, r"norm.epsilon is 0\.001"),
    (
      "mamba2",
      {"stack": {"positions": layers.SinusoidalPositions}},
      "positions is a SinusoidalPositions",
    ),
  ],
)
def test_models_that_their_config_cannot_express(name, changes, message):
  found, _ = PUBLISHED[name]
  with pytest.raises(errors.ConfigError, match=message):
    found.config(post_norm.shapes(model(name, **changes)))
