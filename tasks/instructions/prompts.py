"""SeqIO tasks of prompts, one for a collection and a format.

Formats are what Flan 2022 mixes (Longpre et al., 2023, https://arxiv.org/abs/
2301.13688, section 2): with or without exemplars, with or without a chain of
thought, and inverted, each with or without options.
"""

import dataclasses
import functools
import importlib
import pathlib
from collections.abc import Sequence
from typing import Any

import seqio
import tensorflow as tf

from t5x_lite import errors
from tasks import cache, features, mixtures, preprocessors
from tasks.instructions import answers, rendering, template_files
from tasks.instructions import template as template_lib

# Raised when the same settings give other prompts.
_VERSION = 3


@dataclasses.dataclass(frozen=True)
class Written:
  """A collection, and the templates written for it."""

  collection: Any
  templates: template_lib.Templates


def find(module: str, names: Sequence[str] | None) -> dict[str, Written]:
  """Returns collections of a module by name, with their templates.

  Args:
    module: has `COLLECTIONS`; templates are in the folder beside it.
    names: of those wanted; None is all.

  Raises:
    errors.ConfigError: there is no such module or collection.
    errors.DataError: templates are missing or wrong.
  """
  try:
    loaded = importlib.import_module(module)
  except ModuleNotFoundError as error:
    if error.name is None or not f"{module}.".startswith(f"{error.name}."):
      raise  # It exists, and what it imports does not.
    raise errors.ConfigError(
      f"module {module!r} of collections cannot be imported: is it spelt right,"
      " and is its folder the current one, or on PYTHONPATH?"
    ) from error
  known = loaded.COLLECTIONS
  folder = pathlib.Path(str(loaded.__file__)).with_name("templates")
  for name in names or ():
    if name not in known:
      near = errors.suggest(name, known) or f"; known are {', '.join(known)}"
      raise errors.ConfigError(f"no collection is called {name!r}{near}")
  return {
    name: Written(
      known[name],
      template_files.load(
        folder / f"{name}.toml",
        cluster=known[name].cluster,
        fields=known[name].fields,
        options=known[name].options,
        own_options=known[name].own_options,
      ),
    )
    for name in (known if names is None else names)
  }


class Part(seqio.DataSource):
  """Some splits of a source, and of train no more than the first so many.

  Args:
    source: of a collection.
    splits: of it.
    maximum: of train, as Flan limits data sets to 30,000 examples.
    digest: tells what is made of the examples.
  """

  def __init__(
    self,
    source: seqio.DataSource,
    splits: Sequence[str],
    maximum: int | None,
    digest: str,
  ):
    super().__init__(splits=splits, caching_permitted=False)
    self._source = source
    self._maximum = maximum
    self.digest = digest

  @property
  def supports_arbitrary_sharding(self) -> bool:
    """False: files are divided, or examples where there is a limit."""
    return False

  def num_input_examples(self, split: str) -> int | None:
    """Returns the number of examples of a split, if the source tells."""
    count = self._source.num_input_examples(split)
    limit = self._limit(split)
    return limit if limit is not None else count

  def list_shards(self, split: str) -> Sequence[str]:
    """Returns the files of a split; a stand-in for one where it is cut."""
    files = self._source.list_shards(split)
    return files if self._limit(split) is None else files[:1]

  def get_dataset(
    self,
    split: str = "train",
    shuffle: bool = True,
    seed: int | None = None,
    shard_info: seqio.ShardInfo | None = None,
    **unused: object,
  ) -> tf.data.Dataset:
    """Returns the examples; those of a split that is cut in their order."""
    limit = self._limit(split)
    if limit is None:
      return self._source.get_dataset(
        split=split, shuffle=shuffle, seed=seed, shard_info=shard_info
      )
    found = self._source.get_dataset(split=split, shuffle=False).take(limit)
    if shard_info is None:
      return found
    return found.shard(shard_info.num_shards, shard_info.index)

  def _limit(self, split: str) -> int | None:
    """Returns to how many examples a split is cut, None if it is not."""
    if split != "train" or self._maximum is None:
      return None
    count = self._source.num_input_examples(split)
    if count is not None and count <= self._maximum:
      return None
    return self._maximum


def add(
  name: str,
  written: Written,
  templates: Sequence[template_lib.Template],
  *,
  training: bool,
  options: str,
  style: str,
  exemplars: rendering.Exemplars,
  maximum: int | None,
) -> str:
  """Registers a task of prompts once; returns what tells it from others.

  Args:
    name: of the task.
    written: the collection.
    templates: to draw from.
    training: on the train split without metrics; otherwise on all others.
    options: a key of `formats.OPTIONS`.
    style: one of `formats.STYLES`.
    exemplars: in front of each question.
    maximum: of train examples.

  Raises:
    errors.ConfigError: another task has this name, or the collection has no
      split for this.
  """
  collection = written.collection
  renderer = rendering.Renderer(
    collection,
    tuple(templates),
    written.templates.exemplars,
    options,
    style,
    exemplars,
  )
  source = collection.source()
  splits = [s for s in source.splits if (s == "train") == training]
  if not splits:
    raise errors.ConfigError(
      f"collection {collection.name!r} has no split to "
      f"{'train' if training else 'evaluate'} on: leave it out"
    )
  digest = _digest(renderer, training, maximum)
  if name in seqio.TaskRegistry.names():
    _check_same(name, digest)
    return digest
  metric, several = answers.metric(collection)
  # Of a prompt that is too long the first exemplars go, not the question.
  keep_end = ("inputs",) if exemplars.count else ()
  seqio.TaskRegistry.add(
    name,
    source=Part(source, splits, maximum, digest),
    preprocessors=[
      renderer.preprocess,
      functools.partial(preprocessors.tokenize_pairs, keep_end=keep_end),
    ],
    output_features=features.features("inputs", "targets"),
    postprocess_fn=answers.Reader(
      renderer.templates, collection.options, several, style == "letters"
    ),
    metric_fns=[] if training else [metric],
  )
  return digest


def rate(maximum: int | None, share: float) -> mixtures.Rate:
  """Returns a rate in proportion to a task's size, times its share."""
  return functools.partial(_rate, mixtures.proportional(maximum), share)


def _rate(whole: mixtures.Rate, share: float, task: seqio.Task) -> float:
  return whole(task) * share


def _digest(
  renderer: rendering.Renderer, training: bool, maximum: int | None
) -> str:
  written = [dataclasses.asdict(t) for t in renderer.templates]
  layout = dataclasses.asdict(renderer.layout)
  exemplars = dataclasses.asdict(renderer.exemplars)
  options = [renderer.options, renderer.style]
  parts = [_VERSION, written, layout, *options, exemplars]
  where = [type(renderer.collection).__module__, renderer.collection.name]
  return cache.digest([*parts, *where, training, maximum])


def _check_same(name: str, digest: str) -> None:
  source = seqio.TaskRegistry.get(name).source
  if getattr(source, "digest", None) != digest:
    raise errors.ConfigError(
      f"a task {name!r} of other settings is registered already: give "
      "Mixture.name another value"
    )
