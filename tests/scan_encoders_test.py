"""Encoders, and encoders with decoders, whose mixers are no attention."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite import errors, objectives
from tests import model_files, tiny

ROWS, LENGTH = 6, 24
MACROS = (
  *("DTYPE = 'float32'", f"VOCAB_SIZE = {tiny.VOCAB}", "DROPOUT = 0.0"),
  *("DIM = 16", "HEADS = 2", "HEAD_DIM = 8", "HIDDEN = 24"),
)
FAMILIES = {
  "t5_linear": ("ENCODER_LAYERS = 1", "DECODER_LAYERS = 2"),
  "t5_mamba": ("ENCODER_LAYERS = 1", "DECODER_LAYERS = 2", "STATE_DIM = 4"),
  "t5_s4": ("ENCODER_LAYERS = 1", "DECODER_LAYERS = 2", "STATE_DIM = 4"),
}


@functools.cache
def made(family):
  bindings = (*MACROS, *FAMILIES[family])
  shapes = model_files.load(family, bindings=bindings)

  def constructor(rngs):
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

  return tiny.fill(constructor)


@pytest.fixture(params=FAMILIES)
def model(request):
  return made(request.param)


@jax.jit
def logits(model, batch):
  return model(batch)


def convert(rows):
  rows = [*rows, *[[]] * (ROWS - len(rows))]
  return objectives.Seq2Seq().convert(tiny.pack(rows, (LENGTH, LENGTH)))


def test_packed_rows_equal_separate_rows_whatever_the_padding(model):
  examples = tiny.examples(6)
  packed = convert([examples[:3], examples[3:5], examples[5:]])
  for side in ("encoder", "decoder"):
    padding = packed[f"{side}_segment_ids"] == 0
    noise = np.random.default_rng(0).integers(2, tiny.VOCAB, padding.shape)
    for name in ("input_tokens", "positions"):
      given = packed[f"{side}_{name}"]
      packed[f"{side}_{name}"] = np.where(padding, noise, given).astype(
        np.int32
      )
  separate = convert([[example] for example in examples])
  together, apart = logits(model, packed), logits(model, separate)
  assert np.std(apart) > 0.1
  number = 0
  for row, count in enumerate((3, 2, 1)):
    for segment in range(1, count + 1):
      where = packed["decoder_segment_ids"][row] == segment
      length = len(examples[number][1])
      np.testing.assert_allclose(
        together[row, where], apart[number, :length], atol=2e-5
      )
      number += 1


@pytest.mark.parametrize("prompt", [pytest.param(0, marks=pytest.mark.slow), 5])
def test_steps_equal_the_parallel_pass(model, prompt):
  batch = convert([[e] for e in tiny.examples(ROWS)])
  names = ("encoder_input_tokens", "encoder_segment_ids")
  tokens = batch["decoder_input_tokens"]
  everything = dict(
    batch,
    decoder_segment_ids=np.ones_like(tokens),
    decoder_positions=np.broadcast_to(np.arange(LENGTH), tokens.shape),
  )
  expected = logits(model, everything)
  given = {name: batch[name] for name in names}
  if prompt:
    # Rows of two lengths, which end together: one has padding in front.
    lengths = np.where(np.arange(ROWS) % 2, prompt, prompt - 2)
    real = np.arange(prompt) < lengths[:, None]
    given["decoder_input_tokens"] = np.where(real, tokens[:, :prompt], 7)
    given["decoder_segment_ids"] = real.astype(np.int32)
  else:
    lengths = np.zeros(ROWS, int)
  first, state = jax.jit(lambda m, b: m.prefill(b, LENGTH))(model, given)
  rows = np.arange(ROWS)
  if prompt:
    np.testing.assert_allclose(first, expected[rows, lengths - 1], atol=1e-4)
  step = jax.jit(lambda m, tokens, state: m.step(tokens, state))
  for t in range(LENGTH - prompt):
    at = lengths + t
    result, state = step(model, tokens[rows, at], state)
    np.testing.assert_allclose(result, expected[rows, at], atol=1e-4)


def test_an_encoder_sees_both_ways(model):
  """Each token of the memory, of each token of its example and no other."""
  tokens = np.full((1, 8), 5, np.int32)
  segments = np.array([[1, 1, 1, 1, 2, 2, 2, 0]], np.int32)
  positions = np.array([[0, 1, 2, 3, 0, 1, 2, 0]], np.int32)

  @jax.jit
  def encode(tokens):
    given = {"segments": segments, "positions": positions}
    return model.encode(tokens, **jax.tree.map(jnp.asarray, given))

  before = encode(tokens)
  for place in range(8):
    other = tokens.copy()
    other[0, place] = 9
    changed = np.abs(encode(other) - before)[0].max(axis=-1) > 1e-6
    np.testing.assert_array_equal(changed, segments[0] == segments[0, place])


def test_a_decoder_of_both_ways_is_refused():
  shapes = model_files.load(
    "linear_attention/tiny",
    bindings=("layers.LinearAttention.causal = False",),
  )
  with pytest.raises(errors.ConfigError, match="LinearAttention.causal = True"):
    objectives.CausalLM().check(shapes)
  wrapped = model_files.load(
    "mamba/tiny",
    bindings=(
      "layers.Block.sublayers = {'mamba': @layers.Bidirectional}",
      "layers.Bidirectional.mixer = @layers.Mamba",
    ),
  )
  with pytest.raises(errors.ConfigError, match="use Mamba in place of"):
    objectives.CausalLM().check(wrapped)
