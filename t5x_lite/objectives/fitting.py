"""Whether a model is one that an objective can train, and how to make it so."""

from collections.abc import Iterator
from typing import Any

from flax import nnx

from t5x_lite import errors, layers, models

# Mixers that read from left to right, unless told to read both ways.
_SCANS = (
  layers.LinearAttention,
  layers.Mamba,
  layers.Mamba2,
  layers.Retention,
  layers.S4,
  layers.S4D,
)

# Files of objectives for each kind of model, to be named in messages.
_FILES: dict[type, str] = {
  models.EncoderDecoder: "seq2seq",
  models.DecoderOnly: "causal_lm, prefix_lm, long_documents, lm_classification",
  models.EncoderOnly: (
    "masked_lm, masked_lm_next_sentence, classification, regression,"
    " token_classification, span_extraction"
  ),
}


def check_kind(objective: Any, model: Any, kind: type) -> None:
  """Raises ConfigError unless the model is of a kind, and decoders causal."""
  name, got = type(objective).__name__, type(model).__name__
  if not isinstance(model, kind):
    article = "an" if kind.__name__[0] in "AEIOU" else "a"
    files = _FILES.get(type(model))
    fitting = f", for this model {files}" if files else ""
    raise errors.ConfigError(
      f"{name} needs {article} {kind.__name__} model, got {got}: use another"
      f" objective file{fitting}"
    )
  if isinstance(model, models.DecoderOnly) and _ahead(model.decoder):
    raise errors.ConfigError(
      f"{name} needs a causal decoder, but tokens of this one see the tokens"
      f" that they are to predict: {_remedy(_ahead(model.decoder)[0])}"
    )


def check_head(
  objective: Any, model: Any, name: str, remedy: str, classes: int = 0
) -> None:
  """Raises ConfigError unless the model has a head, with so many classes.

  Args:
    objective: that asks for it.
    model: has `heads`.
    name: of the head.
    remedy: what to do for such a head.
    classes: 0 for any number.
  """
  owner, kind = type(objective).__name__, type(model).__name__
  if name not in model.heads.names:
    known = ", ".join(model.heads.names) or "none"
    raise errors.ConfigError(
      f"{owner} needs the head {name!r}, and this {kind} has {known}: {remedy}"
    )
  found = getattr(model.heads, name).num_classes if classes else 0
  if found != classes:
    raise errors.ConfigError(
      f"{owner} needs a head {name!r} of {classes} classes, and this one has"
      f" {found}: {remedy}"
    )


def head_file(name: str) -> str:
  """The remedy that is a file of ours."""
  return f"add --gin_file=models/heads/{name}.gin after the model file"


def label_limit(model: Any, head: str) -> dict[str, int | None]:
  """The number of ids of `labels`: 0 and one for each class of a head."""
  return {"labels": 1 + getattr(model.heads, head).num_classes}


def type_limit(model: Any) -> dict[str, int | None]:
  """The number of ids of `token_types`; any where the model has no choice."""
  count = 1 if model.types is None else model.types.table.shape[-2]
  return {"token_types": count if count > 1 else None}


def check_prefix(objective: Any, model: Any) -> None:
  """Raises ConfigError if a mixer cannot see all of a prefix."""
  scans = (m for m in _mixers(model.decoder) if isinstance(m, _SCANS))
  for scan in scans:
    raise errors.ConfigError(
      f"{type(objective).__name__} needs mixers that see all of a prefix, and"
      f" {type(scan).__name__} reads from left to right: set BIDIRECTIONAL ="
      " False (PrefixLM.bidirectional), or use objectives/causal_lm.gin"
    )


def _mixers(module: nnx.Module) -> Iterator[nnx.Module]:
  """Sublayers, in a module, in which tokens of an example see each other."""
  kinds = (layers.Attention, layers.Bidirectional, *_SCANS)
  if isinstance(module, layers.CrossAttention):
    return
  if isinstance(module, kinds):
    yield module
    return
  for part in vars(module).values():
    if isinstance(part, nnx.Module):
      yield from _mixers(part)


def _ahead(module: nnx.Module) -> list[nnx.Module]:
  """Mixers in a module that see both ways."""
  return [
    mixer
    for mixer in _mixers(module)
    if not getattr(mixer, "causal", True)
    or getattr(mixer, "bidirectional", False)
  ]


def _remedy(mixer: nnx.Module) -> str:
  """How a mixer that sees both ways is made causal."""
  name = type(mixer).__name__
  if isinstance(mixer, layers.Bidirectional):
    return f"use {type(mixer.forward).__name__} in place of {name}"
  if hasattr(mixer, "causal"):
    return f"set layers.{name}.causal = True"
  return f"set layers.{name}.bidirectional = False"
