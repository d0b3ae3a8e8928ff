"""From tokenized examples to predictions, in batches of one shape."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite import errors, losses
from t5x_lite.decoding import texts as texts_lib
from t5x_lite.decoding.decoder import Decoder
from t5x_lite.decoding.search import Batch, Decoded, Search
from t5x_lite.decoding.stepwise import NUMBERS, Stepwise, with_keys
from t5x_lite.decoding.texts import Prediction, Texts, Vocabulary
from t5x_lite.example_batches import Arrays, Example, ExampleBatches, check_ids
from t5x_lite.objectives import Generative, Objective
from t5x_lite.partitioning import Partitioner

# Model features, and how many of the rows are examples.
Batches = Iterator[tuple[Arrays, int]]

TARGETS = "targets"  # SeqIO's name of the feature that is predicted
_TOKENS = 16  # decoded between two looks for strings that end a text


def decoder_of(
  feature_lengths: Mapping[str, int], decoder: Search | None = None
) -> Search:
  """The decoder, or a greedy one that stops at the length of the targets."""
  if decoder is not None:
    return decoder
  if TARGETS not in feature_lengths:
    raise errors.ConfigError(
      f"feature_lengths {dict(feature_lengths)} lacks {TARGETS!r}, where"
      f" decoding is to stop{errors.suggest(TARGETS, feature_lengths)}; give"
      " it, or a decoder"
    )
  return Decoder(feature_lengths[TARGETS])


def generative(objective: Objective) -> Generative:
  """The objective.  Raises ConfigError if its models do not generate."""
  if not isinstance(objective, Generative):
    raise errors.ConfigError(
      f"{type(objective).__name__} does not generate text, which predictions"
      " and the metrics of tasks need: measure the loss alone, by EVALUATORS ="
      " [@evaluators.LossEvaluator()] or, for the eval command, MEASURES ="
      " [@measure/evaluators.LossEvaluator()]"
    )
  return objective


class Predictor:
  """Pads examples to batches, decodes or scores them, and keeps their order.

  Every batch has the same shape, the last one filled with rows of zeros, so
  that decoding and scoring compile once each.  What is drawn depends on the
  seed and on an example's number, not on its batch: the number is its "seed"
  if it has one, and its place otherwise.

  Attributes:
    decoder: from a batch to tokens; starts as the objective does.
    objective: from task features to model features.
    partitioner: where batches and results lie.
    feature_lengths: of the objective's task features.
    batch_size: number of rows over all devices.
    seed: of strategies that draw.
    vocabulary: of the targets; predictions have a text if it is given.
    prefix: ids that every answer begins with; they are part of it.
  """

  def __init__(
    self,
    decoder: Search,
    objective: Objective,
    partitioner: Partitioner,
    *,
    feature_lengths: Mapping[str, int],
    batch_size: int,
    seed: int = 0,
    vocabulary: Vocabulary | None = None,
    prefix: Sequence[int] = (),
  ):
    objective = generative(objective)
    for feature in (*objective.prompt_features, *objective.features):
      if feature != TARGETS and feature not in feature_lengths:
        raise errors.ConfigError(
          f"feature_lengths {dict(feature_lengths)} lacks {feature!r}, which"
          f" {type(objective).__name__} needs"
          f"{errors.suggest(feature, feature_lengths)}"
        )
    stop = getattr(decoder, "stop", ())
    if stop and vocabulary is None:
      raise errors.ConfigError(
        f"to look for {stop[0]!r} in texts, the Predictor needs a vocabulary"
      )
    # Only what encodes first has an id to start with.
    decoder = decoder.completed(start=getattr(objective, "start", None))
    self.decoder, self.objective = decoder, objective
    self.partitioner, self.batch_size = partitioner, batch_size
    self._batches = ExampleBatches(partitioner, batch_size)
    self.feature_lengths, self.prefix = dict(feature_lengths), tuple(prefix)
    self._texts = None if vocabulary is None else Texts(vocabulary, stop)
    self._key = jax.random.key(seed)
    replicated = self._batches.replicated
    self._decoding = jax.jit(
      _decode, static_argnums=0, out_shardings=replicated
    )
    self._decode = functools.partial(self._decoding, decoder)
    self._score = jax.jit(_log_likelihoods, out_shardings=replicated)

  def predict(
    self, model: Any, examples: Iterable[Example], *, first: int = 0
  ) -> Iterator[Prediction]:
    """Decodes examples lazily, one batch ahead of what is read.

    Args:
      model: has `prefill` and `step`.
      examples: token ids by feature; targets are ignored.
      first: index of the first example among all of a larger job.
    """
    prompts = self._prompts(model, examples, first)
    if self._texts is not None and self._texts.stop:
      steps = self._stepwise(_TOKENS)
      for features, count in prompts:
        with self.partitioner.activate():
          rows = steps.run(model, self._batches.put(features), self._key)
        yield from rows[:count]
      return

    def decode(batch: Batch) -> Decoded:
      return self._decode(model, batch, self._key)

    for found in self._batches.run(decode, prompts):
      for row in range(len(found.scores)):
        yield self._prediction(jax.tree.map(lambda x, row=row: x[row], found))

  def lower(self, model: Any, prompts: Mapping[str, Any]) -> jax.stages.Lowered:
    """What decodes a batch, for arrays like these, which may be abstract.

    Args:
      model: has `prefill` and `step`.
      prompts: model features [B ...], as the objective's `prompt` makes them.
    """
    numbers = jax.ShapeDtypeStruct((self.batch_size,), np.uint32)
    batch = {**prompts, NUMBERS: numbers}
    with self.partitioner.activate():
      return self._decoding.lower(self.decoder, model, batch, self._key)

  def stream(self, model: Any, example: Example) -> Iterator[Prediction]:
    """One example's result so far, a token longer each time; then all of it.

    What may yet turn into something else, such as the beginning of a string
    that ends the text, is held back.

    Raises:
      ConfigError: there is no vocabulary, or the decoder is a beam search,
        which knows its result at the end.
    """
    if self._texts is None or not isinstance(self.decoder, Decoder):
      raise errors.ConfigError(
        "to show a text as it is decoded, a vocabulary and a decoding.Decoder"
        " are needed"
      )
    ((features, _),) = self._prompts(model, [example], 0)
    with self.partitioner.activate():
      batch = self._batches.put(features)
      steps = self._stepwise(1).steps(model, batch, self._key)
      found = next(steps)[0]
    while True:
      with self.partitioner.activate():
        rows = next(steps, None)
      if rows is None:
        break
      text = self._texts.settled(found.text or "")
      yield dataclasses.replace(found, text=text)
      found = rows[0]
    yield found

  def score(self, model: Any, examples: Iterable[Example]) -> Iterator[float]:
    """Log-probabilities of the examples' targets given the rest."""
    if TARGETS not in self.feature_lengths:
      raise errors.ConfigError(
        f"feature_lengths {self.feature_lengths} lacks 'targets', which are"
        " to be scored"
      )
    objective = self.objective
    features = objective.scored_features
    scored = functools.partial(objective.scored, ends=self._ends)
    batches = self._features(model, examples, features, scored)
    score = functools.partial(self._score, model)
    for rows in self._batches.run(score, batches):
      yield from rows.tolist()

  @property
  def _ends(self) -> Sequence[int]:
    ends = self.decoder.eos or ()
    return (ends,) if isinstance(ends, int) else ends

  def _prompts(
    self, model: Any, examples: Iterable[Example], first: int
  ) -> Batches:
    """With "numbers" [B] uint32, which tell what is drawn for rows apart."""
    numbers: list[int] = []

    def numbered() -> Iterator[Example]:
      for number, example in enumerate(examples, first):
        numbers.append(example.get("seed", number))
        yield example

    objective = self.objective
    prompt = functools.partial(
      objective.prompt, ends=self._ends, prefix=self.prefix
    )
    features = objective.prompt_features
    for batch, count in self._features(model, numbered(), features, prompt):
      column = np.zeros(self.batch_size, np.uint32)
      column[:count] = numbers
      numbers.clear()
      yield {**batch, NUMBERS: column}, count

  def _features(
    self,
    model: Any,
    examples: Iterable[Example],
    features: Sequence[str],
    convert: Callable[[Arrays], dict[str, np.ndarray]],
  ) -> Batches:
    lengths = {name: self.feature_lengths[name] for name in features}
    for chunk in self._batches.chunks(examples):
      rows = self._batches.padded(chunk, lengths)
      check_ids(rows, dict.fromkeys(features, model.vocab_size))
      yield convert(rows), len(chunk)

  def _prediction(self, found: Decoded) -> Prediction:
    """Of one row's results [R T]."""
    results = []
    for tokens, length, score in zip(
      found.tokens, found.lengths, found.scores, strict=True
    ):
      tokens = np.array([*self.prefix, *tokens[:length]], np.int32)
      text = None if self._texts is None else self._texts.decode(tokens)
      results.append(Prediction(tokens, float(score), text))
    return texts_lib.ranked(results)

  def _stepwise(self, every: int) -> Stepwise:
    assert self._texts is not None and isinstance(self.decoder, Decoder)
    return Stepwise(
      self.decoder,
      self._texts,
      every=every,
      prefix=self.prefix,
      replicated=self._batches.replicated,
    )


# A function of the module, so that another Predictor finds it compiled.
def _decode(
  decoder: Search, model: Any, batch: dict[str, jax.Array], key: jax.Array
) -> Decoded:
  return decoder(model, *with_keys(batch, key))


def _log_likelihoods(model: Any, batch: dict[str, jax.Array]) -> jax.Array:
  """[B] float32, log-probabilities of the targets, by the full forward pass."""
  each = losses.log_probs(model(batch), batch["decoder_target_tokens"])
  return jnp.sum(each * batch["decoder_loss_weights"], axis=1)
