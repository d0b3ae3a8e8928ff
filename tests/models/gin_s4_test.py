"""S4 and S4D as language models, and S4 in a T5: wiring and initialization."""

import jax
import numpy as np
import pytest

from t5x_lite import layers, models
from t5x_lite.layers import hippo
from tests import model_files

DECODERS = {"s4": layers.S4, "s4d": layers.S4D}
FAMILIES = (*DECODERS, "t5_s4")
SIZES = [n for n in model_files.SIZES if n.split("/")[0] in FAMILIES]


def decoders(family):
  return [name for name in SIZES if name.split("/")[0] == family]


def by_formula(model, low_rank):
  """Parameters of a language model from its widths."""
  stack = model.decoder
  dim, hidden = model.dim, stack.layers.feed_forward.sublayer.wi.kernel.shape[2]
  pairs = stack.layers.s4.sublayer.state_dim // 2
  # Eigenvalues, B, C and p are complex; a step and a skip for each channel.
  systems = dim * (2 * pairs * (3 + low_rank) + 2)
  glu = 2 * (dim**2 + dim)
  feed_forward = 2 * dim * hidden + hidden + dim
  norms = 2 * 2 * dim
  layer = systems + glu + feed_forward + norms
  return stack.num_layers * layer + 2 * dim + model.vocab_size * dim


@pytest.mark.parametrize("name", [*decoders("s4"), *decoders("s4d")])
def test_language_models(name):
  model = model_files.load(name)
  assert type(model) is models.DecoderOnly and model.head is None
  stack = model.decoder
  assert stack.layers.names == ("s4", "feed_forward")
  assert stack.positions is None and stack.bias is None
  mixer = stack.layers.s4.sublayer
  assert type(mixer) is DECODERS[name.split("/")[0]]
  assert not mixer.bidirectional and mixer.mode is None
  assert (mixer.output.activation, mixer.output.gate) == ("gelu", "sigmoid")
  assert mixer.log_dt.shape == (stack.num_layers, model.dim)
  feed_forward = stack.layers.feed_forward.sublayer
  assert type(feed_forward) is layers.FeedForward
  assert type(stack.final_norm) is layers.LayerNorm
  count = by_formula(model, low_rank=int(name.startswith("s4/")))
  assert model_files.count(model) == count


@pytest.mark.parametrize("name", decoders("t5_s4"))
def test_an_encoder_reads_both_ways_and_its_decoder_does_not(name):
  model = model_files.load(name)
  assert type(model) is models.EncoderDecoder
  encoder, decoder = model.encoder, model.decoder
  assert encoder.layers.names == ("s4", "feed_forward")
  assert decoder.layers.names == ("s4", "cross_attention", "feed_forward")
  assert encoder.bias is None and decoder.bias is None
  ours, theirs = (s.layers.s4.sublayer for s in (encoder, decoder))
  assert type(ours) is type(theirs) is layers.S4
  assert ours.bidirectional and not theirs.bidirectional
  assert ours.c_backward.shape == ours.c.shape
  assert theirs.c_backward is None


@pytest.mark.parametrize("family", DECODERS)
def test_parameters_start_as_in_the_papers(family):
  model = model_files.build(f"{family}/mini")
  mixer = model.decoder.layers.s4.sublayer
  shape = (4, 256, 32)
  # Steps are spread evenly over two decades, 0.001 to 0.1.
  steps = np.log10(np.exp(mixer.log_dt[...]))
  assert steps.shape == shape[:2]
  assert steps.min() >= -3 and steps.max() <= -1
  counts = np.histogram(steps, bins=4, range=(-3, -1))[0]
  np.testing.assert_allclose(counts / steps.size, 0.25, atol=0.06)
  values = -np.exp(mixer.log_decay[...]) + 1j * mixer.frequency[...]
  if family == "s4":
    expected, p, b = hippo.diagonal_plus_low_rank("legs", 64)
    assert mixer.low_rank.shape == (4, 1, *shape[1:], 2)
    p = np.broadcast_to(p[:, None], (4, 1, *shape[1:]))
    np.testing.assert_allclose(_complex(mixer.low_rank), p, rtol=1e-5)
  else:
    expected, b = -0.5 + 1j * np.pi * np.arange(32), np.ones(32)
  expected = np.broadcast_to(expected, shape)
  np.testing.assert_allclose(values, expected, rtol=1e-5)
  b = np.broadcast_to(b, shape)
  np.testing.assert_allclose(_complex(mixer.b), b, rtol=1e-5)
  c = _complex(mixer.c)
  assert np.mean(np.abs(c) ** 2) == pytest.approx(1.0, rel=0.03)
  assert abs(np.mean(c)) < 0.02
  assert np.std(mixer.skip[...]) == pytest.approx(1.0, rel=0.1)
  # No two channels and no two layers start alike.
  assert len(np.unique(mixer.log_dt[...])) > 1000
  kernel = np.asarray(mixer.output.out.kernel[...])
  assert np.std(kernel) == pytest.approx(256**-0.5, rel=0.02)


def _complex(parts):
  parts = np.asarray(parts[...])
  return parts[..., 0] + 1j * parts[..., 1]


def test_an_attention_of_bert_can_be_replaced():
  model = model_files.load(
    "bert/tiny",
    bindings=(
      *("ATTENTION = @layers.S4D", "layers.S4D.bidirectional = True"),
      "layers.S4D.spectrum = 'inv'",
    ),
  )
  mixer = model.encoder.layers.attention.sublayer
  assert type(mixer) is layers.S4D and mixer.bidirectional
  assert jax.tree.leaves(mixer.c_backward)[0].shape == (2, 64, 32, 2)
