"""Our Mamba against the one of `transformers`, with the same weights."""

import pytest

torch = pytest.importorskip("torch", reason="parity needs PyTorch")
transformers = pytest.importorskip(
  "transformers", reason="parity needs transformers"
)
from tests import model_files  # noqa: E402
from tests.models import gin_mamba_test  # noqa: E402
from tests.parity import decoders, directories  # noqa: E402

pytestmark = pytest.mark.parity

CONFIGS = {
  "published": {"hidden_size": 20, "num_hidden_layers": 2},
  "wide": {
    "hidden_size": 12,
    "num_hidden_layers": 3,
    "expand": 3,
    "state_size": 5,
    "time_step_rank": 4,
    "conv_kernel": 2,
    "use_conv_bias": False,
    "layer_norm_epsilon": 1e-2,
    "tie_word_embeddings": False,
  },
  "biased": {
    "hidden_size": 17,
    "num_hidden_layers": 2,
    "expand": 1,
    "state_size": 3,
    "conv_kernel": 5,
    "use_bias": True,
  },
}
# Where padding before a row leaves a bias of theirs in the convolution's past.
UNMASKED = ("biased",)


def make(**config):
  ids = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
  config = transformers.MambaConfig(vocab_size=61, **ids, **config)
  return decoders.make(transformers.MambaForCausalLM, config)


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


@pytest.mark.parametrize("size", gin_mamba_test.MAMBA)
def test_the_sizes_are_theirs(size):
  _, depth, dim = gin_mamba_test.MAMBA[size]
  shape = {"hidden_size": dim, "num_hidden_layers": depth}
  with torch.device("meta"):
    theirs = transformers.MambaForCausalLM(transformers.MambaConfig(**shape))
  count = sum(parameter.numel() for parameter in theirs.parameters())
  assert count == model_files.count(model_files.load(size))
