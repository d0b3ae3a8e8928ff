"""Every model file: it binds a model, and the model has its published size."""

import pathlib
import re

import gin
import jax
import pytest
from flax import nnx

from t5x_lite import models

GIN = pathlib.Path(__file__).parents[1] / "gin_configs"

# Published sizes: parameters, encoder and decoder layers, width, heads, head
# width, feed-forward width, vocabulary.
PUBLISHED = {
  "t5_1_0/small": (60_506_624, 6, 6, 512, 8, 64, 2048, 32128),
  "t5_1_0/base": (222_903_552, 12, 12, 768, 12, 64, 3072, 32128),
  "t5_1_0/large": (737_668_096, 24, 24, 1024, 16, 64, 4096, 32128),
  "t5_1_0/3b": (2_851_598_336, 24, 24, 1024, 32, 128, 16384, 32128),
  "t5_1_0/11b": (11_307_321_344, 24, 24, 1024, 128, 128, 65536, 32128),
  "t5_1_1/small": (76_961_152, 8, 8, 512, 6, 64, 1024, 32128),
  "t5_1_1/base": (247_577_856, 12, 12, 768, 12, 64, 2048, 32128),
  "t5_1_1/large": (783_150_080, 24, 24, 1024, 16, 64, 2816, 32128),
  "t5_1_1/xl": (2_849_757_184, 24, 24, 2048, 32, 64, 5120, 32128),
  "t5_1_1/xxl": (11_135_332_352, 24, 24, 4096, 64, 64, 10240, 32128),
  "mt5/small": (300_176_768, 8, 8, 512, 6, 64, 1024, 250112),
  "mt5/base": (582_401_280, 12, 12, 768, 12, 64, 2048, 250112),
  "mt5/large": (1_229_581_312, 24, 24, 1024, 16, 64, 2816, 250112),
  "mt5/xl": (3_742_619_648, 24, 24, 2048, 32, 64, 5120, 250112),
  "mt5/xxl": (12_921_057_280, 24, 24, 4096, 64, 64, 10240, 250112),
  "byt5/small": (299_637_760, 12, 4, 1472, 6, 64, 3584, 384),
  "byt5/base": (581_653_248, 18, 6, 1536, 12, 64, 3968, 384),
  "byt5/large": (1_228_183_552, 36, 12, 1536, 16, 64, 3840, 384),
  "byt5/xl": (3_737_801_728, 36, 12, 2560, 32, 64, 6720, 384),
  "byt5/xxl": (12_906_899_328, 36, 12, 4672, 64, 64, 12352, 384),
  "umt5/small": (306_601_984, 8, 8, 512, 6, 64, 1024, 256384),
  "umt5/base": (592_043_520, 12, 12, 768, 12, 64, 2048, 256384),
  "umt5/large": (1_242_449_920, 24, 24, 1024, 16, 64, 2816, 256384),
  "umt5/xl": (3_768_356_864, 24, 24, 2048, 32, 64, 5120, 256384),
  "umt5/xxl": (12_972_531_712, 24, 24, 4096, 64, 64, 10240, 256384),
}
for _size in ("small", "base", "large", "xl", "xxl"):
  for _family in ("t5_1_1_lm", "flan_t5"):
    PUBLISHED[f"{_family}/{_size}"] = PUBLISHED[f"t5_1_1/{_size}"]

SIZES = sorted(
  str(path.relative_to(GIN / "models").with_suffix(""))
  for path in GIN.glob("models/*/*.gin")
)
FAMILIES = sorted(path.stem for path in GIN.glob("models/*.gin"))


@pytest.fixture(autouse=True)
def clean_gin():
  gin.clear_config(clear_constants=True)
  gin.add_config_file_search_path(str(GIN))
  yield
  gin.clear_config(clear_constants=True)


def parse(name, *bindings):
  gin.parse_config_files_and_bindings(
    [f"models/{name}.gin"], bindings, finalize_config=False
  )


def load(name, *bindings):
  """Parses a model file and returns its model, of shapes only."""
  parse(name, *bindings)
  model = gin.query_parameter("MODEL/macro.value").scoped_configurable_fn
  return jax.eval_shape(lambda: model(rngs=nnx.Rngs(0)))


def count(model):
  return sum(x.size for x in jax.tree.leaves(model))


def test_every_published_size_has_a_file_and_nothing_else_claims_to_be_one():
  unpublished = set(SIZES) - set(PUBLISHED)
  assert set(PUBLISHED) <= set(SIZES)
  for name in unpublished:
    text = (GIN / f"models/{name}.gin").read_text()
    assert "Not a published size" in text, name


@pytest.mark.parametrize("name", SIZES)
def test_parameter_count_is_the_published_and_the_written_one(name):
  model = load(name)
  written = (GIN / f"models/{name}.gin").read_text().splitlines()[0]
  match = re.match(r"# ([\d,]+) parameters\b", written)
  assert count(model) == int(match.group(1).replace(",", ""))
  if name in PUBLISHED:
    assert count(model) == PUBLISHED[name][0]


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_shape_is_the_published_one(name):
  _, encoder, decoder, dim, heads, head_dim, hidden, vocab = PUBLISHED[name]
  model = load(name)
  assert isinstance(model, models.EncoderDecoder)
  assert model.embedding.tokens.shape == (vocab, dim)
  for stack, layers in ((model.encoder, encoder), (model.decoder, decoder)):
    attention = stack.layers.attention.sublayer
    assert attention.query.kernel.shape == (layers, dim, heads, head_dim)
    assert attention.scale == 1.0
    wi = stack.layers.feed_forward.sublayer.wi
    assert wi.kernel.shape == (layers, dim, hidden)
  assert model.decoder.layers.cross_attention.sublayer.scale == 1.0


@pytest.mark.parametrize("name", SIZES)
def test_semantics_of_the_family(name):
  family = name.split("/")[0]
  model = load(name)
  assert model.dtype == "bfloat16"
  for stack, causal in ((model.encoder, False), (model.decoder, True)):
    attention = stack.layers.attention.sublayer
    assert attention.causal is causal
    owner = attention if family == "umt5" else stack
    assert owner.bias.bidirectional is not causal
    assert (owner.bias.buckets, owner.bias.max_distance) == (32, 128)
    assert (stack.bias is None) == (family == "umt5")
    feed_forward = stack.layers.feed_forward.sublayer
    old = family == "t5_1_0"
    assert feed_forward.activation == ("relu" if old else "gelu")
    assert hasattr(feed_forward, "gate") != old
    assert stack.layers.names[-1] == "feed_forward"
  assert not model.decoder.layers.cross_attention.sublayer.causal
  assert (model.head is None) == (family == "t5_1_0")


@pytest.mark.parametrize("family", ["t5_1_0", "t5_1_1", "umt5"])
def test_macros_reach_every_layer(family):
  size = "tiny" if family != "umt5" else "small"
  bindings = ("DROPOUT = 0.25", "REMAT = 'full'", "UNROLL = 2")
  bindings += ("DTYPE = 'float32'",)
  model = load(f"{family}/{size}", *bindings)
  assert model.dtype == "float32"
  for stack in (model.encoder, model.decoder):
    assert (stack.remat, stack.unroll, stack.dropout) == ("full", 2, 0.25)
    for name in stack.layers.names:
      residual = getattr(stack.layers, name)
      assert residual.dropout == residual.sublayer.dropout == 0.25


@pytest.mark.parametrize("name", FAMILIES + SIZES)
def test_a_model_file_binds_a_model_and_macros_and_nothing_else(name):
  parse(name)
  scopes = set()
  for (scope, selector), _ in gin.config._CONFIG.items():
    scopes.add(scope)
    module = selector.rpartition(".")[0]
    assert module in ("gin", "t5x_lite.layers", "t5x_lite.models") or (
      module.startswith("t5x_lite.layers.")
    ), selector
  macros = {s for s in scopes if s.isupper()}
  assert macros <= {
    *("MODEL", "VOCAB_SIZE", "DTYPE", "DROPOUT", "REMAT", "UNROLL"),
    *("ATTENTION", "BIAS", "HEAD", "FEED_FORWARD"),
    *("DIM", "HEADS", "HEAD_DIM", "HIDDEN"),
    *("ENCODER_LAYERS", "DECODER_LAYERS"),
  }
  assert scopes - macros <= {"", "encoder", "decoder"}
