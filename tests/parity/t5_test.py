"""Our T5 against the one of `transformers`, with the same random weights."""

import pathlib
import types

import gin
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pallas_kernels.attention import relative
from t5x_lite import (
  checkpoints,
  decoding,
  losses,
  main,
  metrics,
  objectives,
)
from t5x_lite.interop import huggingface
from tests import tiny

torch = pytest.importorskip("torch", reason="parity needs PyTorch")
transformers = pytest.importorskip(
  "transformers", reason="parity needs transformers"
)
from tests.parity import training  # noqa: E402

pytestmark = pytest.mark.parity

GIN = pathlib.Path(__file__).parents[2] / "gin_configs"
VOCAB = 97
# Heads times head_dim is not dim, as in many published sizes.
SHAPE = {"DIM": 20, "HEADS": 3, "HEAD_DIM": 8, "HIDDEN": 36}
# Family file -> their model, settings of their config, layers.
FAMILIES = {
  "t5_1_0": ("T5", {"feed_forward_proj": "relu"}, (2, 2)),
  "t5_1_1": ("T5", {"feed_forward_proj": "gated-gelu"}, (2, 2)),
  "mt5": ("MT5", {}, (1, 1)),
  "byt5": ("T5", {"feed_forward_proj": "gated-gelu"}, (3, 1)),
  "umt5": ("UMT5", {}, (3, 2)),
}


def make_theirs(family):
  """Their model; every weight is random, also norms, biases and the head."""
  kind, settings, (encoder, decoder) = FAMILIES[family]
  tied = family == "t5_1_0"
  config = getattr(transformers, f"{kind}Config")(
    vocab_size=VOCAB,
    d_model=SHAPE["DIM"],
    num_heads=SHAPE["HEADS"],
    d_kv=SHAPE["HEAD_DIM"],
    d_ff=SHAPE["HIDDEN"],
    num_layers=encoder,
    num_decoder_layers=decoder,
    tie_word_embeddings=tied,
    decoder_start_token_id=0,
    **settings,
  )
  model = getattr(transformers, f"{kind}ForConditionalGeneration")(config)
  if not tied:
    # Transformers 5 ties all T5s and takes a published head for an exception;
    # umT5 asks the config again, when it runs, whether to scale its output.
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())
  generator = torch.Generator().manual_seed(0)
  for name, parameter in model.named_parameters():
    value = torch.randn(parameter.shape, generator=generator)
    if "layer_norm" in name:
      value = 1 + 0.3 * value
    elif "shared" not in name and "relative" not in name:
      value = value * parameter.shape[1] ** -0.5
    elif "shared" in name and tied:
      value = 0.3 * value  # else every token predicts itself
    parameter.data = value
  return model.eval()


def make_ours(family):
  """Our model's shapes, by its gin file."""
  encoder, decoder = FAMILIES[family][2]
  macros = {
    **SHAPE,
    "VOCAB_SIZE": VOCAB,
    "ENCODER_LAYERS": encoder,
    "DECODER_LAYERS": decoder,
    "DTYPE": "'float32'",
  }
  gin.clear_config(clear_constants=True)
  gin.add_config_file_search_path(str(GIN))
  gin.parse_config_files_and_bindings(
    [f"models/{family}.gin"], [f"{k} = {v}" for k, v in macros.items()]
  )
  constructor = gin.query_parameter("MODEL/macro.value").scoped_configurable_fn
  model = jax.eval_shape(lambda: constructor(rngs=nnx.Rngs(0)))
  gin.clear_config(clear_constants=True)
  return model


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request):
  """Their model, and ours with their weights."""
  theirs = make_theirs(request.param)
  ours = make_ours(request.param)
  return theirs, huggingface.from_state_dict(ours, theirs.state_dict())


@pytest.fixture(scope="module")
def batch():
  """Rows of other lengths, longer than the greatest distance with a bucket."""
  rng = np.random.default_rng(0)
  rows = [
    [(rng.integers(2, VOCAB, s), np.append(rng.integers(2, VOCAB, t), 1))]
    for s, t in ((150, 139), (3, 70), (97, 2))
  ]
  return objectives.Seq2Seq().convert(tiny.pack(rows, (150, 140)))


def run_theirs(model, batch):
  def tensor(name):
    return torch.from_numpy(np.asarray(batch[name], np.int64))

  labels = tensor("decoder_target_tokens")
  return model(
    input_ids=tensor("encoder_input_tokens"),
    attention_mask=(tensor("encoder_segment_ids") != 0).long(),
    decoder_attention_mask=(tensor("decoder_segment_ids") != 0).long(),
    # They shift the labels right themselves.
    labels=labels.masked_fill(tensor("decoder_segment_ids") == 0, -100),
  )


def test_logits(pair, batch):
  theirs, ours = pair
  with torch.no_grad():
    expected = run_theirs(theirs, batch).logits.numpy()
  logits = np.asarray(jax.jit(lambda m, b: m(b))(ours, batch))
  real = batch["decoder_segment_ids"] != 0
  assert expected[real].std() > 0.2
  assert np.abs(logits - expected)[real].max() < 1e-4


def test_loss_and_gradients_of_every_parameter(pair, batch):
  theirs, ours = pair
  theirs.zero_grad()
  expected = run_theirs(theirs, batch).loss
  expected.backward()
  objective = objectives.Seq2Seq(z_loss=0.0)

  @jax.jit
  def run(model):
    def loss(model):
      total, values = objective.loss(model, batch, None)
      return total / objective.normalizer(batch), values

    return jax.value_and_grad(loss, has_aux=True)(model)

  (value, values), grads = run(ours)
  assert float(value) == pytest.approx(expected.item(), rel=1e-5)
  assert metrics.values(values)["loss"] == pytest.approx(float(value), rel=1e-5)
  grads = huggingface.to_state_dict(grads)
  for name, parameter in theirs.named_parameters():
    theirs_grad = parameter.grad.numpy()
    size = np.abs(theirs_grad).max()
    assert size > 1e-6, name
    error = np.abs(grads[name] - theirs_grad).max()
    assert error < 1e-4 * max(size, 1.0) and error < 1e-2 * size, name


def test_five_steps_of_adamw(batch):
  pair = types.SimpleNamespace(theirs=make_theirs("t5_1_0"))
  pair.ours = huggingface.from_state_dict(
    make_ours("t5_1_0"), pair.theirs.state_dict()
  )
  objective = objectives.Seq2Seq(z_loss=0.0)

  def loss(model, batch):
    return objective.loss(model, batch, None)[0] / objective.normalizer(batch)

  training.check(
    pair,
    lambda model, _: run_theirs(model, batch).loss,
    lambda _: batch,
    loss,
    rate=2e-3,
  )


def test_weights_survive_the_way_there_and_back(pair):
  theirs, ours = pair
  state_dict = huggingface.to_state_dict(ours)
  assert state_dict.keys() == theirs.state_dict().keys()
  for name, tensor in theirs.state_dict().items():
    np.testing.assert_array_equal(state_dict[name], tensor.numpy(), name)
  tensors = {k: torch.tensor(v) for k, v in state_dict.items()}
  theirs.load_state_dict(tensors, strict=True)


def test_the_command_converts_there_and_back(pair, batch, tmp_path, capsys):
  theirs, ours = pair
  directory, workdir = tmp_path / "theirs", tmp_path / "ours"
  theirs.save_pretrained(directory, max_shard_size="20KB")
  capsys.readouterr()
  argv = ["convert", "--gin_file=runs/convert.gin"]
  assert not main.main(
    [*argv, f"--workdir={workdir}", f"--gin.SOURCE={directory}"]
  )
  found = checkpoints.restore_params(workdir, jax.eval_shape(lambda: ours))
  tiny.assert_close(found, ours, rtol=0, atol=0)
  back = [f"--workdir={tmp_path / 'back'}", f"--gin.SOURCE={workdir}"]
  assert not main.main([*argv, *back, "--gin.TO=huggingface"])
  assert capsys.readouterr().err == ""
  again, loading = type(theirs).from_pretrained(
    tmp_path / "back", output_loading_info=True
  )
  assert not any(loading.values()), loading
  # Transformers 5 sets it, and makes umT5 scale what must not be scaled.
  again.config.tie_word_embeddings = theirs.config.tie_word_embeddings
  with torch.no_grad():
    expected = run_theirs(theirs, batch).logits
    logits = run_theirs(again.eval(), batch).logits
  assert torch.equal(logits, expected)


def test_greedy_generation_token_for_token(pair, batch):
  theirs, ours = pair
  features = {
    name: batch[name]
    for name in ("encoder_input_tokens", "encoder_segment_ids")
  }
  decoder = decoding.Decoder(max_length=40, eos=1, start=0)
  decoded = jax.jit(lambda m, b: decoder(m, b))(ours, features).best
  tokens = torch.from_numpy(batch["encoder_input_tokens"].astype(np.int64))
  with torch.no_grad():
    expected = theirs.generate(
      tokens,
      attention_mask=(tokens != 0).long(),
      max_new_tokens=40,
      do_sample=False,
      num_beams=1,
    )[:, 1:].numpy()
  ours_tokens = np.asarray(decoded.tokens)[:, : expected.shape[1]]
  np.testing.assert_array_equal(ours_tokens, expected)
  assert len(np.unique(expected)) > 5


@pytest.mark.parametrize(
  "rule",
  [(32, 128), (8, 10), (16, 64), (64, 256), (32, 100), (20, 50), (12, 7)],
)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_buckets_of_all_distances(rule, bidirectional):
  buckets, limit = rule
  distance = np.arange(-1000, 1001)
  attention = transformers.models.t5.modeling_t5.T5Attention
  expected = attention._relative_position_bucket(
    torch.from_numpy(distance), bidirectional, buckets, limit
  ).numpy()
  table = relative.bucket_of_distance(buckets, limit, bidirectional)
  ours = table[np.clip(distance, -limit, limit) + limit]
  np.testing.assert_array_equal(ours, expected)


def test_label_smoothing_is_theirs_up_to_its_entropy():
  rng = np.random.default_rng(0)
  logits = rng.standard_normal((5, VOCAB)).astype(np.float32)
  targets = rng.integers(0, VOCAB, 5)
  # PyTorch gives the target a share of what it gives to all tokens.
  smoothing = 0.1
  theirs = torch.nn.functional.cross_entropy(
    torch.from_numpy(logits),
    torch.from_numpy(targets),
    label_smoothing=smoothing * VOCAB / (VOCAB - 1),
    reduction="none",
  ).numpy()
  ours = losses.cross_entropy(
    jnp.asarray(logits), jnp.asarray(targets), label_smoothing=smoothing
  )
  low = smoothing / (VOCAB - 1)
  entropy = -0.9 * np.log(0.9) - (VOCAB - 1) * low * np.log(low)
  np.testing.assert_allclose(ours.cross_entropy, theirs - entropy, atol=1e-5)
