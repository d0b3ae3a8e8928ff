"""The families that can be converted from and to transformers."""

from typing import Any

from t5x_lite import errors
from t5x_lite.interop import (
  bart,
  bert,
  gpt1,
  gpt2,
  llama,
  mamba,
  mamba2,
  mapping,
  roberta,
  t5,
)
from t5x_lite.interop.family import Family

# Of those that a model fits, the first is taken.
FAMILIES: tuple[Family, ...] = (
  t5.FAMILY,
  gpt1.FAMILY,
  gpt2.FAMILY,
  llama.FAMILY,
  mamba.FAMILY,
  mamba2.FAMILY,
  bart.FAMILY,
  bert.FAMILY,
  roberta.FAMILY,
)


def of_type(model_type: Any, where: str) -> Family:
  """The family of a config.json's `model_type`.

  Raises:
    ConfigError: there is none.
  """
  found = {kind: family for family in FAMILIES for kind in family.model_types}
  if model_type not in found:
    near = errors.suggest(str(model_type), found)
    raise errors.ConfigError(
      f"{where}: model_type {model_type!r} cannot be converted{near}; the"
      f" types that can are {', '.join(found)}"
    )
  return found[model_type]


def of_model(model: Any) -> Family:
  """The family that a model of ours is wired as.

  Raises:
    ConfigError: there is none.
  """
  for family in FAMILIES:
    if family.is_of(model):
      return family
  foreign = {
    family.name: _foreign(family, model)
    for family in FAMILIES
    if family.fits is None or family.fits(model)
  }
  nearest = min(foreign, key=lambda name: len(foreign[name]), default=None)
  why = ""
  if nearest is not None:
    more = len(foreign[nearest]) - 1
    others = f" and {more} more" if more else ""
    why = (
      f": the nearest is {nearest}, where {foreign[nearest][0]}{others} has no"
      " counterpart"
    )
  raise errors.ConfigError(
    f"transformers has no model like this {type(model).__name__}{why}"
  )


def _foreign(family: Family, model: Any) -> list[str]:
  return [
    ".".join(path)
    for path, _ in mapping.variables(model)
    if family.names.counterpart(model, path) is None
  ]
