"""Every macro of a model file reaches every layer; heads go on any model."""

import gin
import jax
import numpy as np
import pytest

from t5x_lite import layers
from tests import model_files

# A value for a macro, and the attribute that must have it wherever it is.
SIMPLE = {
  "DTYPE": ("'float32'", "dtype", "float32"),
  "REMAT": ("'full'", "remat", "full"),
  "REMAT_GROUP": ("2", "remat_group", 2),
  "UNROLL": ("2", "unroll", 2),
  "DROPOUT": ("0.25", "dropout", 0.25),
  "EPSILON": ("0.5", "epsilon", 0.5),
  "MAX_LENGTH": ("33", "length", 33),
  "POSITION_OFFSET": ("5", "offset", 5),
  "VOCAB_SIZE": ("77", "vocab_size", 77),
  "DIM": ("24", "dim", 24),
  "HEADS": ("6", "heads", 6),
  "KV_HEADS": ("3", "kv_heads", 3),
  "HEAD_DIM": ("10", "head_dim", 10),
  "HIDDEN": ("18", None, 18),
  "STATE_DIM": ("6", "state_dim", 6),
  "EXPAND": ("5", "expand", 5),
  "CONVOLUTION_WIDTH": ("5", "width", 5),
  "GROUPS": ("2", "groups", 2),
  "MAMBA_HEAD_DIM": ("12", None, 12),
  "TOKEN_TYPES": ("3", None, 3),
  "NUM_LAYERS": ("4", "num_layers", 4),
  "ENCODER_LAYERS": ("6", None, 6),
  "DECODER_LAYERS": ("4", None, 4),
  "ROPE_BASE": ("50.0", None, 50.0),
}
# Classes and constructors.
OTHERS = {
  *("MODEL", "ATTENTION", "BIAS", "FEED_FORWARD", "HEAD", "RESIDUAL"),
  *("FINAL_NORM", "INIT", "TASK_HEADS", "ROPE_SCALING", "DECAY", "MIXER"),
}
# Families that drop nothing within the feed-forward.
UNDROPPED = (
  *("gpt1", "gpt2", "gpt3", "bert", "bert_linear", "roberta", "spanbert"),
)


def smallest(family):
  tiny = f"{family}/tiny"
  return tiny if tiny in model_files.SIZES else f"{family}/small"


@pytest.mark.parametrize("family", model_files.FAMILIES)
def test_numbers_reach_every_layer(family):
  name = smallest(family)
  bound = model_files.macros(name)
  assert bound <= {*SIMPLE, *OTHERS}
  bindings = [f"{m} = {SIMPLE[m][0]}" for m in SIMPLE if m in bound]
  model = model_files.load(name, bindings=tuple(bindings))
  everything = list(model_files.modules(model))
  for macro in bound & set(SIMPLE):
    _, attribute, value = SIMPLE[macro]
    having = [x for x in everything if attribute and _has(x, attribute)]
    if macro in ("HEADS", "HEAD_DIM") and "MAMBA_HEAD_DIM" in bound:
      having = [x for x in having if not isinstance(x, layers.Mamba2)]
    if macro == "DROPOUT":
      # A stack, its residuals and sublayers; a Mamba drops nothing inside.
      assert len(having) >= (2 if family in ("mamba", "mamba2") else 4)
      for x in having:
        quiet = family in UNDROPPED and isinstance(x, layers.FeedForward)
        quiet = quiet or isinstance(x, layers.Classifier)
        assert x.dropout == (0.0 if quiet else value), x
    elif attribute:
      assert having, macro
      assert {getattr(x, attribute) for x in having} == {value}, macro
  for x in everything:
    if isinstance(x, layers.FeedForward):
      assert x.wi.kernel.shape[-2:] == (24, 18)
    if isinstance(x, layers.TokenTypes):
      assert x.table.shape == (3, 24)
    if isinstance(x, layers.Attention) and "ROPE_BASE" in bound:
      assert x.rotary.base == 50.0
    if isinstance(x, layers.Mamba2) and "MAMBA_HEAD_DIM" in bound:
      assert (x.head_dim, x.heads) == (12, 4)
  if "ENCODER_LAYERS" in bound:
    assert (model.encoder.num_layers, model.decoder.num_layers) == (6, 4)


def _has(module, attribute):
  value = getattr(module, attribute, None)
  return value is not None and not isinstance(value, layers.Heads)


# A family of each wiring, and the standard deviations of its tables.
TABLES = {
  "gpt2": {"tokens": 0.02, "positions": 0.01},
  "palm": {"tokens": 1.0},
  "llama2": {"tokens": 0.02},
  "bert": {"tokens": 0.02, "positions": 0.02, "types": 0.02},
  "bart": {"tokens": 0.02, "positions": 0.02},
}


@pytest.mark.parametrize("family", TABLES)
def test_initializers_reach_every_matrix(family):
  """With a standard deviation of 0, nothing random is left but the tables."""
  model = model_files.build(
    smallest(family),
    bindings=("INIT = @layers.FixedNormal()", "layers.FixedNormal.std = 0.0"),
  )
  tables = set()
  for path, x in jax.tree_util.tree_flatten_with_path(model)[0]:
    names = jax.tree_util.keystr(path)
    table = [name for name in TABLES[family] if name in names]
    if table:
      tables.add(table[0])
      expected = pytest.approx(TABLES[family][table[0]], rel=0.2)
      assert np.std(x) == expected, names
    else:
      np.testing.assert_array_equal(x, float("scale" in names), err_msg=names)
  assert tables == set(TABLES[family])


def test_classes_can_be_replaced():
  rezero = model_files.load(
    "gpt2/tiny", bindings=("RESIDUAL = @layers.ReZero", "FINAL_NORM = None")
  )
  assert isinstance(rezero.decoder.layers.attention, layers.ReZero)
  assert rezero.decoder.final_norm is None
  scaled = model_files.load(
    "llama2/tiny",
    bindings=(
      "ROPE_SCALING = @layers.LinearScaling()",
      "layers.LinearScaling.factor = 4.0",
    ),
  )
  rotary = scaled.decoder.layers.attention.sublayer.rotary
  assert rotary.scaling == layers.LinearScaling(4.0)
  untied = model_files.load(
    "gpt2/tiny", bindings=("HEAD = @layers.LogitsHead",)
  )
  assert untied.head.kernel.shape == (untied.dim, untied.vocab_size)


@pytest.mark.parametrize("name", model_files.WIRINGS + model_files.SIZES)
def test_a_model_file_binds_a_model_and_macros_and_nothing_else(name):
  model_files.parse(name)
  scopes = set()
  for scope, selector in gin.config._CONFIG:
    scopes.add(scope)
    module = selector.rpartition(".")[0]
    assert module in ("gin", "t5x_lite.layers", "t5x_lite.models") or (
      module.startswith("t5x_lite.layers.")
    ), selector
  gin.clear_config(clear_constants=True)
  macros = {s for s in scopes if s.isupper()}
  assert "MODEL" in macros
  assert macros <= {*SIMPLE, *OTHERS}
  assert scopes - macros <= {"", "encoder", "decoder", "next_sentence"}


# Of each head file: the head's name and class, and its number of classes.
HEADS = {
  "heads/classification": ("classification", layers.Classifier, 3),
  "heads/regression": ("classification", layers.Classifier, 1),
  "heads/tokens": ("tokens", layers.TokenClassifier, 3),
  "heads/span": ("span", layers.TokenClassifier, 2),
  "heads/gpt_classification": ("classification", layers.TokenClassifier, 3),
}


@pytest.mark.parametrize("head", model_files.HEADS)
@pytest.mark.parametrize(
  "family", ["bert", "roberta", "gpt1", "palm", "llama3"]
)
def test_heads_go_on_any_model_that_has_some(family, head):
  name, kind, classes = HEADS[head]
  bindings = ["DROPOUT = 0.25"]
  if "NUM_CLASSES = %gin.REQUIRED" in model_files.text(head):
    bindings.append("NUM_CLASSES = 3")
  names = (f"{family}/tiny", head)
  model = model_files.load(*names, bindings=tuple(bindings))
  assert model.heads.names == (name,)
  built = getattr(model.heads, name)
  assert type(built) is kind
  assert built.num_classes == classes
  assert built.out.kernel.shape == (model.dim, classes)
  assert built.dropout == (0.0 if head == "heads/span" else 0.25)
