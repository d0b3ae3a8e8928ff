"""Instruction tuning and its evaluation as one mixture, by gin alone.

    from tasks import instructions

    MIXTURE = @instructions.Mixture()
    instructions.Mixture:
      held_out = ('nli',)
      held_out_templates = 2

Its tasks of the split "train" are what is learnt: every collection but those
of clusters held out, in every format, at rates in proportion to the numbers of
examples up to a limit.  Its tasks of other splits are what is measured:

    <name>_<collection>_seen        templates that were trained on
    <name>_<collection>_unseen      templates held out of those collections
    <name>_<collection>_held_out    clusters held out, zero-shot

So training, `t5x_lite eval` and `t5x_lite infer` take the same object, and none
sees what another setting would show it.

This module is light: a misspelt setting is told before TensorFlow loads.
"""

import dataclasses
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from t5x_lite import errors
from tasks.instructions import formats as formats_lib

if typing.TYPE_CHECKING:
  from tasks.instructions import prompts as prompts_lib
  from tasks.instructions import template as template_lib

_Numbered = dict[int, "template_lib.Template"]


@dataclasses.dataclass(frozen=True)
class Mixture:
  """Collections by cluster, to be learnt or held out.

  Attributes:
    collections: the names of those to use, such as the data sets at hand; all
      by default.
    held_out: clusters that are evaluated and never trained on.
    held_out_templates: so many last templates of every collection are never
      trained on.
    formats: of `formats.FORMATS`, or a mapping from them to their shares.
      Where a collection lacks templates for one, the others share its part.
    prompts: how those for training are made.
    evaluation: what is measured; None is nothing.
    maximum: number of examples from which on a collection counts no more;
      Flan's mixing-rate maximum is 3,000.
    max_examples: so many first examples of a collection are trained on at
      most, Flan's 30,000; None is all.
    module: that has the `COLLECTIONS`, in a folder with templates/<name>.toml.
    name: in front of the names of all tasks.
  """

  collections: Sequence[str] | None = None
  held_out: Sequence[str] = ()
  held_out_templates: int = 0
  formats: Mapping[str, float] | Sequence[str] = ("zero_shot",)
  prompts: formats_lib.Prompts = dataclasses.field(
    default_factory=formats_lib.Prompts
  )
  evaluation: formats_lib.Evaluation | None = dataclasses.field(
    default_factory=formats_lib.Evaluation
  )
  maximum: int | None = 3_000
  max_examples: int | None = 30_000
  module: str = "tasks.instructions.collections"
  name: str = "instructions"

  def __post_init__(self) -> None:
    for field in ("collections", "held_out", "formats"):
      if isinstance(getattr(self, field), str):
        value = getattr(self, field)
        raise errors.ConfigError(
          f"Mixture.{field} is the text {value!r}: write ({value!r},)"
        )
    formats_lib.check("Mixture.formats", self.formats, formats_lib.FORMATS)
    shares = self._shares
    if not shares or any(not share > 0 for share in shares.values()):
      raise errors.ConfigError(
        f"Mixture.formats = {self.formats}: name one or more, with shares above"
        " 0"
      )
    for field, least in (("maximum", 1), ("max_examples", 1)):
      value = getattr(self, field)
      if value is not None and value < least:
        raise errors.ConfigError(f"Mixture.{field} is {value}; use 1 or more")
    if self.held_out_templates < 0:
      raise errors.ConfigError(
        f"Mixture.held_out_templates is {self.held_out_templates}; use 0 or "
        "more"
      )

  def register(self) -> str:
    """Registers the mixture and its tasks once; returns its name.

    Raises:
      errors.ConfigError: there is no such collection or cluster, nothing is
        left to train on, or other settings were registered by this name.
      errors.DataError: templates are missing or wrong.
    """
    import seqio

    from tasks import cache
    from tasks.instructions import prompts

    found = prompts.find(self.module, self.collections)
    self._check_clusters(found)
    added = [*self._trained(found), *self._measured(found)]
    if not added:
      raise errors.ConfigError(
        f"no collection of {', '.join(found)} has templates for the formats "
        f"{', '.join(self._shares)}, and nothing is evaluated"
      )
    digest = cache.digest([self.maximum, *map(dataclasses.asdict, added)])
    name = f"{self.name}_{digest[:8]}"
    if name not in seqio.MixtureRegistry.names():
      rated = [(one.task, self._rate(one.share)) for one in added]
      seqio.MixtureRegistry.add(name, rated)
    return name

  @property
  def _shares(self) -> dict[str, float]:
    if isinstance(self.formats, Mapping):
      return dict(self.formats)
    return dict.fromkeys(self.formats, 1.0)

  def _rate(self, share: float | None) -> Any:
    from tasks.instructions import prompts

    return 1.0 if share is None else prompts.rate(self.maximum, share)

  def _check_clusters(self, found: Mapping[str, "prompts_lib.Written"]) -> None:
    clusters = {w.collection.cluster: None for w in found.values()}
    for name in self.held_out:
      if name in clusters:
        continue
      if name in found:
        hint = (
          f"; {name!r} is a collection of {found[name].collection.cluster!r}"
        )
      else:
        hint = errors.suggest(name, clusters)
      raise errors.ConfigError(
        f"Mixture.held_out: no collection is of a cluster {name!r}{hint}; the "
        f"clusters are {', '.join(clusters)}"
      )

  def _trained(
    self, found: Mapping[str, "prompts_lib.Written"]
  ) -> Iterator["_Added"]:
    """Registers what is learnt."""
    for name, written in found.items():
      if written.collection.cluster in self.held_out:
        continue
      chosen = {
        form: self._templates(form, written)[0] for form in self._shares
      }
      chosen = {form: t for form, t in chosen.items() if t}
      total = sum(self._shares[form] for form in chosen)
      for form, templates in chosen.items():
        share = self._shares[form] / total
        where = f"{name}_{form}"
        made = self.prompts
        yield from self._add(where, written, templates, form, made, share)

  def _measured(
    self, found: Mapping[str, "prompts_lib.Written"]
  ) -> Iterator["_Added"]:
    """Registers what is measured."""
    if self.evaluation is None:
      return
    form, made = self.evaluation.format, self.evaluation.prompts
    for name, written in found.items():
      seen, unseen = self._templates(form, written)
      parts = {"seen": seen, "unseen": unseen, "held_out": {}}
      if written.collection.cluster in self.held_out:
        parts = {"seen": {}, "unseen": {}, "held_out": seen | unseen}
      for part, templates in parts.items():
        if templates and part in self.evaluation.parts:
          where = f"{name}_{part}"
          yield from self._add(where, written, templates, form, made, None)

  def _templates(
    self, form: str, written: "prompts_lib.Written"
  ) -> tuple[_Numbered, _Numbered]:
    """Returns the templates of a format, and those held out, by number."""
    kind = formats_lib.FORMATS[form].kind
    every = dict(enumerate(getattr(written.templates, kind), start=1))
    if kind != "templates":
      return every, {}
    last = len(every) - self.held_out_templates
    if last < 1:
      raise errors.ConfigError(
        f"Mixture.held_out_templates is {self.held_out_templates}, but "
        f"collection {written.collection.name!r} has only {len(every)} "
        "templates: one at least must be left"
      )
    kept = {number: t for number, t in every.items() if number <= last}
    return kept, {n: t for n, t in every.items() if n not in kept}

  def _add(
    self,
    where: str,
    written: "prompts_lib.Written",
    templates: _Numbered,
    form: str,
    made: formats_lib.Prompts,
    share: float | None,
  ) -> Iterator["_Added"]:
    """Registers a task of these templates, or one for each of them.

    A task with a share is for training.
    """
    from tasks.instructions import prompts, rendering

    exemplars = formats_lib.FORMATS[form].exemplars * made.exemplars
    groups = {"": list(templates.values())}
    if made.every_template:
      groups = {f"_{number}": [t] for number, t in templates.items()}
    for ending, group in groups.items():
      digest = prompts.add(
        f"{self.name}_{where}{ending}",
        written,
        group,
        training=share is not None,
        options=made.options,
        style=made.style,
        exemplars=rendering.Exemplars(exemplars, made.pool, made.seed),
        maximum=self.max_examples,
      )
      part = None if share is None else share / len(groups)
      yield _Added(f"{self.name}_{where}{ending}", digest, part)


@dataclasses.dataclass(frozen=True)
class _Added:
  """A task of the mixture.

  Attributes:
    task: its name.
    digest: tells it from others of this name.
    share: of its collection's rate; None where it is measured.
  """

  task: str
  digest: str
  share: float | None
