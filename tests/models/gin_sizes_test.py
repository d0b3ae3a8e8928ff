"""Every size's file, of all families: counts and shapes of its source."""

import re

import pytest

from tests import model_files
from tests.models import gin_mamba_test, gin_t5_test

# Parameters, layers of each stack, width, heads, heads of keys and values, head
# width, feed-forward width, vocabulary, rows of the position table.
#
# Counts are those of the published weights, as `transformers` counts them with
# each tied matrix once: BertForPreTraining, RobertaForMaskedLM (RobertaModel is
# 124,645,632 and 355,359,744 with a pooler, which pre-training has not),
# BertForMaskedLM for SpanBERT.  PaLM and GPT-3 have no published weights; see
# below.  Nor has RetNet: its counts are by formula in gin_linear_test.
PUBLISHED = {
  "gpt1/base": (116_534_784, 12, 768, 12, 12, 64, 3072, 40478, 512),
  "gpt2/small": (124_439_808, 12, 768, 12, 12, 64, 3072, 50257, 1024),
  "gpt2/medium": (354_823_168, 24, 1024, 16, 16, 64, 4096, 50257, 1024),
  "gpt2/large": (774_030_080, 36, 1280, 20, 20, 64, 5120, 50257, 1024),
  "gpt2/xl": (1_557_611_200, 48, 1600, 25, 25, 64, 6400, 50257, 1024),
  "gpt3/125m": (125_226_240, 12, 768, 12, 12, 64, 3072, 50257, 2048),
  "gpt3/350m": (355_871_744, 24, 1024, 16, 16, 64, 4096, 50257, 2048),
  "gpt3/760m": (760_300_032, 24, 1536, 16, 16, 96, 6144, 50257, 2048),
  "gpt3/1_3b": (1_315_723_264, 24, 2048, 16, 16, 128, 8192, 50257, 2048),
  "gpt3/2_7b": (2_651_553_280, 32, 2560, 32, 32, 80, 10240, 50257, 2048),
  "gpt3/6_7b": (6_658_404_352, 32, 4096, 32, 32, 128, 16384, 50257, 2048),
  "gpt3/13b": (12_853_386_240, 40, 5120, 40, 40, 128, 20480, 50257, 2048),
  "gpt3/175b": (174_604_259_328, 96, 12288, 96, 96, 128, 49152, 50257, 2048),
  "palm/8b": (8_632_012_800, 32, 4096, 16, 1, 256, 16384, 256000, None),
  "palm/62b": (62_495_662_080, 64, 8192, 32, 1, 256, 32768, 256000, None),
  "palm/540b": (540_356_474_880, 118, 18432, 48, 1, 256, 73728, 256000, None),
  "llama1/7b": (6_738_415_616, 32, 4096, 32, 32, 128, 11008, 32000, None),
  "llama1/13b": (13_015_864_320, 40, 5120, 40, 40, 128, 13824, 32000, None),
  "llama1/33b": (32_528_943_616, 60, 6656, 52, 52, 128, 17920, 32000, None),
  "llama1/65b": (65_285_660_672, 80, 8192, 64, 64, 128, 22016, 32000, None),
  "llama2/70b": (68_976_648_192, 80, 8192, 64, 8, 128, 28672, 32000, None),
  "llama3/8b": (8_030_261_248, 32, 4096, 32, 8, 128, 14336, 128256, None),
  "llama3/70b": (70_553_706_496, 80, 8192, 64, 8, 128, 28672, 128256, None),
  "llama3_1/405b": (
    *(405_853_388_800, 126, 16384, 128, 8, 128, 53248, 128256, None),
  ),
  "retnet/1_3b": (1_311_086_592, 24, 2048, 8, 8, 256, 4096, 50257, None),
  "retnet/2_7b": (2_645_573_120, 32, 2560, 10, 10, 256, 5120, 50257, None),
  "retnet/6_7b": (6_648_836_096, 32, 4096, 16, 16, 256, 8192, 50257, None),
  "bert/base_uncased": (*(110_106_428, 12, 768, 12, 12, 64, 3072, 30522, 512),),
  "bert/large_uncased": (
    *(336_226_108, 24, 1024, 16, 16, 64, 4096, 30522, 512),
  ),
  "bert/base_cased": (108_932_934, 12, 768, 12, 12, 64, 3072, 28996, 512),
  "bert/large_cased": (334_661_958, 24, 1024, 16, 16, 64, 4096, 28996, 512),
  "roberta/base": (124_697_433, 12, 768, 12, 12, 64, 3072, 50265, 514),
  "roberta/large": (355_412_057, 24, 1024, 16, 16, 64, 4096, 50265, 514),
  "spanbert/base": (108_340_804, 12, 768, 12, 12, 64, 3072, 28996, 512),
  "spanbert/large": (333_610_308, 24, 1024, 16, 16, 64, 4096, 28996, 512),
  "bart/base": (139_420_416, 6, 768, 12, 12, 64, 3072, 50265, 1026),
  "bart/large": (406_291_456, 12, 1024, 16, 16, 64, 4096, 50265, 1026),
}
for _same, _as in {
  "llama2/7b": "llama1/7b",
  "llama2/13b": "llama1/13b",
  "llama3_1/8b": "llama3/8b",
  "llama3_1/70b": "llama3/70b",
}.items():
  PUBLISHED[_same] = PUBLISHED[_as]

# Billions of parameters: Brown et al. 2020, table D.1.
GPT3 = {
  "125m": 0.125,
  "350m": 0.356,
  "760m": 0.760,
  "1_3b": 1.32,
  "2_7b": 2.65,
  "6_7b": 6.66,
  "13b": 12.9,
  "175b": 175,
}
# Billions of parameters: Chowdhery et al. 2022, table 1.
PALM = {"8b": 8.63, "62b": 62.50, "540b": 540.35}


def test_every_published_size_has_a_file_and_nothing_else_claims_to_be_one():
  others = (gin_t5_test, gin_mamba_test)
  published = {*PUBLISHED}.union(*(other.PUBLISHED for other in others))
  assert published <= set(model_files.SIZES)
  for name in model_files.SIZES:
    lines = model_files.text(name).splitlines()
    claims = "Not a published size" not in model_files.text(name)
    assert claims == (name in published), name
    assert not claims or any(x.startswith("# Source: ") for x in lines), name


@pytest.mark.parametrize("name", model_files.SIZES)
def test_parameter_count_is_the_written_one(name):
  written = model_files.text(name).splitlines()[0]
  number = re.match(r"# ([\d,]+) parameters\b", written).group(1)
  model = model_files.load(name)
  assert model_files.count(model) == int(number.replace(",", ""))


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_shape_is_the_published_one(name):
  total, depth, dim, heads, kv_heads, head_dim, hidden, vocab, rows = PUBLISHED[
    name
  ]
  model = model_files.load(name)
  assert model_files.count(model) == total
  assert (model.dim, model.vocab_size) == (dim, vocab)
  assert model.embedding.tokens.shape == (vocab, dim)
  for stack in model_files.stacks(model).values():
    parts = model_files.sublayers(stack)
    feed_forward = parts.pop("feed_forward")
    assert feed_forward.wi.kernel.shape == (depth, dim, hidden)
    for attention in parts.values():
      assert attention.query.kernel.shape == (depth, dim, heads, head_dim)
      assert attention.key.kernel.shape == (depth, dim, kv_heads, head_dim)
    table = stack.positions and stack.positions.table.shape
    assert table == (None if rows is None else (rows, dim))


@pytest.mark.parametrize("size", GPT3)
def test_gpt3_has_the_parameters_of_its_paper_to_three_digits(size):
  total = model_files.count(model_files.load(f"gpt3/{size}"))
  assert float(f"{total / 1e9:.3g}") == GPT3[size]


@pytest.mark.parametrize("size", PALM)
def test_palm_has_the_parameters_of_its_paper_to_two_decimals(size):
  model = model_files.load(f"palm/{size}")
  # Of its matrices: with the scales of the norms, the largest has 540.36.
  norms = model.dim * (model.decoder.num_layers + 1)
  matrices = model_files.count(model) - norms
  assert round(matrices / 1e9, 2) == PALM[size]


def test_bert_without_pre_training_heads_has_the_count_of_its_encoder():
  """BertModel, with the pooler: the published 109,482,240."""
  model = model_files.load("bert/base_uncased", "heads/regression")
  assert model_files.count(model) == 109_482_240 + 768 + 1
  model = model_files.load("bert/large_uncased", "heads/regression")
  assert model_files.count(model) == 335_141_888 + 1024 + 1
