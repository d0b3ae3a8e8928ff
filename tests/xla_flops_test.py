"""FLOPs by formula against XLA's own count, of shipped sizes with two layers.

The layers are unrolled, for XLA counts a loop's body once.  It counts before it
optimizes, so that nothing is compiled, and counts element-wise work too: norms,
softmax, gates.  That grows with the width where products grow with its square,
which is why the sizes are real ones.  `pytest -s` prints the ratios.

A recurrence is a loop over tokens, so that those models are given one token a
row: the loop runs once, and XLA sees all of it.  That a longer row costs in
proportion is shown in scan_flops_test.
"""

import functools
import math

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from t5x_lite import flops, layers
from tests import model_files

LAYERS = ("NUM_LAYERS=2", "UNROLL=2", "DTYPE='float32'")
BOTH = ("ENCODER_LAYERS=2", "DECODER_LAYERS=2", *LAYERS[1:])
# Rows, tokens of an encoder, tokens of a decoder.
ROWS, ONE_TOKEN = (2, 128, 64), (8, 1, 1)
# What XLA may count more, of the forward pass and of the gradient with it.
# Forward, an element of a state costs a decay more than the formula's write
# and read; backward, the gradients of decays and step sizes are element-wise.
OF_ATTENTION, OF_RECURRENCE = (0.01, 0.01), (0.02, 0.04)
FAMILIES = {
  "t5_1_1/small": (BOTH, ROWS, OF_ATTENTION),
  "bert/base_uncased": (LAYERS, ROWS, OF_ATTENTION),
  "llama3/8b": (LAYERS, ROWS, OF_ATTENTION),  # grouped queries
  "palm/8b": (LAYERS, ROWS, OF_ATTENTION),  # one key head, parallel sublayers
  "mamba/130m": (
    (*LAYERS, "layers.Mamba.implementation='sequential'"),
    ONE_TOKEN,
    OF_RECURRENCE,
  ),
  "mamba2/130m": (LAYERS, ONE_TOKEN, OF_RECURRENCE),
  "s4/base": (
    (*LAYERS, "layers.S4.mode='recurrent'"),
    ONE_TOKEN,
    OF_RECURRENCE,
  ),
  "s4d/base": (
    (*LAYERS, "layers.S4D.mode='recurrent'"),
    ONE_TOKEN,
    OF_RECURRENCE,
  ),
}


def features(rows, source, target):
  shapes = {"encoder": (rows, source), "decoder": (rows, target)}
  return {
    f"{side}_{name}": jax.ShapeDtypeStruct(shape, jnp.int32)
    for side, shape in shapes.items()
    for name in ("input_tokens", "segment_ids", "positions")
  }


def loss(model, batch):
  # Not linear: else the gradient would not need the forward pass of its last
  # product.
  return sum(jnp.sum(jnp.exp(x)) for x in jax.tree.leaves(model(batch)))


def counted(function, *args):
  """FLOPs by XLA, of the program as it was lowered."""
  return jax.jit(function).lower(*args).cost_analysis()["flops"]


@pytest.mark.parametrize("name", FAMILIES)
def test_xla_counts_as_the_formula_and_element_wise_work(name):
  bindings, lengths, more = FAMILIES[name]
  model, batch = model_files.load(name, bindings=bindings), features(*lengths)
  formula = flops.of_model(model, batch)
  forward = counted(loss, model, batch) / formula.total_full
  step = flops.of_training_step(model, batch).total_full
  gradient = counted(jax.grad(loss), model, batch) / step
  print(f"{name}: forward {forward:.4f}, with gradient {gradient:.4f}")
  assert 1 <= forward < 1 + more[0]
  assert 1 <= gradient < 1 + more[1]


def convolved(length, rows, dim=32, state_dim=64):
  """XLA's FLOPs of S4D by FFT, a channel."""
  make = functools.partial(
    layers.S4D, dim, state_dim=state_dim, mode="convolution", output=None
  )
  layer = jax.eval_shape(lambda: make(rngs=nnx.Rngs(0)))

  def forward(layer, x):
    ctx = layers.Context(positions=jnp.zeros(x.shape[:2], jnp.int32))
    return layer(x, ctx)[0]

  x = jax.ShapeDtypeStruct((rows, length, dim), jnp.float32)
  return counted(forward, layer, x) / dim


@pytest.mark.parametrize("length", [128, 512])
def test_why_s4_by_fft_differs(length):
  """An FFT grows as n log n and not with the state; kernels are made once.

  The formula is that of a recurrence, 4 P a token, whatever the way.
  """
  size = 2 * length  # a row and the room for what its end would reach
  one, four = convolved(length, 1), convolved(length, 4)
  row = (four - one) / 3
  fft = 12 * size * math.log2(size)  # forward and back, XLA's 8 and 4
  assert fft < row < 1.03 * fft
  for_all_rows = one - row
  kernel = 8 * size * math.log2(size)  # its transform; then the kernel itself
  assert 2 * 64 * length < for_all_rows - kernel < 5 * 64 * length
