"""What is compared of a decoder of ours and the one of transformers."""

import copy
import dataclasses
import pathlib
from typing import Any

import gin
import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from t5x_lite import decoding, losses
from t5x_lite.interop import families, family, huggingface
from tests.parity import training

GIN = pathlib.Path(__file__).parents[2] / "gin_configs"
LENGTHS = (33, 5, 20, 1)  # of the rows of a batch
PROMPTS = (3, 11, 1, 6)


@dataclasses.dataclass
class Pair:
  """Their model and ours, with the same weights."""

  theirs: Any
  ours: Any

  @property
  def vocab(self):
    return self.theirs.config.vocab_size


def randomize(model, gain=1.0):
  """Gives every parameter random values, also norms, biases and positions.

  Args:
    model: of theirs.
    gain: of the matrices within the layers.
  """
  generator = torch.Generator().manual_seed(0)
  for name, parameter in model.named_parameters():
    value = torch.randn(parameter.shape, generator=generator)
    if "norm" in name or "ln_" in name:
      value = 0.3 * value + (0.0 if name.endswith("bias") else 1.0)
    elif value.ndim == 1 or "embed" in name or "wte" in name or "wpe" in name:
      value = 0.3 * value
    else:  # Conv1D is [in, out], Linear [out, in].
      value = gain * value * value.shape[0 if ".c_" in name else 1] ** -0.5
    parameter.data = value
  return model.eval()


def build(text):
  """Shapes of our model in float32, of a model file's text."""
  gin.clear_config(clear_constants=True)
  gin.add_config_file_search_path(str(GIN))
  gin.parse_config(f"{text}\nDTYPE = 'float32'")
  constructor = gin.query_parameter("MODEL/macro.value").scoped_configurable_fn
  model = jax.eval_shape(lambda: constructor(rngs=nnx.Rngs(0)))
  gin.clear_config(clear_constants=True)
  return model


def make(kind, config, gain=1.0):
  """A pair of a class of theirs and its config; nothing may be unknown."""
  theirs = randomize(kind(config), gain)
  weights = theirs.state_dict()
  found = families.of_type(config.model_type, "config.json")
  fields = family.Fields(config.to_dict(), "config.json")
  settings = found.settings(fields, weights)
  assert not fields.unknown()
  ours = huggingface.from_state_dict(build(settings.text("theirs")), weights)
  return Pair(theirs, ours)


def rows(pair, lengths, seed=0):
  rng = np.random.default_rng(seed)
  return [rng.integers(3, pair.vocab, length) for length in lengths]


def padded(examples, *, left):
  """Tokens and mask [B T], with padding of any ids on one side."""
  width = max(map(len, examples)) + 2
  tokens = np.random.default_rng(9).integers(3, 9, (len(examples), width))
  mask = np.zeros(tokens.shape, np.int64)
  for row, example in enumerate(examples):
    place = slice(-len(example), None) if left else slice(len(example))
    tokens[row, place], mask[row, place] = example, 1
  return tokens, mask


@jax.jit
def _logits(model, batch):
  return model(batch)


def our_logits(model, tokens, segments, positions):
  features = {
    "decoder_input_tokens": tokens,
    "decoder_segment_ids": segments,
    "decoder_positions": positions,
  }
  batch = {name: np.int32(array) for name, array in features.items()}
  return np.asarray(_logits(model, batch))


def their_logits(model, tokens, mask=None, positions=None):
  arrays = {"attention_mask": mask, "position_ids": positions}
  given = {k: torch.from_numpy(v) for k, v in arrays.items() if v is not None}
  with torch.no_grad():
    return model(torch.from_numpy(tokens), **given).logits.numpy()


def check_logits(pair, *, before=True):
  """Rows of other lengths, with padding after them and before them.

  Args:
    pair: of models.
    before: theirs takes padding before a row for nothing.
  """
  for left in (False, True) if before else (False,):
    tokens, mask = padded(rows(pair, LENGTHS), left=left)
    positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)
    expected = their_logits(pair.theirs, tokens, mask, positions)
    logits = our_logits(pair.ours, tokens, mask, positions)
    real = mask != 0
    assert expected[real].std() > 0.2
    assert np.abs(logits - expected)[real].max() < 1e-4


def check_packed(pair):
  """Examples side by side in a row of ours, and alone in theirs.

  In theirs with float64: short rows of the Mambas here make their float32 err
  by a third of the tolerance.
  """
  precise = copy.deepcopy(pair.theirs).double()
  examples = rows(pair, (17, 9, 21), seed=1)
  width = sum(map(len, examples)) + 3
  tokens, segments, positions = np.zeros((3, 1, width), np.int64)
  start = 0
  places = []
  for number, example in enumerate(examples, 1):
    place = slice(start, start + len(example))
    tokens[0, place], segments[0, place] = example, number
    positions[0, place] = np.arange(len(example))
    places.append(place)
    start = place.stop
  logits = our_logits(pair.ours, tokens, segments, positions)[0]
  for example, place in zip(examples, places, strict=True):
    expected = their_logits(precise, example[None])[0]
    assert np.abs(logits[place] - expected).max() < 1e-4


def _training_batch(pair, seed):
  """A batch for both, of the same tokens and targets."""
  tokens, mask = padded(rows(pair, LENGTHS, seed), left=False)
  theirs = {
    "input_ids": torch.from_numpy(tokens),
    "attention_mask": torch.from_numpy(mask),
    "labels": torch.from_numpy(np.where(mask, tokens, -100)),
  }
  ours = {
    "decoder_input_tokens": np.int32(tokens[:, :-1]),
    "decoder_segment_ids": np.int32(mask[:, :-1]),
    "targets": np.int32(tokens[:, 1:]),
    "weights": np.float32(mask[:, 1:]),
  }
  return theirs, ours


def _loss(model, batch):
  found = losses.cross_entropy(model(batch), batch["targets"])
  weights = batch["weights"]
  return jnp.sum(found.cross_entropy * weights) / jnp.sum(weights)


def check_gradients(pair):
  """The loss, and the gradient of each of their parameters."""
  theirs, ours = _training_batch(pair, seed=2)
  pair.theirs.zero_grad()
  expected = pair.theirs(**theirs).loss
  expected.backward()
  value, grads = jax.jit(jax.value_and_grad(_loss))(pair.ours, ours)
  assert abs(float(value) - expected.item()) < 1e-5
  training.assert_gradients(pair.theirs, huggingface.to_state_dict(grads))


def check_training(pair):
  """Five steps of AdamW on two batches in turn."""
  batches = [_training_batch(pair, seed) for seed in (3, 4)]
  training.check(
    pair,
    lambda theirs, number: theirs(**batches[number % 2][0]).loss,
    lambda number: batches[number % 2][1],
    _loss,
  )


def check_generation(pair, *, together=True):
  """Greedy tokens of prompts of other lengths, up to an end of sequence.

  Args:
    pair: of models.
    together: theirs takes all prompts at once, with padding before them.
  """
  prompts, steps = rows(pair, PROMPTS, seed=5), 16
  batches = [prompts] if together else [[prompt] for prompt in prompts]

  def generate(eos):
    found = []
    for batch in batches:
      tokens, mask = padded(batch, left=True)
      if not together:
        tokens, mask = tokens[:, 2:], mask[:, 2:]
      result = pair.theirs.generate(
        torch.from_numpy(tokens),
        attention_mask=torch.from_numpy(mask),
        max_new_tokens=steps,
        do_sample=False,
        num_beams=1,
        eos_token_id=eos,
        pad_token_id=0,
      ).numpy()[:, tokens.shape[1] :]
      found += [np.pad(row, (0, steps - len(row))) for row in result]
    return np.stack(found)

  free = generate(None)
  eos = int(free[0, steps // 2])  # so that rows end, at different lengths
  tokens, mask = padded(prompts, left=False)
  batch = {
    "decoder_input_tokens": np.int32(tokens),
    "decoder_segment_ids": np.int32(mask),
  }
  for ends, expected in (((), free), (eos, generate(eos))):
    decoder = decoding.Decoder(steps, eos=ends)
    decoded = jax.jit(decoder)(pair.ours, batch).best
    np.testing.assert_array_equal(decoded.tokens, expected)
  assert len({tuple(row) for row in free}) == len(free)
  assert len(np.unique(free)) > 4
  assert len(set(np.asarray(decoded.lengths).tolist())) > 1


def check_there_and_back(pair):
  """Import, export, import: equal to the bit, and whole."""
  theirs = pair.theirs.state_dict()
  exported = huggingface.to_state_dict(pair.ours)
  assert exported.keys() == theirs.keys()
  for name, tensor in theirs.items():
    np.testing.assert_array_equal(exported[name], tensor.numpy(), name)
  again = huggingface.from_state_dict(pair.ours, exported)
  assert_equal(again, pair.ours)
  tensors = {name: torch.tensor(array) for name, array in exported.items()}
  pair.theirs.load_state_dict(tensors, strict=True)


def assert_equal(first, second):
  for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
    np.testing.assert_array_equal(a, b)
