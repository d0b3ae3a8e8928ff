"""Our Mamba-2 against the one of `transformers`, with the same weights."""

import pytest

torch = pytest.importorskip("torch", reason="parity needs PyTorch")
transformers = pytest.importorskip(
  "transformers", reason="parity needs transformers"
)
from tests import model_files  # noqa: E402
from tests.models import gin_mamba_test  # noqa: E402
from tests.parity import decoders, directories  # noqa: E402

pytestmark = pytest.mark.parity

# The product of heads and their width is that of `expand` and the width.
CONFIGS = {
  "published": {
    **{"hidden_size": 20, "num_heads": 5, "head_dim": 8, "state_size": 6},
    **{"n_groups": 1, "tie_word_embeddings": True},
    "num_hidden_layers": 2,
  },
  "grouped": {
    **{"hidden_size": 16, "num_heads": 8, "head_dim": 6, "expand": 3},
    **{"n_groups": 4, "state_size": 3, "conv_kernel": 2},
    "num_hidden_layers": 3,
    "use_conv_bias": False,
    "layer_norm_epsilon": 1e-2,
  },
  "biased": {
    **{"hidden_size": 14, "num_heads": 2, "head_dim": 7, "expand": 1},
    **{"n_groups": 2, "state_size": 9, "conv_kernel": 5},
    "num_hidden_layers": 2,
    # A norm of seven numbers that divides by little is where they round most.
    "layer_norm_epsilon": 0.1,
    "use_bias": True,
    "tie_word_embeddings": True,
  },
}
# Where padding before a row leaves a bias of theirs in the convolution's past.
UNMASKED = ("biased",)


def make(**config):
  ids = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
  config = transformers.Mamba2Config(vocab_size=61, **ids, **config)
  return decoders.make(transformers.Mamba2ForCausalLM, config)


@pytest.fixture(scope="module", params=CONFIGS)
def name(request):
  return request.param


@pytest.fixture(scope="module")
def pair(name):
  return make(**CONFIGS[name])


@pytest.fixture(scope="module")
def published():
  return make(**CONFIGS["published"])


def test_logits(pair, name):
  decoders.check_logits(pair, before=name not in UNMASKED)


def test_packed_rows(pair):
  decoders.check_packed(pair)


def test_there_and_back(pair):
  decoders.check_there_and_back(pair)


def test_gradients(pair):
  decoders.check_gradients(pair)


def test_training(published):
  decoders.check_training(published)


def test_generation(pair, name):
  decoders.check_generation(pair, together=name not in UNMASKED)


def test_directories(pair, name, tmp_path):
  directories.check(pair, tmp_path, before=name not in UNMASKED)


@pytest.mark.parametrize("size", gin_mamba_test.MAMBA2)
def test_the_sizes_are_theirs(size):
  _, depth, dim = gin_mamba_test.MAMBA2[size]
  shape = {"hidden_size": dim, "num_hidden_layers": depth}
  shape |= {"num_heads": dim // 32, "head_dim": 64, "n_groups": 1}
  shape |= {"vocab_size": 50288, "tie_word_embeddings": True}
  with torch.device("meta"):
    theirs = transformers.Mamba2ForCausalLM(transformers.Mamba2Config(**shape))
  count = sum(parameter.numel() for parameter in theirs.parameters())
  assert count == model_files.count(model_files.load(size))
