"""Language models: a decoder alone, on plain text or on inputs and targets."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from t5x_lite import errors, models
from t5x_lite.objectives import base, fitting, text_targets


@dataclasses.dataclass(frozen=True)
class CausalLM(text_targets.TextTargets):
  """Cross-entropy of each token of the targets given those before it.

  To predict, the model goes on after a task's `inputs`, which training does
  not read.  To train on targets given inputs, or to score them, see `PrefixLM`.
  Attributes are those of `TextTargets`.
  """

  features = ("targets",)

  def check(self, model: Any) -> None:
    """Raises ConfigError unless the model is a causal DecoderOnly."""
    fitting.check_kind(self, model, models.DecoderOnly)

  def prompt(
    self,
    batch: Mapping[str, np.ndarray],
    ends: Sequence[int] = (),
    prefix: Sequence[int] = (),
  ) -> dict[str, np.ndarray]:
    """Start, inputs without their end, and prefix; [B 1 + T + P] int32."""
    real = batch["inputs_segment_ids"] != 0
    # Inputs of an end alone are an example too, with nothing to go on from.
    begins = real.any(axis=1, keepdims=True)
    kept = _without_end(batch, ends)
    return _prompt(batch["inputs"], begins, kept, self.start, prefix)

  def scored(
    self, batch: Mapping[str, np.ndarray], ends: Sequence[int] = ()
  ) -> dict[str, np.ndarray]:
    """Inputs without their end, then targets, which alone have weight."""
    kept = _without_end(batch, ends).astype(np.int32)
    whole = PrefixLM(bidirectional=False, start=self.start)
    return whole.convert({**batch, "inputs_segment_ids": kept})


@dataclasses.dataclass(frozen=True)
class PrefixLM(text_targets.TextTargets):
  """Cross-entropy of the targets given the inputs, in one sequence.

  A row is as long as inputs and targets together.  Each example is its inputs
  and then its targets (Raffel et al. 2020, section 3.2.1).

  Attributes, besides those of `TextTargets`:
    bidirectional: whether inputs see each other in both directions.
    loss_on_inputs: whether inputs are to be predicted too.
  """

  bidirectional: bool = True
  loss_on_inputs: bool = False

  features = ("inputs", "targets")

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.bidirectional and self.loss_on_inputs:
      raise errors.ConfigError(
        "PrefixLM.loss_on_inputs with bidirectional inputs would have the model"
        " predict tokens that it sees: set one of the two to False"
      )

  def check(self, model: Any) -> None:
    """Raises ConfigError unless the model is a DecoderOnly that fits."""
    fitting.check_kind(self, model, models.DecoderOnly)
    if self.bidirectional:
      fitting.check_prefix(self, model)

  def convert(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """SeqIO's decoder features [B T], T the length of inputs and targets.

    `decoder_causal_attention` is 1 for the start and the inputs, which all of
    their example sees; it is absent if attention is causal throughout.
    """
    tokens, segments, is_target = _joined(batch)
    first = base.first_of(segments)
    index = np.arange(tokens.shape[1], dtype=np.int32)
    begin = np.maximum.accumulate(np.where(first, index, 0), axis=1)
    real = segments != 0
    weights = real if self.loss_on_inputs else is_target
    features = {
      "decoder_target_tokens": tokens,
      "decoder_input_tokens": base.shift_right(tokens, segments, self.start),
      "decoder_loss_weights": weights.astype(np.float32),
      "decoder_segment_ids": segments,
      "decoder_positions": np.where(real, index - begin, 0).astype(np.int32),
    }
    if self.bidirectional:
      prefix = real & (first | ~np.roll(is_target, 1, axis=1))
      features["decoder_causal_attention"] = prefix.astype(np.int32)
    return features

  def scored(
    self, batch: Mapping[str, np.ndarray], ends: Sequence[int] = ()
  ) -> dict[str, np.ndarray]:
    """The features of training, but that only targets have weight."""
    return dataclasses.replace(self, loss_on_inputs=False).convert(batch)

  def prompt(
    self,
    batch: Mapping[str, np.ndarray],
    ends: Sequence[int] = (),
    prefix: Sequence[int] = (),
  ) -> dict[str, np.ndarray]:
    """Start, inputs with their end, and prefix; [B 1 + T + P] int32."""
    real = batch["inputs_segment_ids"] != 0
    begins = real.any(axis=1, keepdims=True)
    features = _prompt(batch["inputs"], begins, real, self.start, prefix)
    if self.bidirectional:
      # The prefix is of the answer, which sees itself from left to right.
      inputs = 1 + real.sum(axis=1, keepdims=True)
      index = np.arange(features["decoder_input_tokens"].shape[1])
      seen = features["decoder_segment_ids"] * (index < inputs)
      features["decoder_causal_attention"] = seen.astype(np.int32)
    return features


def _without_end(
  batch: Mapping[str, np.ndarray], ends: Sequence[int]
) -> np.ndarray:
  """[B T], the tokens of inputs but for an end that is their last."""
  tokens, real = batch["inputs"], batch["inputs_segment_ids"] != 0
  last = np.arange(tokens.shape[1]) == real.sum(axis=1)[:, None] - 1
  return real & ~(last & np.isin(tokens, ends))


def _joined(
  batch: Mapping[str, np.ndarray],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Tokens, segments and whether it is a target, of joined examples [B T].

  Examples keep their order in the row, and so do tokens in their example;
  padding comes last.
  """
  parts = ("inputs", "targets")
  tokens, segments = (
    np.concatenate([batch[part + suffix] for part in parts], axis=1)
    for suffix in ("", "_segment_ids")
  )
  is_target = np.arange(tokens.shape[1]) >= batch["inputs"].shape[1]
  is_target = is_target & (segments != 0)
  last = np.iinfo(np.int32).max
  rank = np.where(segments == 0, last, 2 * segments + is_target)
  order = np.argsort(rank, axis=1, kind="stable")
  tokens, segments, is_target = (
    np.take_along_axis(x, order, axis=1) for x in (tokens, segments, is_target)
  )
  return tokens, segments, is_target


def _prompt(
  tokens: np.ndarray,
  begins: np.ndarray,
  real: np.ndarray,
  start: int,
  prefix: Sequence[int],
) -> dict[str, np.ndarray]:
  """Where `begins` [B 1], `start`, tokens where `real`, and `prefix`.

  Padding, between the tokens too, goes to the end.
  """
  given = np.array([prefix], np.int32).repeat(len(tokens), axis=0)
  real = np.concatenate([begins, real, begins.repeat(len(prefix), 1)], axis=1)
  tokens = np.pad(tokens, ((0, 0), (1, 0)), constant_values=start)
  tokens = np.concatenate([tokens, given], axis=1)
  order = np.argsort(~real, axis=1, kind="stable")
  tokens, real = (np.take_along_axis(x, order, axis=1) for x in (tokens, real))
  return {
    "decoder_input_tokens": np.where(real, tokens, 0).astype(np.int32),
    "decoder_segment_ids": real.astype(np.int32),
  }
