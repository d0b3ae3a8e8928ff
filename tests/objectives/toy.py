"""Tiny decoders and encoders, examples of every objective, and packed rows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite import layers, models, objectives
from tests import tiny

VOCAB, LENGTH, CLASSES = 40, 24, 3
partial = functools.partial


def stack(*, causal=False):
  """A stack whose positions matter."""
  return partial(
    layers.Stack,
    num_layers=1,
    positions=partial(layers.LearnedPositions, length=64),
    block=partial(
      layers.Block,
      sublayers={
        "attention": partial(
          layers.Attention, heads=2, head_dim=8, causal=causal
        ),
        "feed_forward": partial(layers.FeedForward, hidden=16),
      },
    ),
  )


def decoder(heads=None, causal=True):
  """The constructor of a decoder-only model."""
  return partial(
    models.DecoderOnly,
    vocab_size=VOCAB,
    dim=16,
    decoder=stack(causal=causal),
    heads=heads,
  )


def encoder(heads, types=layers.TokenTypes):
  """The constructor of an encoder-only model."""
  return partial(
    models.EncoderOnly,
    vocab_size=VOCAB,
    dim=16,
    encoder=stack(),
    types=types,
    heads=heads,
  )


def classifier(classes=CLASSES):
  return partial(layers.Classifier, num_classes=classes)


def token_classifier(classes=CLASSES):
  return partial(layers.TokenClassifier, num_classes=classes)


HEADS = {
  "masked_lm": layers.MaskedLMHead,
  "next_sentence": classifier(2),
  "classification": classifier(),
  "tokens": token_classifier(),
  "span": token_classifier(2),
}


def pack(rows, lengths):
  """Task features of rows of examples, as the data gives them.

  Args:
    rows: lists of examples, each ids by feature.
    lengths: of the features.
  """
  batch = {}
  for name, length in lengths.items():
    arrays = np.zeros((3, len(rows), length), np.int32)
    for r, row in enumerate(rows):
      ids = [np.asarray(example[name]) for example in row]
      count = sum(map(len, ids))
      if not count:
        continue
      arrays[0, r, :count] = np.concatenate(ids)
      arrays[1, r, :count] = np.repeat(
        np.arange(len(ids)) + 1, list(map(len, ids))
      )
      arrays[2, r, :count] = np.concatenate([np.arange(len(x)) for x in ids])
    names = (name, f"{name}_segment_ids", f"{name}_positions")
    batch |= dict(zip(names, arrays, strict=True))
  return batch


def example(rng, objective):
  """Random ids of an objective's features."""
  length = int(rng.integers(3, 9))
  found = {"inputs": rng.integers(2, VOCAB, length)}
  if "targets" in objective.features:
    found["targets"] = rng.integers(2, VOCAB, int(rng.integers(1, 7)))
  if "targets" in objective.aligned:
    masked = rng.random(length) < 0.5
    masked[rng.integers(length)] = True
    found["targets"] = np.where(masked, rng.integers(2, VOCAB, length), 0)
  if "token_types" in objective.features:
    found["token_types"] = np.arange(length) >= rng.integers(1, length)
  if "labels" in objective.features:
    found["labels"] = labels(rng, objective, length)
  return found


def labels(rng, objective, length):
  """Labels [length] as the objective wants them."""
  found = np.zeros(length, np.int64)
  tokens = objectives.TokenClassification | objectives.CausalLabelling
  if isinstance(objective, tokens):
    found = rng.integers(0, CLASSES + 1, length)
    found[rng.integers(length)] = 1
  elif isinstance(objective, objectives.SpanExtraction):
    start = rng.integers(length)
    found[start] += 1
    found[rng.integers(start, length)] += 2
  elif isinstance(objective, objectives.Regression):
    found[0] = 1 + rng.integers(5001)
  else:
    pairs = isinstance(objective, objectives.MaskedLM)
    found[0] = 1 + rng.integers(2 if pairs else CLASSES)
  return found


def examples(objective, count, seed=0):
  rng = np.random.default_rng(seed)
  return [example(rng, objective) for _ in range(count)]


def convert(objective, rows):
  """Model features on the device, of rows of examples."""
  names = objective.features
  batch = objective.convert(pack(rows, dict.fromkeys(names, LENGTH)))
  return jax.tree.map(jnp.asarray, batch)


REGRESSION = HEADS | {"classification": classifier(1)}
LM_HEADS = {"classification": token_classifier()}

# Name -> (constructor of an objective, constructor of its model).
CASES = {
  "seq2seq": (objectives.Seq2Seq, tiny.t5(vocab=VOCAB)),
  "causal_lm": (objectives.CausalLM, decoder()),
  "prefix_lm": (objectives.PrefixLM, decoder()),
  "causal_prefix_lm": (
    partial(objectives.PrefixLM, bidirectional=False, loss_on_inputs=True),
    decoder(),
  ),
  "masked_lm": (objectives.MaskedLM, encoder(HEADS)),
  "masked_lm_next_sentence": (
    partial(objectives.MaskedLM, next_sentence=True, z_loss=0.01),
    encoder(HEADS),
  ),
  "classification": (objectives.Classification, encoder(HEADS)),
  "token_classification": (objectives.TokenClassification, encoder(HEADS)),
  "regression": (objectives.Regression, encoder(REGRESSION)),
  "span_extraction": (objectives.SpanExtraction, encoder(HEADS)),
  "lm_classification": (
    partial(objectives.LMClassification, z_loss=0.01),
    decoder(LM_HEADS),
  ),
  "causal_labelling": (objectives.CausalLabelling, decoder()),
}


@functools.cache
def model(name):
  return tiny.fill(CASES[name][1])


class Fixed:
  """A model whose outputs are given, whatever it reads."""

  def __init__(self, **given):
    self.given = {name: jnp.asarray(x) for name, x in given.items()}

  def __call__(self, batch, *, key):
    return self.given.get("logits", self.given)

  def outputs(self, batch, *, key):
    return self.given

  def hidden(self, batch, *, key):
    return self.given

  def readout(self, name="logits", *, key=None):
    return lambda given: given[name]


def log_softmax(logits):
  """In float64."""
  logits = np.asarray(logits, np.float64)
  return logits - np.log(np.sum(np.exp(logits), axis=-1, keepdims=True))
