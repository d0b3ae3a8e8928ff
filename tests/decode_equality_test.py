"""Full pass, prefill with steps, and packed rows give the same logits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite import layers, models
from tests import model_files, tiny

VOCAB, DIM, HEADS, HEAD_DIM, HIDDEN, LAYERS = 61, 20, 4, 6, 28, 2
# A prompt's tokens, different in each row, one of a single token; the last
# row is padding.  STEPS tokens follow each.
PROMPTS, STEPS = (9, 1, 5, 12, 0), 7
WIDTH = max(PROMPTS) + 2  # all prompts have padding
LENGTH = 2 * (max(PROMPTS) + STEPS)  # holds two examples
partial = functools.partial

# Family file -> macros that make it tiny, besides these.
SIZES = {
  "VOCAB_SIZE": VOCAB,
  "DIM": DIM,
  "HEADS": HEADS,
  "HEAD_DIM": HEAD_DIM,
  "HIDDEN": HIDDEN,
  "NUM_LAYERS": LAYERS,
}
FILES = {
  "gpt1": {"MAX_LENGTH": LENGTH},
  "gpt2": {"MAX_LENGTH": LENGTH},
  "gpt3": {"MAX_LENGTH": LENGTH},
  "palm": {},
  "llama2": {"KV_HEADS": 2},
  "llama3_1": {"KV_HEADS": 2},
  "linear_attention": {},
  "retnet": {},
  "gated_retnet": {},
  "mamba": {"STATE_DIM": 5},
  "s4": {"STATE_DIM": 6},
  "s4d": {"STATE_DIM": 6},
  "mamba2": {"STATE_DIM": 5, "HEAD_DIM": 5, "GROUPS": 4},
  "hybrid": {
    **{"STATE_DIM": 5, "MAMBA_HEAD_DIM": 8, "KV_HEADS": 2, "NUM_LAYERS": 1},
  },
}
# Where rounding grows over long products, and over the eight layers of a group.
TOLERANCES = {"mamba": 3e-5, "mamba2": 3e-5, "hybrid": 5e-5}
# Shorter than the rows, so that all of the scaling matters.
SCALING = {"llama3_1": ("layers.Llama3Scaling.original_length = 8",)}


def decoder(*, attention=None, norm=layers.RMSNorm, residual=None, **stack):
  """The constructor of a decoder; `stack` are arguments of its stack."""
  sublayers = {
    "attention": partial(
      layers.Attention,
      heads=HEADS,
      head_dim=HEAD_DIM,
      causal=True,
      **attention or {},
    ),
    "feed_forward": partial(layers.GatedFeedForward, hidden=HIDDEN),
  }
  block = partial(
    layers.Block,
    sublayers=sublayers,
    residual=residual or partial(layers.PreNorm, norm=norm),
  )
  return partial(
    models.DecoderOnly,
    vocab_size=VOCAB,
    dim=DIM,
    decoder=partial(layers.Stack, num_layers=LAYERS, block=block, **stack),
  )


ROTARY = partial(layers.Rotary, base=100.0)
RELATIVE = partial(
  layers.RelativeBias,
  heads=HEADS,
  buckets=8,
  max_distance=10,
  bidirectional=False,
)
VARIANTS = {
  "multi_query": {"attention": {"kv_heads": 1, "rotary": ROTARY}},
  "grouped_query": {"attention": {"kv_heads": 2, "rotary": ROTARY}},
  "interleaved_part": {
    "attention": {
      "rotary": partial(ROTARY, interleaved=True, fraction=2 / 3),
      "use_bias": True,
    }
  },
  "qk_norm_soft_cap": {
    "attention": {
      "rotary": ROTARY,
      "qk_norm": layers.RMSNorm,
      "soft_cap": 3.0,
    }
  },
  "alibi": {"bias": partial(layers.Alibi, heads=HEADS)},
  "relative": {"bias": RELATIVE, "attention": {"scale": 1.0}},
  "learned": {"positions": partial(layers.LearnedPositions, length=LENGTH)},
  "sinusoidal_post_norm": {
    "positions": layers.SinusoidalPositions,
    "residual": layers.PostNorm,
    "final_norm": None,
  },
  "no_positions": {},
}


@jax.jit
def full(model, batch):
  return model(batch)


@jax.jit
def decode(model, batch, tokens):
  """Logits of prefill [B V], and of steps over tokens [B K], [B K V]."""
  first, state = model.prefill(batch, tokens.shape[1])

  def step(state, column):
    logits, state = model.step(column, state)
    return state, logits

  rest = jax.lax.scan(step, state, tokens.T)[1]
  return first, jnp.moveaxis(rest, 0, 1)


def examples():
  """Tokens of each row, the prompt and what follows it."""
  rng = np.random.default_rng(0)
  return [rng.integers(2, VOCAB, n + STEPS * (n > 0)) for n in PROMPTS]


def rows_of(rows, prefix):
  """Model features of rows, and where the examples are.

  Args:
    rows: lists of examples and the length of each one's prompt.
    prefix: all of an example may see its prompt.
  """
  names = ("input_tokens", "segment_ids", "positions", "causal_attention")
  batch = {
    f"decoder_{name}": np.zeros((len(rows), LENGTH), np.int32) for name in names
  }
  tokens, segments, positions, seen = batch.values()
  places = []
  for row, members in enumerate(rows):
    start = 0
    for number, (example, prompt) in enumerate(members, 1):
      stop = start + len(example)
      tokens[row, start:stop] = example
      segments[row, start:stop] = number
      positions[row, start:stop] = np.arange(len(example))
      seen[row, start : start + prompt] = 1
      places.append((row, slice(start, stop)))
      start = stop
  # What stands where there is padding must not matter.
  noise = np.random.default_rng(1).integers(2, VOCAB, tokens.shape)
  tokens[...] = np.where(segments == 0, noise, tokens)
  if not prefix:
    del batch["decoder_causal_attention"]
  return batch, places


def prompts_of(rows, prefix):
  """Prompts [B P], padded at their end with what must not matter."""
  tokens = np.random.default_rng(2).integers(2, VOCAB, (len(rows), WIDTH))
  segments = np.zeros((len(rows), WIDTH), np.int32)
  for row, (example, prompt) in enumerate(rows):
    tokens[row, :prompt] = example[:prompt]
    segments[row, :prompt] = 1
  batch = {
    "decoder_input_tokens": tokens.astype(np.int32),
    "decoder_segment_ids": segments,
  }
  return batch | ({"decoder_causal_attention": segments} if prefix else {})


def check(model, prefix=False, close=None):
  """Compares the logits of all tokens after a prompt's last."""
  close = close or near
  rows = list(zip(examples(), PROMPTS, strict=True))
  apart, places = rows_of([[row] for row in rows], prefix)
  expected = np.asarray(full(model, apart))
  assert np.isfinite(expected).all() and expected.std() > 0.1

  # Two examples a row, and the padding alone in one.
  pairs = [rows[0:2], rows[2:4], [], [], rows[4:]]
  together, packed_places = rows_of(pairs, prefix)
  packed = np.asarray(full(model, together))
  for place, other in zip(places, packed_places, strict=True):
    close(packed[other], expected[place])

  follow = np.zeros((len(rows), STEPS), np.int32)
  for row, (example, prompt) in enumerate(rows):
    follow[row, : len(example) - prompt] = example[prompt:]
  first, rest = decode(model, prompts_of(rows, prefix), follow)
  assert np.isfinite(first).all() and np.isfinite(rest).all()
  for row, (example, prompt) in enumerate(rows):
    if prompt:
      close(first[row], expected[row, prompt - 1])
      close(rest[row], expected[row, prompt : len(example)])


def near(found, expected, tolerance=1e-5):
  np.testing.assert_allclose(found, expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("name", FILES)
def test_shipped_files(name):
  macros = SIZES | FILES[name] | {"DTYPE": "'float32'"}
  bindings = [f"{macro} = {value}" for macro, value in macros.items()]
  shapes = model_files.load(name, bindings=(*bindings, *SCALING.get(name, ())))

  def constructor(rngs):
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

  close = partial(near, tolerance=TOLERANCES.get(name, 1e-5))
  check(tiny.fill(constructor), close=close)


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants(variant):
  check(tiny.fill(decoder(**VARIANTS[variant])))


@pytest.mark.parametrize("variant", ["grouped_query", "alibi", "relative"])
def test_prefix_lm(variant):
  model = tiny.fill(decoder(**VARIANTS[variant]))
  check(model, prefix=True)
  rows = [[row] for row in zip(examples(), PROMPTS, strict=True)]
  causal, prefix = (rows_of(rows, seen)[0] for seen in (False, True))
  difference = np.abs(full(model, causal) - full(model, prefix))
  assert difference[0, 0].max() > 1e-2, "its first token must see the prefix"
