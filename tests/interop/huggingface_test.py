"""State dicts of transformers without transformers: layouts and complaints."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from t5x_lite import (
  errors,
  layers,
  objectives,
  optimizers,
  partitioning,
  trainer,
)
from t5x_lite.interop import huggingface
from tests import tiny

KINDS = {
  "1.1": {"decoder_layers": 3},
  "1.0": {"tied": True, "gated": False},
  "umt5": {"biased": True},
}


@pytest.fixture(params=KINDS)
def kind(request):
  return KINDS[request.param]


def abstract(**kwargs):
  constructor = tiny.t5(**kwargs)
  return jax.eval_shape(lambda: constructor(rngs=nnx.Rngs(0)))


def test_there_and_back(kind):
  model = tiny.fill(tiny.t5(**kind))
  state_dict = huggingface.to_state_dict(model)
  restored = huggingface.from_state_dict(abstract(**kind), state_dict)
  tiny.assert_close(restored, model, rtol=0, atol=0)
  assert jax.tree.structure(restored) == jax.tree.structure(model)


def test_names_shapes_and_layouts():
  model = tiny.fill(tiny.t5(decoder_layers=3))
  state_dict = huggingface.to_state_dict(model)
  attention = model.decoder.layers.attention.sublayer
  prefix = "decoder.block.2.layer.0.SelfAttention"
  np.testing.assert_array_equal(
    state_dict[f"{prefix}.q.weight"],
    np.asarray(attention.query.kernel[...])[2].reshape(16, 32).T,
  )
  np.testing.assert_array_equal(
    state_dict[f"{prefix}.o.weight"],
    np.asarray(attention.out.kernel[...])[2].reshape(32, 16).T,
  )
  feed_forward = model.encoder.layers.feed_forward.sublayer
  np.testing.assert_array_equal(
    state_dict["encoder.block.1.layer.1.DenseReluDense.wi_0.weight"],
    np.asarray(feed_forward.gate.kernel[...])[1].T,
  )
  assert state_dict["lm_head.weight"].shape == (tiny.VOCAB, 16)
  copies = ("shared", "encoder.embed_tokens", "decoder.embed_tokens")
  for name in copies:
    np.testing.assert_array_equal(
      state_dict[f"{name}.weight"], model.embedding.tokens[...]
    )
  per_block = {"encoder": 9, "decoder": 14}
  blocks = 2 * per_block["encoder"] + 3 * per_block["decoder"]
  others = len(copies) + 2 + 2 + 1  # final norms, tables, the head
  assert len(state_dict) == blocks + others


def test_every_number_has_one_place(kind):
  model = tiny.fill(tiny.t5(**kind))
  leaves, treedef = jax.tree.flatten(model)
  stops = np.cumsum([x.size for x in leaves])
  numbered = [
    jnp.arange(stop - x.size, stop, dtype=jnp.float32).reshape(x.shape)
    for x, stop in zip(leaves, stops, strict=True)
  ]
  state_dict = huggingface.to_state_dict(treedef.unflatten(numbered))
  for copy in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"):
    del state_dict[copy]
  if kind.get("tied"):
    del state_dict["lm_head.weight"]
  everything = np.sort(np.concatenate([x.ravel() for x in state_dict.values()]))
  np.testing.assert_array_equal(everything, np.arange(stops[-1]))


@pytest.fixture
def state_dict():
  return huggingface.to_state_dict(tiny.fill(tiny.t5()))


def refuse(state_dict, *patterns, **kind):
  with pytest.raises(errors.CheckpointError) as caught:
    huggingface.from_state_dict(abstract(**kind), state_dict)
  for pattern in patterns:
    assert pattern in str(caught.value)


def test_missing_unused_and_misshaped_tensors_are_named(state_dict):
  name = "encoder.block.1.layer.0.SelfAttention.k.weight"
  state_dict["encoder.block.1.layer.0.SelfAttention.key"] = state_dict.pop(name)
  final = "decoder.final_layer_norm.weight"
  state_dict[final] = state_dict[final][:5]
  refuse(
    state_dict,
    f"missing tensors:\n  {name}\n",
    "no place for:\n  encoder.block.1.layer.0.SelfAttention.key\n",
    f"{final} is (5,), not (16,), for decoder.final_norm.scale",
  )


def test_long_lists_are_cut(state_dict):
  refuse(state_dict, "and 18 more", decoder_layers=1, encoder_layers=1)


def test_a_head_of_its_own_does_not_fit_a_tied_model(state_dict):
  refuse(state_dict, "lm_head.weight differs from shared.weight", tied=True)
  state_dict["lm_head.weight"] = state_dict["shared.weight"]
  tied = huggingface.from_state_dict(abstract(tied=True), state_dict)
  assert tied.head is None
  del state_dict["lm_head.weight"]
  refuse(state_dict, "missing tensors:\n  lm_head.weight")


def test_copies_of_the_embedding_must_agree(state_dict):
  name = "encoder.embed_tokens.weight"
  state_dict[name] = state_dict[name] + 1
  refuse(state_dict, f"ties:\n  {name} differs from shared.weight")


def test_a_tensor_that_published_weights_hold_in_vain_is_ignored(state_dict):
  name = (
    "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
  )
  state_dict[name] = np.ones((8, 4))
  huggingface.from_state_dict(abstract(), state_dict)


def test_parameters_land_in_the_shardings_of_the_run(state_dict):
  run = trainer.Trainer(
    tiny.t5(),
    objectives.Seq2Seq(),
    optimizers.adafactor(),
    partitioning.Partitioner({"data": 2, "model": 4}, {"mlp": "model"}),
  )
  model = huggingface.from_state_dict(run.abstract.model, state_dict)
  for array, sharding in zip(
    jax.tree.leaves(model), jax.tree.leaves(run.shardings.model), strict=True
  ):
    assert array.sharding.is_equivalent_to(sharding, array.ndim)
  wi = model.encoder.layers.feed_forward.sublayer.wi.kernel[...]
  assert wi.addressable_shards[0].data.shape == (2, 16, 8)


def test_a_model_of_another_family_is_refused():
  class Twisted(layers.FeedForward):
    def __init__(self, dim, *, rngs):
      super().__init__(dim, hidden=4, rngs=rngs)
      self.twist = layers.RMSNorm(dim, rngs=rngs)

  block = tiny.partial(layers.Block, sublayers={"feed_forward": Twisted})
  stack = tiny.partial(layers.Stack, num_layers=1, block=block)
  constructor = tiny.partial(tiny.t5(), encoder=stack)
  model = jax.eval_shape(lambda: constructor(rngs=nnx.Rngs(0)))
  with pytest.raises(
    errors.ConfigError, match=r"sublayer\.twist\.scale has no"
  ):
    huggingface.from_state_dict(model, {})


def test_import_needs_neither_torch_nor_transformers():
  code = (
    "import sys; from t5x_lite.interop import huggingface; "
    "assert not {'torch', 'transformers', 'tensorflow'} & set(sys.modules)"
  )
  subprocess.run([sys.executable, "-c", code], check=True)
