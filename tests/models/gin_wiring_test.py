"""What the families' files mean, and that every macro reaches every layer."""

import dataclasses
import math

import pytest

from t5x_lite import layers, models
from tests import model_files
from tests.models import (
  gin_linear_test,
  gin_mamba_test,
  gin_s4_test,
  gin_t5_test,
)


@dataclasses.dataclass(frozen=True)
class Facts:
  """What a family is, but for its sizes."""

  model: type = models.DecoderOnly
  heads: tuple[str, ...] = ()
  tied: bool = True
  tied_scale: float | None = 1.0  # None: 1 / sqrt(D)
  residual: type = layers.PreNorm
  norm: type = layers.LayerNorm
  epsilon: float = 1e-5
  norm_bias: bool = True
  input_norm: bool = False
  final_norm: bool = True
  causal: tuple[bool, ...] = (True,)
  positions: tuple[int, int] | None = None  # length and offset
  rotary: layers.Rotary | None = None  # of a head of 16
  use_bias: bool = True
  feed_forward: type = layers.FeedForward
  activation: str = "gelu"
  parallel: bool = False
  token_types: int | None = None
  dropout: float = 0.1
  hidden_dropout: float = 0.0  # within the feed-forward


GPT2 = Facts(positions=(1024, 0))
LLAMA = Facts(
  tied=False,
  norm=layers.RMSNorm,
  norm_bias=False,
  rotary=layers.Rotary(16),
  use_bias=False,
  feed_forward=layers.GatedFeedForward,
  activation="swish",
  dropout=0.0,
)
BERT = Facts(
  model=models.EncoderOnly,
  heads=("masked_lm", "next_sentence"),
  tied=True,
  residual=layers.PostNorm,
  epsilon=1e-12,
  input_norm=True,
  final_norm=False,
  causal=(False,),
  positions=(512, 0),
  activation="gelu_exact",
  token_types=2,
)
FACTS = {
  "gpt1": dataclasses.replace(
    GPT2, residual=layers.PostNorm, final_norm=False, positions=(512, 0)
  ),
  "gpt2": GPT2,
  "gpt3": dataclasses.replace(GPT2, positions=(2048, 0), dropout=0.0),
  "palm": dataclasses.replace(
    LLAMA,
    tied=True,
    tied_scale=None,
    norm=layers.LayerNorm,
    rotary=layers.Rotary(16, interleaved=True),
    parallel=True,
  ),
  "llama1": dataclasses.replace(LLAMA, epsilon=1e-6),
  "llama2": LLAMA,
  "llama3": dataclasses.replace(LLAMA, rotary=layers.Rotary(16, base=500000.0)),
  "llama3_1": dataclasses.replace(
    LLAMA,
    rotary=layers.Rotary(
      16, base=500000.0, scaling=layers.Llama3Scaling(8.0, 1.0, 4.0, 8192)
    ),
  ),
  "bert": BERT,
  "roberta": dataclasses.replace(
    BERT,
    heads=("masked_lm",),
    epsilon=1e-5,
    positions=(512, 2),
    token_types=1,
  ),
  "spanbert": dataclasses.replace(BERT, heads=("masked_lm",)),
  "bart": dataclasses.replace(
    BERT,
    model=models.EncoderDecoder,
    heads=(),
    epsilon=1e-5,
    causal=(False, True),
    positions=(1024, 2),
    token_types=None,
    hidden_dropout=0.1,
  ),
}


def only(values):
  """The value that all of them are."""
  values = list(values)
  assert values and all(value == values[0] for value in values), values
  return values[0]


def facts(model):
  """The facts of a model, which must hold in all of its stacks and layers."""
  stacks = list(model_files.stacks(model).values())
  parts = [model_files.sublayers(stack) for stack in stacks]
  everything = list(model_files.modules(model))
  attentions = [x for x in everything if isinstance(x, layers.Attention)]
  feed_forwards = [x for x in everything if isinstance(x, layers.FeedForward)]
  residuals = [x for x in everything if isinstance(x, layers.PreNorm)]
  norms = [x for x in everything if isinstance(x, layers.RMSNorm)]
  projections = [
    getattr(x, name)
    for x, names in (
      *((x, ("query", "key", "value", "out")) for x in attentions),
      *((x, ("wi", "wo")) for x in feed_forwards),
    )
    for name in names
  ]
  for x in attentions:
    assert x.scale == x.head_dim**-0.5
    assert x.soft_cap is None and x.query_norm is None
    assert not (x.causal and isinstance(x, layers.CrossAttention))
  scale = model.embedding.logits_scale
  head = getattr(model, "head", None)
  positions = only(
    s.positions and (s.positions.length, s.positions.offset) for s in stacks
  )
  types = getattr(model, "types", None)
  return Facts(
    model=type(model),
    heads=model.heads.names if hasattr(model, "heads") else (),
    tied=head is None,
    tied_scale=None if math.isclose(scale, model.dim**-0.5) else scale,
    residual=only(type(x) for x in residuals),
    norm=only(type(x) for x in norms),
    epsilon=only(x.epsilon for x in norms),
    norm_bias=only(x.bias is not None for x in norms),
    input_norm=only(s.input_norm is not None for s in stacks),
    final_norm=only(s.final_norm is not None for s in stacks),
    causal=tuple(p["attention"].causal for p in parts),
    positions=positions,
    rotary=only(
      x.rotary and dataclasses.replace(x.rotary, head_dim=16)
      for x in attentions
    ),
    use_bias=only(x.bias is not None for x in projections),
    feed_forward=only(type(x) for x in feed_forwards),
    activation=only(x.activation for x in feed_forwards),
    parallel=only(s.layers.names == ("parallel",) for s in stacks),
    token_types=types and types.table.shape[0],
    dropout=only(x.dropout for x in (*stacks, *residuals, *attentions)),
    hidden_dropout=only(x.dropout for x in feed_forwards),
  )


def of_family(name):
  return name.split("/")[0]


@pytest.mark.parametrize(
  "name", [n for n in model_files.SIZES if of_family(n) in FACTS]
)
def test_a_size_is_wired_as_its_family(name):
  assert facts(model_files.load(name)) == FACTS[of_family(name)]


def test_every_family_has_facts_or_is_a_t5():
  elsewhere = (gin_t5_test, gin_linear_test, gin_mamba_test, gin_s4_test)
  others = [family for test in elsewhere for family in test.FAMILIES]
  assert set(model_files.FAMILIES) == {*FACTS, *others}


def test_blocks_are_the_sublayers_of_the_paper_in_order():
  bart = model_files.load("bart/tiny")
  assert bart.encoder.layers.names == ("attention", "feed_forward")
  decoder = ("attention", "cross_attention", "feed_forward")
  assert bart.decoder.layers.names == decoder
  palm = model_files.load("palm/tiny").decoder.layers.parallel.sublayer
  assert isinstance(palm, layers.Parallel)
  assert palm.names == ("attention", "feed_forward")
  for name in ("gpt1", "gpt2", "gpt3", "llama1", "llama2", "llama3"):
    stack = model_files.load(f"{name}/tiny").decoder
    assert stack.layers.names == ("attention", "feed_forward")
