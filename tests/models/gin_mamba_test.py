"""Mamba, Mamba-2 and their hybrid with attention: sizes and wiring."""

import jax
import numpy as np
import pytest

from t5x_lite import layers, models
from tests import model_files

# Parameters as published (each tied matrix once), layers, width.
MAMBA = {
  "mamba/130m": (129_135_360, 24, 768),
  "mamba/370m": (371_516_416, 48, 1024),
  "mamba/790m": (793_204_224, 48, 1536),
  "mamba/1_4b": (1_372_178_432, 48, 2048),
  "mamba/2_8b": (2_768_345_600, 64, 2560),
}
MAMBA2 = {
  "mamba2/130m": (128_989_632, 24, 768),
  "mamba2/370m": (368_346_624, 48, 1024),
  "mamba2/780m": (780_161_280, 48, 1536),
  "mamba2/1_3b": (1_343_757_312, 48, 2048),
  "mamba2/2_7b": (2_702_599_680, 64, 2560),
}
PUBLISHED = {**MAMBA, **MAMBA2}
FAMILIES = ("mamba", "mamba2", "hybrid")
SIZES = [n for n in model_files.SIZES if n.split("/")[0] in FAMILIES]
HYBRID = (
  *(f"mamba_{n}" for n in (1, 2, 3, 4)),
  "attention",
  *(f"mamba_{n}" for n in (5, 6, 7)),
)


def check_outside(model, vocabulary):
  """What stands around the mixers."""
  assert type(model) is models.DecoderOnly
  assert model.head is None
  assert model.embedding.logits_scale == 1.0
  assert model.embedding.tokens.shape == (vocabulary, model.dim)
  stack = model.decoder
  assert stack.positions is None and stack.input_norm is None
  assert stack.dropout == 0.0
  norms = [stack.final_norm]
  for name in stack.layers.names:
    residual = getattr(stack.layers, name)
    assert type(residual) is layers.PreNorm
    assert residual.dropout == 0.0
    norms.append(residual.norm)
  assert {type(norm) for norm in norms} == {layers.RMSNorm}
  assert {norm.epsilon for norm in norms} == {1e-5}
  assert {norm.bias for norm in norms} == {None}


@pytest.mark.parametrize("name", PUBLISHED)
def test_shape_is_the_published_one(name):
  total, depth, dim = PUBLISHED[name]
  model = model_files.load(name)
  assert model_files.count(model) == total
  assert (model.decoder.num_layers, model.dim) == (depth, dim)


@pytest.mark.parametrize("name", MAMBA)
def test_mamba_is_wired_as_published(name):
  model = model_files.load(name)
  check_outside(model, 50280)
  assert model.decoder.layers.names == ("mamba",)
  mixer, dim = model.decoder.layers.mamba.sublayer, model.dim
  depth, rank = model.decoder.num_layers, dim // 16
  assert type(mixer) is layers.Mamba
  assert mixer.a_log.shape == (depth, 2 * dim, 16)
  assert mixer.select.kernel.shape == (depth, 2 * dim, rank + 32)
  assert mixer.convolution.kernel.shape == (depth, 4, 2 * dim)
  assert mixer.convolution.bias is not None and mixer.out.bias is None
  assert mixer.steps == layers.StepSizes(1e-3, 0.1)


@pytest.mark.parametrize("name", MAMBA2)
def test_mamba2_is_wired_as_published(name):
  model = model_files.load(name)
  check_outside(model, 50288)
  assert model.decoder.layers.names == ("mamba2",)
  mixer, dim = model.decoder.layers.mamba2.sublayer, model.dim
  depth, heads = model.decoder.num_layers, dim // 32
  assert type(mixer) is layers.Mamba2
  assert mixer.x.kernel.shape == (depth, dim, heads, 64)
  assert mixer.b.kernel.shape == (depth, dim, 1, 128)
  assert mixer.x_convolution.kernel.shape == (depth, 4, heads, 64)
  assert mixer.x_convolution.bias is not None and mixer.out.bias is None
  assert (mixer.norm.groups, mixer.norm.epsilon) == (1, 1e-5)
  assert mixer.steps == layers.StepSizes(1e-3, 0.1)


@pytest.mark.parametrize("size", ["130m", "370m"])
def test_the_hybrid_has_as_many_mixers_as_mamba2(size):
  model = model_files.load(f"hybrid/{size}")
  pure = model_files.load(f"mamba2/{size}")
  check_outside(model, 50288)
  block = model.decoder.layers
  assert block.names == HYBRID
  assert 8 * model.decoder.num_layers == pure.decoder.num_layers
  assert model.dim == pure.dim
  for name in HYBRID:
    mixer = getattr(block, name).sublayer
    if name == "attention":
      assert type(mixer) is layers.Attention
      assert mixer.causal and mixer.rotary is not None
      assert mixer.heads * mixer.head_dim == model.dim
    else:
      assert type(mixer) is layers.Mamba2
      theirs = pure.decoder.layers.mamba2.sublayer
      assert mixer.x.kernel.shape[1:] == theirs.x.kernel.shape[1:]


@pytest.mark.parametrize("family", ["mamba", "mamba2"])
def test_parameters_start_as_in_the_paper(family):
  model = model_files.build(f"{family}/tiny")
  mixer = getattr(model.decoder.layers, family).sublayer
  depth, dim = model.decoder.num_layers, model.dim
  if family == "mamba":
    expected = np.broadcast_to(np.arange(1, 9), mixer.a_log.shape)
    np.testing.assert_allclose(np.exp(mixer.a_log[...]), expected, rtol=1e-6)
  else:
    a = np.exp(mixer.a_log[...])
    assert a.min() >= 1 and a.max() <= 16 and np.std(a) > 2
  np.testing.assert_array_equal(mixer.skip[...], 1.0)
  steps = np.log(jax.nn.softplus(mixer.step_bias[...]))
  low, high = np.log(1e-3), np.log(0.1)
  assert steps.min() > low - 1e-4 and steps.max() < high + 1e-4
  middle = pytest.approx((low + high) / 2, abs=0.15 * (high - low))
  assert np.mean(steps) == middle
  # A linear map of PyTorch; the output's is divided by the layers' root.
  gate = np.asarray(mixer.gate.kernel[...])
  assert np.std(gate) == pytest.approx((3 * dim) ** -0.5, rel=0.05)
  out = np.asarray(mixer.out.kernel[...])
  expected = (3 * 2 * dim * depth) ** -0.5
  assert np.std(out) == pytest.approx(expected, rel=0.05)
