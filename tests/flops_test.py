"""FLOPs by formula equal FLOPs counted in the program and by XLA."""

import functools

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax.experimental import pallas

import pallas_kernels
from t5x_lite import (
  flops,
  layers,
  models,
  objectives,
  traced_flops,
  utilization,
)

BATCH, SOURCE, TARGET = 2, 24, 8
DIM, HEADS, HEAD_DIM, HIDDEN, VOCAB, DEPTH = 32, 3, 8, 48, 200, 3


def stack(*, causal, cross, **kwargs):
  partial = functools.partial
  shape = {"heads": HEADS, "head_dim": HEAD_DIM}
  sublayers = {"attention": partial(layers.Attention, causal=causal, **shape)}
  if cross:
    sublayers["cross_attention"] = partial(layers.CrossAttention, **shape)
  sublayers["feed_forward"] = partial(layers.GatedFeedForward, hidden=HIDDEN)
  return partial(
    layers.Stack,
    num_layers=DEPTH,
    block=partial(layers.Block, sublayers=sublayers),
    **kwargs,
  )


def build(head=layers.LogitsHead, **kwargs):
  """An abstract encoder-decoder."""
  return jax.eval_shape(
    lambda: models.EncoderDecoder(
      vocab_size=VOCAB,
      dim=DIM,
      encoder=stack(causal=False, cross=False, **kwargs),
      decoder=stack(causal=True, cross=True, **kwargs),
      head=head,
      rngs=nnx.Rngs(0),
    )
  )


def features():
  shapes = {"encoder": (BATCH, SOURCE), "decoder": (BATCH, TARGET)}
  names = {
    "encoder": ("input_tokens", "segment_ids", "positions"),
    "decoder": ("input_tokens", "target_tokens", "segment_ids", "positions"),
  }
  batch = {
    f"{side}_{name}": jax.ShapeDtypeStruct(shapes[side], jnp.int32)
    for side in names
    for name in names[side]
  }
  weights = jax.ShapeDtypeStruct(shapes["decoder"], jnp.float32)
  return batch | {"decoder_loss_weights": weights}


def forward_pass(model, batch):
  return model(batch)


def gradient(model, batch):
  def loss(model):
    return objectives.Seq2Seq().loss(model, batch, None)[0]

  return jax.grad(loss)(model)


def test_formula_written_out():
  """The rules against the sum a person would write."""
  width = HEADS * HEAD_DIM
  self_attention, feed_forward = 4 * DIM * width, 3 * DIM * HIDDEN
  source, target = BATCH * SOURCE, BATCH * TARGET
  matmul = 2 * (
    DEPTH * source * (self_attention + feed_forward)
    + DEPTH * target * (self_attention + feed_forward + 2 * DIM * width)
    + DEPTH * source * 2 * DIM * width  # keys and values of the memory
    + target * DIM * VOCAB
  )
  seen = BATCH * DEPTH * 4 * width
  encoder, decoder = seen * SOURCE**2, seen * TARGET**2
  cross = seen * SOURCE * TARGET
  seen = decoder * (TARGET + 1) / (2 * TARGET)  # half, and half the diagonal
  assert flops.of_model(build(), features()) == flops.Flops(
    matmul, encoder + seen + cross, encoder + decoder + cross
  )


def test_windows_and_patterns_are_counted_where_they_let_see():
  tokens, partial = flops.Tokens(BATCH, SOURCE), functools.partial
  make = partial(layers.Attention, DIM, heads=HEADS, head_dim=HEAD_DIM)

  def of(**kwargs):
    return flops.of_layer(
      jax.eval_shape(lambda: make(**kwargs, rngs=nnx.Rngs(0))), tokens
    )

  full, pair = of(), BATCH * 4 * HEADS * HEAD_DIM
  assert full.attention == full.attention_full == SOURCE**2 * pair
  near = of(causal=True, window=(3, None))
  assert near.attention == (4 * SOURCE - 3 - 2 - 1) * pair
  assert near.attention_full == full.attention_full
  sparse = of(pattern=pallas_kernels.longformer(4, global_tokens=1))
  # Five near, less 6 at the ends; the first sees and is seen by the rest.
  assert sparse.attention == (5 * SOURCE - 6 + 2 * (SOURCE - 3)) * pair
  assert sparse.matmul == full.matmul


@pytest.mark.parametrize("head", [layers.LogitsHead, None])
def test_formula_equals_the_products_in_the_traced_gradient(head):
  """Exactly, forward and backward, through scans over layers."""
  model, batch = build(head), features()
  forward = flops.of_model(model, batch)
  assert (
    traced_flops.of_program(forward_pass, model, batch) == forward.total_full
  )
  step = flops.of_training_step(model, batch)
  assert traced_flops.of_program(gradient, model, batch) == step.total_full


def decoder_only():
  """PaLM's wiring, grouped keys, and no two sizes alike."""
  partial = functools.partial
  parallel = partial(
    layers.Parallel,
    sublayers={
      "attention": partial(
        layers.Attention, heads=4, kv_heads=2, head_dim=6, causal=True
      ),
      "feed_forward": partial(layers.GatedFeedForward, hidden=HIDDEN),
    },
  )
  return models.DecoderOnly(
    vocab_size=VOCAB,
    dim=DIM,
    decoder=partial(
      layers.Stack,
      num_layers=DEPTH,
      block=partial(layers.Block, sublayers={"parallel": parallel}),
      positions=partial(layers.LearnedPositions, length=TARGET),
    ),
    embedding=partial(layers.FactorizedEmbedding, inner=7),
    head=None,
    rngs=nnx.Rngs(0),
  )


def encoder_only():
  partial = functools.partial
  return models.EncoderOnly(
    vocab_size=VOCAB,
    dim=DIM,
    encoder=stack(causal=False, cross=False),
    types=layers.TokenTypes,
    heads={
      "masked_lm": layers.MaskedLMHead,
      "next_sentence": partial(layers.Classifier, num_classes=2),
      "span": partial(layers.TokenClassifier, num_classes=2),
    },
    rngs=nnx.Rngs(0),
  )


@pytest.mark.parametrize("build", [decoder_only, encoder_only])
def test_formula_of_models_with_one_stack(build):
  model, batch = jax.eval_shape(build), features()
  counted = flops.of_model(model, batch)
  assert traced_flops.of_program(forward_pass, model, batch) == (
    counted.total_full
  )
  causal = build is decoder_only
  assert (counted.attention < counted.attention_full) == causal


def test_relative_bias_is_all_that_the_formula_leaves_out():
  biased = build(bias=functools.partial(layers.RelativeBias, heads=HEADS))
  batch = features()
  left_out = traced_flops.of_program(forward_pass, biased, batch)
  left_out -= flops.of_model(biased, batch).total_full
  distances = 2 * SOURCE - 1 + 2 * TARGET - 1
  # Each layer makes its bias of the table, as a kernel does.
  assert left_out == DEPTH * 2 * distances * 32 * HEADS


def test_xla_counts_little_more_when_layers_are_unrolled():
  """XLA adds elementwise work, and counts a loop's body only once."""
  batch = features()
  step = flops.of_training_step(build(), batch).total_full

  def counted(model):
    compiled = jax.jit(gradient).lower(model, batch).compile()
    return compiled.cost_analysis()["flops"]

  unrolled, looped = counted(build(unroll=DEPTH)), counted(build())
  assert step < unrolled < 1.2 * step
  assert looped < 0.6 * step  # why HFU is counted from the traced program


def test_rematerialization_adds_about_a_forward_pass():
  batch = features()
  forward = flops.of_model(build(), batch)
  logits = 2 * BATCH * TARGET * DIM * VOCAB  # outside the stack
  counted = traced_flops.of_program(gradient, build(remat="full"), batch)
  again = counted - 3 * forward.total_full
  layers_only = forward.total_full - logits
  # A layer's last product is not needed again by its gradient.
  assert 0.7 * layers_only < again <= layers_only


def test_products_in_branches_and_loops():
  x = jax.ShapeDtypeStruct((4, 4), jnp.float32)
  one = 2 * 4**3

  def branches(x):
    return jax.lax.cond(x[0, 0] > 0, lambda x: x @ x @ x, lambda x: x @ x, x)

  def loop(x):
    return jax.lax.while_loop(lambda x: x[0, 0] > 0, lambda x: x @ x, x)

  assert traced_flops.of_program(lambda x: x @ x, x) == one
  assert (
    traced_flops.of_program(jax.jit(jax.checkpoint(branches)), x) == 2 * one
  )

  def body(x_ref, y_ref):
    y_ref[...] = x_ref[...] @ x_ref[...]

  kernel = pallas.pallas_call(body, out_shape=x)
  with pytest.raises(NotImplementedError, match="product in while"):
    traced_flops.of_program(loop, x)
  with pytest.raises(NotImplementedError, match="product in pallas_call"):
    traced_flops.of_program(kernel, x)


def test_parameters_of_matmuls_are_all_but_lookups_and_norms():
  untied, tied = build(), build(head=None)
  table = VOCAB * DIM
  norms = DIM * (DEPTH * 2 + 1 + DEPTH * 3 + 1)
  assert flops.num_parameters(untied) - flops.num_parameters(tied) == table
  for model, lookups in ((untied, table), (tied, 0)):
    expected = flops.num_parameters(model) - lookups - norms
    assert flops.num_matmul_parameters(model) == expected


class Mixer(nnx.Module):
  """A user's layer with a matrix of its own."""

  def __init__(self, dim, *, rngs):
    self.matrix = layers.param(
      rngs, (dim, dim), ("embed", None), jax.nn.initializers.ones
    )


class Wrapped(nnx.Module):
  def __init__(self, dim, *, rngs):
    self.inner = Mixer(dim, rngs=rngs)
    self.out = layers.Einsum(
      "btd,de->bte",
      (dim, 5),
      ("embed", None),
      init=jax.nn.initializers.ones,
      rngs=rngs,
    )


def test_a_layer_without_a_rule_is_not_counted_as_nothing():
  layer = Wrapped(4, rngs=nnx.Rngs(0))
  tokens = flops.Tokens(rows=1, length=10)
  with pytest.raises(NotImplementedError, match="Mixer.*'matrix'.*of_layer"):
    flops.of_layer(layer, tokens)

  class Known(Mixer):
    pass

  @flops.of_layer.register
  def _(layer: Known, tokens: flops.Tokens) -> flops.Flops:
    return flops.Flops(matmul=7.0 * tokens.length)

  layer.inner = Known(4, rngs=nnx.Rngs(0))
  assert flops.of_layer(layer, tokens).matmul == 70 + 2 * 10 * 4 * 5


def test_a_model_without_a_rule_has_unknown_utilization(caplog):
  made = utilization.of_all_devices(Mixer(4, rngs=nnx.Rngs(0)), {})
  assert made(1.0) == {}
  assert "MFU is unknown: no FLOPs rule for Mixer" in caplog.text


def test_utilization_of_this_machine_has_no_mfu():
  made = utilization.of_all_devices(build(), features())
  assert set(made(1.0)) == {"teraflops_per_device"}
