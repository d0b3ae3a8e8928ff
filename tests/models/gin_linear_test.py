"""Files of linear attention, retention, and scans in encoders: their wiring."""

import jax
import numpy as np
import pytest

from t5x_lite import layers, models
from tests import model_files

DECODERS = ("linear_attention", "retnet", "gated_retnet")
ENCODERS = ("bert_linear",)
BOTH = ("t5_linear", "t5_mamba")
FAMILIES = (*DECODERS, *ENCODERS, *BOTH)
SIZES = [n for n in model_files.SIZES if n.split("/")[0] in FAMILIES]


def of(family):
  return [name for name in SIZES if name.split("/")[0] == family]


def mixer_of(stack, name):
  return getattr(stack.layers, name).sublayer


@pytest.mark.parametrize("size", ["1_3b", "2_7b", "6_7b"])
def test_retnet_has_twelve_squares_of_the_width_a_layer(size):
  """Section 3.1: 8 D^2 in retention, 4 D^2 in the feed-forward."""
  model = model_files.load(f"retnet/{size}")
  dim, depth = model.dim, model.decoder.num_layers
  norms = 2 * dim * (2 * depth + 1)
  assert model_files.count(model) == (12 * dim**2 * depth + 50257 * dim + norms)


@pytest.mark.parametrize("name", [*of("retnet"), *of("gated_retnet")])
def test_retnet(name):
  model = model_files.load(name)
  assert type(model) is models.DecoderOnly and model.head is None
  stack = model.decoder
  assert stack.layers.names == ("retention", "feed_forward")
  assert stack.positions is None and stack.bias is None
  mixer = mixer_of(stack, "retention")
  gated = name.startswith("gated")
  decay = layers.GatedDecay if gated else layers.FixedDecay
  assert type(mixer) is layers.Retention and type(mixer.decay) is decay
  assert mixer.heads * mixer.head_dim == model.dim
  assert mixer.value_dim == 2 * mixer.head_dim
  assert mixer.rotary == layers.Rotary(mixer.head_dim)
  assert (mixer.activation, mixer.epsilon) == ("swish", 1e-6)
  feed_forward = mixer_of(stack, "feed_forward")
  assert type(feed_forward) is layers.FeedForward
  assert feed_forward.activation == "gelu" and feed_forward.wi.bias is None
  assert feed_forward.wi.kernel.shape[-1] == 2 * model.dim
  norms = (stack.final_norm, stack.layers.retention.norm)
  assert {type(norm) for norm in norms} == {layers.LayerNorm}
  assert {norm.epsilon for norm in norms} == {1e-6}


@pytest.mark.parametrize("name", of("linear_attention"))
def test_linear_attention(name):
  model = model_files.load(name)
  assert type(model) is models.DecoderOnly and model.head is None
  stack = model.decoder
  assert stack.layers.names == ("attention", "feed_forward")
  assert isinstance(stack.positions, layers.SinusoidalPositions)
  mixer = mixer_of(stack, "attention")
  assert type(mixer) is layers.LinearAttention and mixer.causal
  assert mixer.query.bias is not None
  assert mixer.heads * mixer.head_dim == model.dim


@pytest.mark.parametrize("name", of("bert_linear"))
def test_bert(name):
  model = model_files.load(name)
  assert type(model) is models.EncoderOnly
  mixer = mixer_of(model.encoder, "attention")
  assert type(mixer) is layers.LinearAttention and not mixer.causal
  # The only difference: as many parameters, of the same shapes.
  bert = model_files.load("bert/tiny")
  same = model_files.load("bert_linear/tiny")
  shapes = [[x.shape for x in jax.tree.leaves(m)] for m in (bert, same)]
  assert shapes[0] == shapes[1]


@pytest.mark.parametrize("name", [name for f in BOTH for name in of(f)])
def test_encoder_decoders_keep_the_attention_to_the_inputs(name):
  model = model_files.load(name)
  assert type(model) is models.EncoderDecoder and model.head is not None
  encoder, decoder = model.encoder, model.decoder
  first = "attention" if name.startswith("t5_linear") else "mamba"
  assert encoder.layers.names == (first, "feed_forward")
  assert decoder.layers.names == (first, "cross_attention", "feed_forward")
  cross = mixer_of(decoder, "cross_attention")
  assert type(cross) is layers.CrossAttention and cross.scale == 1.0
  assert encoder.bias is None and decoder.bias is None
  ours, theirs = (mixer_of(stack, first) for stack in (encoder, decoder))
  if first == "attention":
    assert type(ours) is type(theirs) is layers.LinearAttention
    assert (ours.causal, theirs.causal) == (False, True)
    positions = {type(stack.positions) for stack in (encoder, decoder)}
    assert positions == {layers.SinusoidalPositions}
  else:
    assert type(ours) is layers.Bidirectional
    assert type(ours.forward) is type(ours.backward) is layers.Mamba
    assert type(theirs) is layers.Mamba
    assert encoder.positions is None and decoder.positions is None


@pytest.mark.parametrize("family", DECODERS)
def test_initializers_reach_every_matrix(family):
  """With a standard deviation of 0, the embedding alone is random."""
  bindings = ("INIT = @layers.FixedNormal()", "layers.FixedNormal.std = 0.0")
  model = model_files.build(f"{family}/tiny", bindings=bindings)
  for path, x in jax.tree_util.tree_flatten_with_path(model)[0]:
    name = jax.tree_util.keystr(path)
    if "tokens" in name:
      assert np.std(x) == pytest.approx(0.02, rel=0.1)
    else:
      np.testing.assert_array_equal(x, float("scale" in name), err_msg=name)
