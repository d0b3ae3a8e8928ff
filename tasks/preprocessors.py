"""SeqIO preprocessors: from documents or text pairs to token examples.

A pre-training task lists `tokenize_documents` and then one objective:

    preprocessors=[
      functools.partial(preprocessors.tokenize_documents, key="text"),
      preprocessors.span_corruption,
    ]

A task with inputs and targets ends with `tokenize_pairs`.  Vocabularies come
from the `output_features` that SeqIO passes, never from the registration, so
that a task can be given another vocabulary.  What comes out are single
examples that fit the lengths SeqIO passes, and end in EOS where the feature
asks for it.  All randomness is drawn from SeqIO's seeds.
"""

from collections.abc import Callable, Mapping, Sequence

import seqio
import tensorflow as tf

from t5x_lite import errors
from tasks import cacheable, corruption, rows

Features = Mapping[str, seqio.Feature]
Lengths = Mapping[str, int] | None
# T5's, for those who ask for a dataset without lengths.
DEFAULT_LENGTHS = {"inputs": 512, "targets": 114}
# Of longer documents T5 uses a random stretch.
MAX_DOCUMENT = 65536


@cacheable.documents
def tokenize_documents(
  dataset: tf.data.Dataset,
  output_features: Features,
  *,
  key: str = "text",
  end_documents: bool = False,
  batch: int = 128,
) -> tf.data.Dataset:
  """Tokenizes the strings under `key`; returns batches of documents.

  With `end_documents`, EOS follows each document if the targets want EOS.
  """
  feature = output_features["targets"]
  end = feature.vocabulary.eos_id  # Loads the vocabulary, or tells why not.

  def tokenize(examples: rows.Batch) -> dict[str, tf.Tensor]:
    tokens = rows.encode(feature.vocabulary, examples[key])
    if end_documents and feature.add_eos:
      tokens = rows.append(tokens, end)
    lengths = tf.cast(tokens.row_lengths(), tf.int32)
    return {"tokens": tokens.flat_values, "lengths": lengths}

  return dataset.batch(batch).map(tokenize, num_parallel_calls=tf.data.AUTOTUNE)


@cacheable.examples
def tokenize_pairs(
  dataset: tf.data.Dataset,
  output_features: Features,
  sequence_length: Lengths = None,
  *,
  keep_end: Sequence[str] = (),
  batch: int = 128,
) -> tf.data.Dataset:
  """Tokenizes the features, cuts them to length and appends EOS.

  Keeps the text as `inputs_pretokenized` and so on, and other keys as they
  are, for metrics to read.  What is too long loses its end, but features of
  `keep_end` their beginning: prompts whose question is last.
  """
  # Loads the vocabularies, or tells why not.
  ends = {k: f.vocabulary.eos_id for k, f in output_features.items()}

  def tokenize(examples: rows.Batch) -> dict[str, tf.Tensor | tf.RaggedTensor]:
    result = dict(examples)
    for name, feature in output_features.items():
      if name not in examples:
        continue
      result[f"{name}_pretokenized"] = examples[name]
      ids = rows.encode(feature.vocabulary, examples[name])
      length = (sequence_length or {}).get(name)
      if length is not None:
        room = length - int(feature.add_eos)
        late = name in keep_end and room > 0
        ids = ids[:, -room:] if late else ids[:, :room]
      if feature.add_eos:
        ids = rows.append(ids, ends[name])
      result[name] = ids
    return result

  # Features of any length, such as a list of answers, become ragged.
  shapes = [spec.shape for spec in tf.nest.flatten(dataset.element_spec)]
  varies = any(shape.rank and not shape.is_fully_defined() for shape in shapes)
  batches = dataset.ragged_batch(batch) if varies else dataset.batch(batch)
  return rows.unbatch(
    batches.map(tokenize, num_parallel_calls=tf.data.AUTOTUNE)
  )


def span_corruption(
  dataset: tf.data.Dataset,
  sequence_length: Lengths,
  output_features: Features,
  *,
  density: float = 0.15,
  mean_span: float = 3.0,
  join: bool = True,
  max_document: int | None = MAX_DOCUMENT,
) -> tf.data.Dataset:
  """T5's objective: the model fills in what random spans of the text held.

  Args:
    dataset: batches of documents.
    sequence_length: of inputs and targets, sentinels and EOS included.
    output_features: inputs and targets.
    density: the share of tokens that are noise.
    mean_span: tokens of a noise span, on average.
    join: cut rows from all documents of a batch, one after the other (T5);
      otherwise a row stays within its document.
    max_document: of longer documents, a random stretch of so many tokens.

  Raises:
    errors.ConfigError: the lengths do not fit each other, or the vocabulary
      has too few sentinels.
  """
  lengths = sequence_length or DEFAULT_LENGTHS
  width, needed = corruption.raw_length(lengths["inputs"], density, mean_span)
  if needed > lengths["targets"]:
    raise errors.ConfigError(
      f"span corruption of inputs of length {lengths['inputs']} makes targets "
      f"of length {needed}, but they are limited to {lengths['targets']}: set "
      f"the feature length of targets to {needed}"
    )
  first, count = rows.sentinels(output_features["targets"].vocabulary)
  spans = corruption.span_counts(width, density, mean_span)[1]
  if spans > count:
    raise errors.ConfigError(
      f"inputs of length {lengths['inputs']} hold {spans} noise spans, but "
      f"the vocabulary has {count} sentinels: give it more extra_ids, or use "
      "shorter inputs or a longer mean span"
    )

  def noise(batch: rows.Batch, seed: tf.Tensor) -> tf.Tensor:
    return corruption.random_spans_mask(
      batch["lengths"], seed, density=density, mean_span=mean_span
    )

  pieces = rows.split(
    dataset, width, join=join, max_document=max_document, min_row=2
  )
  return _corrupt(pieces, output_features, noise, first)


def iid_span_corruption(
  dataset: tf.data.Dataset,
  sequence_length: Lengths,
  output_features: Features,
  *,
  density: float = 0.15,
  join: bool = True,
  max_document: int | None = MAX_DOCUMENT,
) -> tf.data.Dataset:
  """Like `span_corruption`, but each token is noise by itself.

  Noise tokens that touch share a sentinel; spans are short and many, so 512
  inputs want about 190 targets (the row shrinks to fit fewer).  Should noise
  outgrow the targets or the sentinels, the rest of that row stays as it is.
  """
  lengths = sequence_length or DEFAULT_LENGTHS
  limit = lengths["targets"]
  width = corruption.iid_raw_length(lengths["inputs"], limit, density)
  first, count = rows.sentinels(output_features["targets"].vocabulary)

  def noise(batch: rows.Batch, seed: tf.Tensor) -> tf.Tensor:
    mask = corruption.iid_mask(batch["lengths"], seed, density=density)
    return corruption.limit_noise(
      mask, batch["lengths"], sentinels=count, targets_length=limit
    )

  pieces = rows.split(
    dataset, width, join=join, max_document=max_document, min_row=2
  )
  return _corrupt(pieces, output_features, noise, first)


def _corrupt(
  pieces: tf.data.Dataset,
  output_features: Features,
  noise: Callable[[rows.Batch, tf.Tensor], tf.Tensor],
  first_sentinel: int,
) -> tf.data.Dataset:
  """Corrupts batches of rows by the mask that `noise` draws."""
  ends = {
    name: feature.vocabulary.eos_id if feature.add_eos else None
    for name, feature in output_features.items()
  }

  @seqio.map_over_dataset(num_seeds=1)
  def corrupt(batch: rows.Batch, seed: tf.Tensor) -> dict[str, tf.RaggedTensor]:
    mask = noise(batch, rows.seed_of(seed, batch["tokens"]))
    return corruption.corrupt(
      batch["tokens"],
      batch["lengths"],
      mask,
      first_sentinel=first_sentinel,
      inputs_eos=ends["inputs"],
      targets_eos=ends["targets"],
    )

  return rows.unbatch(corrupt(pieces))


def prefix_lm(
  dataset: tf.data.Dataset,
  sequence_length: Lengths,
  *,
  join: bool = True,
  max_document: int | None = MAX_DOCUMENT,
) -> tf.data.Dataset:
  """Cuts each row at a random place: inputs, and targets that go on.

  A row is one token longer than the shorter of inputs and targets, so that
  every cut is equally likely (T5, section 3.2.1).  EOS is where
  `tokenize_documents` put it: at the ends of documents, not of rows.
  """
  limits = sequence_length or DEFAULT_LENGTHS
  width = min(limits["inputs"], limits["targets"]) + 1

  @seqio.map_over_dataset(num_seeds=1)
  def cut(batch: rows.Batch, seed: tf.Tensor) -> dict[str, tf.RaggedTensor]:
    tokens, lengths = batch["tokens"], batch["lengths"]
    seed = rows.seed_of(seed, tokens)
    draws = tf.random.stateless_uniform(
      tf.shape(lengths), seed, 0, 1, tf.float64
    )
    spread = tf.cast(lengths - 1, tf.float64)
    place = 1 + tf.cast(draws * spread, tf.int32)
    # Inputs and targets in turn, all of the tokens.
    parts = tf.reshape(tf.stack([place, lengths - place], 1), [-1])
    halves = rows.ragged(tokens, parts)
    return {"inputs": halves[::2], "targets": halves[1::2]}

  pieces = rows.split(
    dataset, width, join=join, max_document=max_document, min_row=2
  )
  return rows.unbatch(cut(pieces))


def language_modeling(
  dataset: tf.data.Dataset,
  sequence_length: Lengths,
  *,
  join: bool = True,
  max_document: int | None = None,
) -> tf.data.Dataset:
  """Rows of text as targets.

  EOS is where `tokenize_documents` put it: at the ends of documents.  All of
  a document is read by default, however long it is.
  """
  width = (sequence_length or {"targets": 512})["targets"]
  pieces = rows.split(
    dataset, width, join=join, max_document=max_document, min_row=1
  )

  def targets(batch: rows.Batch) -> dict[str, tf.RaggedTensor]:
    return {"targets": rows.ragged(batch["tokens"], batch["lengths"])}

  return rows.unbatch(pieces.map(targets, num_parallel_calls=tf.data.AUTOTUNE))
