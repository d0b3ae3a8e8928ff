"""Decoding against `transformers`, token for token, with the same weights."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="parity needs PyTorch")
pytest.importorskip("transformers", reason="parity needs transformers")
from t5x_lite import decoding  # noqa: E402
from t5x_lite.interop import huggingface  # noqa: E402
from tests.parity import (  # noqa: E402
  bart_test,
  gpt2_test,
  llama_test,
  mamba2_test,
  mamba_test,
  t5_test,
)

pytestmark = pytest.mark.parity

STEPS = 14
LENGTHS = (9, 1, 5, 12)  # of the inputs or prompts
# Ids that ours decode from; decoders alone have none.
FAMILIES = {
  "t5": 0,
  "bart": bart_test.START,
  **dict.fromkeys(("gpt2", "llama", "mamba", "mamba2")),
}
# Modules of decoders, and which of their configurations.
DECODERS = {
  "gpt2": (gpt2_test, "published"),
  "llama": (llama_test, "llama3_1"),
  "mamba": (mamba_test, "wide"),
  "mamba2": (mamba2_test, "grouped"),
}


@dataclasses.dataclass
class Case:
  """A pair of models, the same batch for both, and their new tokens.

  Attributes:
    start: id that ours decodes from; None for a decoder alone.
    width: number of tokens that theirs counts before the first new one.
    ends: ids that some rows meet.
  """

  theirs: object
  ours: object
  start: int | None
  inputs: dict
  batch: dict
  width: int
  ends: list[int] = dataclasses.field(default_factory=list)

  def expected(self, ends, **kwargs):
    """Tokens [B R STEPS], scores [B R] (of beams), theirs."""
    config = {
      "max_new_tokens": STEPS,
      "do_sample": False,
      "num_beams": 1,
      "pad_token_id": 0,
      "forced_eos_token_id": None,
      "decoder_start_token_id": self.start,
      "eos_token_id": ends or None,
    }
    found = self.theirs.generate(
      **self.inputs,
      **config | kwargs,
      return_dict_in_generate=True,
      output_scores=True,
    )
    tokens = found.sequences.numpy()[:, self.width :]
    tokens = np.pad(tokens, ((0, 0), (0, STEPS - tokens.shape[1])))
    # What they fill the rest with depends on the search.
    ended = np.cumsum(np.isin(tokens, ends or ()), axis=1)
    tokens[:, 1:][ended[:, :-1] > 0] = 0
    scores = found.get("sequences_scores")
    shape = (len(LENGTHS), -1)
    return (
      tokens.reshape(*shape, STEPS),
      None if scores is None else scores.numpy().reshape(shape),
    )

  def decoded(self, search):
    return jax.jit(search)(self.ours, self.batch)


@functools.cache
def make(family):
  """A case; of its rows the first two meet an end halfway, greedily."""
  rng = np.random.default_rng(4)
  if family in DECODERS:
    module, config = DECODERS[family]
    pair = module.make(**module.CONFIGS[config])
    prompts = [rng.integers(3, pair.vocab, n) for n in LENGTHS]
    case = prompted(pair.theirs, pair.ours, prompts)
  else:
    theirs, ours = encoder_decoder(family)
    texts = [rng.integers(3, 61, n) for n in LENGTHS]
    tokens, mask = rows(texts)
    case = Case(
      theirs=theirs,
      ours=ours,
      start=FAMILIES[family],
      inputs=tensors(input_ids=tokens, attention_mask=mask),
      batch={
        "encoder_input_tokens": np.int32(tokens),
        "encoder_segment_ids": np.int32(mask),
      },
      width=1,
    )
  free, _ = case.expected(None)
  case.ends = [int(row[STEPS // 2]) for row in free[:2, 0]]
  return case


def prompted(theirs, ours, prompts):
  tokens, mask = rows(prompts)
  # Theirs counts padding as tokens that have been, if it penalizes those.
  padding = [len(tokens[0]) - len(prompt) for prompt in prompts]
  before = [
    np.concatenate([[prompt[0]] * count, prompt])
    for prompt, count in zip(prompts, padding, strict=True)
  ]
  return Case(
    theirs=theirs,
    ours=ours,
    start=None,
    inputs=tensors(input_ids=np.stack(before), attention_mask=mask[:, ::-1]),
    batch={
      "decoder_input_tokens": np.int32(tokens),
      "decoder_segment_ids": np.int32(mask),
    },
    width=len(tokens[0]),
  )


def encoder_decoder(family):
  if family == "bart":
    pair = bart_test.make("published", change=bart_test.talkative)
    return pair.theirs, pair.ours
  theirs = t5_test.make_theirs("t5_1_1")
  shapes = t5_test.make_ours("t5_1_1")
  return theirs, huggingface.from_state_dict(shapes, theirs.state_dict())


def rows(examples):
  """Tokens and mask [B T], with padding of zeros at the end."""
  tokens = np.zeros((len(examples), 2 + max(map(len, examples))), np.int64)
  mask = np.zeros_like(tokens)
  for row, example in enumerate(examples):
    tokens[row, : len(example)], mask[row, : len(example)] = example, 1
  return tokens, mask


def tensors(**arrays):
  return {
    k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in arrays.items()
  }


def check(case, search, **kwargs):
  """Compares all results; returns theirs."""
  tokens, scores = case.expected(list(search.eos), **kwargs)
  decoded = case.decoded(search)
  np.testing.assert_array_equal(decoded.tokens, tokens)
  if scores is not None:
    np.testing.assert_allclose(decoded.scores, scores, atol=2e-5, rtol=1e-5)
  return tokens


def search(kind, case, ends, **kwargs):
  return kind(STEPS, eos=tuple(ends), start=case.start, **kwargs)


beams = functools.partial(
  search, functools.partial(decoding.BeamSearch, keep_greedy=False)
)


@pytest.fixture(params=FAMILIES)
def case(request):
  return make(request.param)


def test_greedy_with_a_least_length_and_a_penalty_of_repetition(case):
  free, _ = case.expected(case.ends)
  ours = search(
    decoding.Decoder, case, case.ends, min_length=9, repetition_penalty=1.6
  )
  tokens = check(case, ours, min_new_tokens=9, repetition_penalty=1.6)
  assert (tokens != free).any()


def test_beams_are_the_n_best(case):
  ends = case.ends[:1]
  ours = beams(
    case,
    ends,
    beams=4,
    length_penalty=decoding.MeanPenalty(0.7),
    early_stopping=False,
    num_results=3,
  )
  tokens = check(
    case,
    ours,
    num_beams=4,
    length_penalty=0.7,
    early_stopping=False,
    num_return_sequences=3,
  )
  greedy, _ = case.expected(ends)
  assert (tokens[:, :1] != greedy).any()
  ended = tokens == ends[0]
  assert ended.any() and len(np.unique(ended.argmax(axis=2))) > 2


def test_beams_that_stop_early_at_several_ends(case):
  least = 3
  ours = beams(
    case,
    case.ends,
    beams=3,
    length_penalty=decoding.MeanPenalty(2.0),
    early_stopping=True,
    num_results=3,
    min_length=least,
  )
  check(
    case,
    ours,
    num_beams=3,
    length_penalty=2.0,
    early_stopping=True,
    num_return_sequences=3,
    min_length=case.width + least,
  )


def test_beams_that_never_guess_with_a_penalty_of_repetition(case):
  ours = beams(
    case,
    case.ends,
    beams=4,
    length_penalty=decoding.MeanPenalty(1.0),
    early_stopping="never",
    repetition_penalty=1.4,
  )
  check(
    case,
    ours,
    num_beams=4,
    length_penalty=1.0,
    early_stopping="never",
    repetition_penalty=1.4,
  )


@pytest.mark.parametrize("forced", [False, True])
def test_an_end_that_is_forced_as_in_published_barts(forced):
  case = make("bart")
  ends = [bart_test.END]
  kwargs = {"force_end": forced}
  end = bart_test.END if forced else None
  tokens = check(
    case,
    search(decoding.Decoder, case, ends, **kwargs),
    forced_eos_token_id=end,
  )
  unended = ~(tokens[..., :-1] == end).any(axis=2)
  assert unended.any()
  assert ((tokens[..., -1] == end) == forced)[unended].all()
  ours = beams(
    case,
    ends,
    length_penalty=decoding.MeanPenalty(2.0),
    early_stopping=True,
    num_results=4,
    **kwargs,
  )
  check(
    case,
    ours,
    num_beams=4,
    num_return_sequences=4,
    length_penalty=2.0,
    early_stopping=True,
    forced_eos_token_id=end,
  )
