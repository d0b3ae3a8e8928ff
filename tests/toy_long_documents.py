"""A decoder that remembers, documents that go on, and what trains on them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import pallas_kernels
from t5x_lite import (
  layers,
  models,
  objectives,
  optimizers,
  packing,
  partitioning,
  pieces,
  trainer,
)
from t5x_lite.layers import resets

partial = functools.partial
LENGTH, ROWS, VOCAB = 8, 4, 259
OBJECTIVE = objectives.LongDocumentLM()


class Leaky(nnx.Module):
  """The least of recurrent layers: h_t = a h_{t-1} + x_t."""

  def __init__(self, dim, *, rngs):
    init = jax.nn.initializers.uniform()
    self.decay = layers.param(rngs, (dim,), ("embed",), init)

  def init_state(self, batch_size, length, dtype, ctx):
    return jnp.zeros((batch_size, *self.decay.shape), jnp.float32)

  def __call__(self, x, ctx, state=None):
    y, final = pallas_kernels.linear_scan(
      jnp.broadcast_to(jax.nn.sigmoid(self.decay[...]), x.shape),
      x,
      initial=state,
      resets=resets.resets(ctx),
      implementation="sequential",
    )
    return y, None if state is None else final


def decoder(mixer=Leaky, **stack):
  """The constructor of a decoder of two layers."""
  sublayers = {
    "mixer": mixer,
    "feed_forward": partial(layers.FeedForward, hidden=16),
  }
  block = partial(layers.Block, sublayers=sublayers)
  return partial(
    models.DecoderOnly,
    vocab_size=VOCAB,
    dim=8,
    decoder=partial(layers.Stack, num_layers=2, block=block, **stack),
  )


def batches(count, seed=0, longest=40):
  """Task features of documents that go on from batch to batch."""
  rng = np.random.default_rng(seed)
  packer = pieces.Pieces({"targets": LENGTH}, ROWS)
  while packer.hungry or packer.num_tokens < 2 * count * ROWS * LENGTH:
    size = rng.integers(1, longest)
    tokens = rng.integers(2, VOCAB, size, dtype=np.int32)
    packer.add({"targets": packing.Ragged(tokens, np.array([size]))})
  found = []
  for _ in range(count):
    packer.lay_out()
    found.append(packer.take(ROWS))
  return found


def run(model=None, objective=OBJECTIVE, *, devices=1, **settings):
  """A trainer, by default on one device."""
  mesh = partitioning.Partitioner(
    {"data": devices},
    {"batch": "data", "embed": "data"},
    num_devices=devices,
  )
  settings = {"batch_size": ROWS} | settings
  optimizer = optimizers.from_optax(optax.sgd(0.1, momentum=0.9), 0.1)
  return trainer.Trainer(
    model or decoder(), objective, optimizer, mesh, **settings
  )
