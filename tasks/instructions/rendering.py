"""From the texts of an example to a prompt and what is to be answered.

A template is drawn for every example, and with it whether the options are
shown and which exemplars come first.  All of that hangs on SeqIO's stateless
seeds; nothing here branches, so that a prompt costs about what its strings do:
templates are rows of a table of literals and of numbers of fields, and a text
is what a row gathers, joined.

Letters: V variants of templates, P pieces of a text, F fields, N examples of
one prompt (the exemplars, then the example), E examples in the pool.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from t5x_lite import errors
from tasks.instructions import formats
from tasks.instructions import options as options_lib
from tasks.instructions import template as template_lib

Template = template_lib.Template

# Between the answers that are all right, in an example's `references`.
BETWEEN = "\x1f"
# Of more examples than this, the pool is drawn from the first so many.
_BUFFER = 10_000
# What must not be alike in an example and its exemplars is all but these.
_GIVEN_AWAY = (
  template_lib.ANSWER,
  template_lib.RATIONALE,
  template_lib.LETTER,
)


@dataclasses.dataclass(frozen=True)
class Exemplars:
  """Solved examples in front of a question, from the train split alone.

  Attributes:
    count: of a prompt, drawn anew for each.
    pool: how many there are to draw from.
    seed: of the pool, which is the same in all prompts of a run.
  """

  count: int = 0
  pool: int = 64
  seed: int = 0


@dataclasses.dataclass(frozen=True)
class Renderer:
  """A preprocessor: examples of a collection become prompts.

  What comes out has `inputs`, `targets` and `answer`, the number of the
  `template`, and `references`, all right answers with `BETWEEN` in between;
  where each example has options of its own and letters stand for them, also
  the `options`.

  Attributes:
    collection: whose examples these are.
    templates: to draw from.
    layout: of prompts with exemplars.
    options: a key of `formats.OPTIONS`.
    style: one of `formats.STYLES`.
    exemplars: how many, and which.
  """

  collection: Any
  templates: tuple[Template, ...]
  layout: template_lib.Layout
  options: str
  style: str
  exemplars: Exemplars

  def preprocess(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Returns the prompts of the examples in `dataset` that have an answer.

    Raises:
      errors.DataError: the train split has too few examples for the pool.
    """
    pool = self._pool  # Read here, not while TensorFlow traces.

    @seqio.map_over_dataset(num_seeds=1)
    def render(fields: Mapping[str, Any], seed: tf.Tensor) -> dict[str, Any]:
      known = tf.constant(pool, tf.string)
      return self._prompt(fields, tf.stack(tuple(seed)), known)

    return render(dataset.map(self.collection.read).filter(_answered))

  def _prompt(
    self, fields: Mapping[str, tf.Tensor], seed: tf.Tensor, pool: tf.Tensor
  ) -> dict[str, tf.Tensor]:
    """Returns the prompt of an example; `pool` is [E F]."""
    size = pool.shape[0]
    drawn = tf.random.stateless_uniform([2 + size], seed)
    template = tf.cast(drawn[0] * len(self.templates), tf.int32)
    shown = drawn[1] < formats.OPTIONS[self.options]
    variant = 2 * template + tf.cast(shown, tf.int32)

    own = self._values(fields)
    count = self.exemplars.count
    same = tf.equal(_keys(pool, self._kept), _keys(own[None], self._kept))
    chosen = tf.math.top_k(tf.where(same, -1.0, drawn[2:]), count).indices
    values = tf.concat([tf.gather(pool, chosen), own[None]], 0)
    values = self._worded(values, template)

    inputs = self._inputs.render(variant, values)
    targets = self._targets.render(variant, values)
    references = fields.get("references", fields["answer"][None])
    own_letters = self._letters and self.collection.own_options
    listed = _joined(fields["options"]) if own_letters else None
    return ({} if listed is None else {"options": listed}) | {
      "inputs": self._laid_out(inputs, targets) if count else inputs[0],
      "targets": targets[-1],
      "answer": fields["answer"],
      "references": _joined(references),
      "template": template,
    }

  def _laid_out(self, inputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """Returns one prompt of the exemplars and the question, [N] all."""
    layout = self.layout
    between = f"\n{layout.targets_prefix}"
    solved = tf.strings.join(
      [layout.inputs_prefix, inputs, between, targets, layout.separator]
    )
    question = [layout.inputs_prefix, inputs[-1], between.rstrip()]
    return tf.strings.join([tf.strings.reduce_join(solved[:-1]), *question])

  def _values(self, fields: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """Returns the texts that templates name, [F], in order of `_names`."""
    values = [fields[name] for name in self.collection.fields]
    if self.collection.own_options:
      options = fields["options"]
      values.append(options_lib.listed(options, self.style))
      answer = fields[template_lib.ANSWER]
      same = tf.equal(options, answer)
      letter = tf.gather(options_lib.letters(options), tf.argmax(_number(same)))
      values.append(tf.where(tf.reduce_any(same), letter, answer))
    elif self.collection.options:
      values += ["", ""]  # The template words them.
    return tf.stack(values)

  def _worded(self, values: tf.Tensor, template: tf.Tensor) -> tf.Tensor:
    """Returns the values [N F] with options and answers as a template has it.

    An answer that is no option, such as that of a test split, stays as it is.
    """
    options = self.collection.options
    if not options:
      return values
    words = [template.wordings or options for template in self.templates]
    wordings = tf.gather(tf.constant(words), template)
    columns = tf.unstack(values, axis=1)
    at = self._names.index(template_lib.ANSWER)
    same = tf.equal(columns[at][:, None], tf.constant(options))
    worded = tf.gather(wordings, tf.argmax(_number(same), axis=1))
    chosen = tf.gather(
      options_lib.letters(wordings), tf.argmax(_number(same), axis=1)
    )
    known = tf.reduce_any(same, 1)
    columns[at] = tf.where(known, worded, columns[at])
    listed = options_lib.listed(wordings, self.style)
    columns[-2] = tf.broadcast_to(listed, tf.shape(columns[-2]))
    columns[-1] = tf.where(known, chosen, columns[at])
    return tf.stack(columns, axis=1)

  @property
  def _names(self) -> tuple[str, ...]:
    if not self.collection.has_options:
      return self.collection.fields
    options = (template_lib.OPTIONS, template_lib.LETTER)
    return (*self.collection.fields, *options)

  @property
  def _letters(self) -> bool:
    return self.style == "letters"

  @property
  def _kept(self) -> list[int]:
    """The fields that tell examples apart, answers aside."""
    names = enumerate(self._names)
    return [i for i, name in names if name not in _GIVEN_AWAY]

  # Of every template the variant without options, then the one with them.

  @property
  def _inputs(self) -> "_Table":
    texts: list[template_lib.Text] = []
    for template in self.templates:
      inputs = template.inputs
      last = inputs.with_options() if self._lists(template) else inputs
      texts += [inputs.without_options(), last]
    return _Table(texts, self._names)

  @property
  def _targets(self) -> "_Table":
    texts: list[template_lib.Text] = []
    for template in self.templates:
      by_letter = self._letters and self._lists(template)
      last = template.targets.by_letter() if by_letter else template.targets
      texts += [template.targets, last]
    return _Table(texts, self._names)

  def _lists(self, template: Template) -> bool:
    """Whether options belong to a template: it asks for one of them."""
    asks = template_lib.ANSWER in template.targets.fields
    return asks and self.collection.has_options

  @functools.cached_property
  def _pool(self) -> np.ndarray:
    """The values of the pool's examples, [E F]."""
    if not self.exemplars.count:
      return np.zeros([0, len(self._names)], object)
    return self._drawn()

  def _drawn(self) -> np.ndarray:
    """Reads the train split for a pool in which no two examples are alike."""
    exemplars = self.exemplars
    source = self.collection.source()
    examples = source.get_dataset("train", shuffle=False)
    values = (
      examples.shuffle(_BUFFER, seed=exemplars.seed)
      .map(self.collection.read)
      .filter(_answered)
      .map(self._values)
    )
    found: dict[tuple, np.ndarray] = {}
    for row in values.as_numpy_iterator():
      found.setdefault(tuple(row[self._kept]), row)
      if len(found) == exemplars.pool:
        break
    if len(found) <= exemplars.count:
      raise errors.DataError(
        f"collection {self.collection.name!r} has {len(found)} examples in its "
        f"train split that differ, too few to draw {exemplars.count} exemplars "
        "that are not the example itself: ask for fewer, or leave it out"
      )
    return np.stack(list(found.values()))


class _Table:
  """Texts with fields as arrays; see the module."""

  def __init__(self, texts: Sequence[template_lib.Text], names: Sequence[str]):
    width = max(len(text.pieces) for text in texts)
    self._literals = np.full([len(texts), width], "", object)
    # The number past the last field stands for nothing.
    self._fields = np.full([len(texts), width], len(names), np.int32)
    for row, text in enumerate(texts):
      for column, (literal, field) in enumerate(text.pieces):
        self._literals[row, column] = literal
        if field is not None:
          self._fields[row, column] = list(names).index(field)

  def render(self, variant: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    """Returns the texts [N] of examples whose fields are `values` [N F]."""
    values = tf.pad(values, [[0, 0], [0, 1]], constant_values="")
    fields = tf.gather(values, tf.gather(self._fields, variant), axis=1)
    literals = tf.gather(tf.constant(self._literals, tf.string), variant)
    literals = tf.broadcast_to(literals, tf.shape(fields))
    pieces = tf.stack([literals, fields], axis=2)
    joined = tf.strings.reduce_join(pieces, axis=2)
    return tf.strings.reduce_join(joined, axis=1)


def _joined(texts: tf.Tensor) -> tf.Tensor:
  return tf.strings.reduce_join(texts, separator=BETWEEN)


def _number(mask: tf.Tensor) -> tf.Tensor:
  return tf.cast(mask, tf.int32)


def _keys(values: tf.Tensor, kept: Sequence[int]) -> tf.Tensor:
  """Returns texts [N] that tell examples apart, answers aside."""
  return tf.strings.reduce_join(
    tf.gather(values, list(kept), axis=1), axis=1, separator=BETWEEN
  )


def _answered(fields: Mapping[str, tf.Tensor]) -> tf.Tensor:
  return tf.strings.length(fields[template_lib.ANSWER]) > 0
