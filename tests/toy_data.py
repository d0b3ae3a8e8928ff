"""Small SeqIO tasks on files, registered under names of their own."""

import itertools
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

LENGTHS = {"inputs": 24, "targets": 16}
_number = itertools.count()


def sentences(count: int, seed: int = 0) -> list[str]:
  """Returns texts of 1 to 20 letters that start with their number."""
  rng = np.random.default_rng(seed)
  return [
    f"{index}:" + "abcdefghijklmnopqrst"[: rng.integers(1, 17)]
    for index in range(count)
  ]


def write(directory: pathlib.Path, texts: Sequence[str], files: int) -> None:
  """Deals the lines to `files` files."""
  directory.mkdir(exist_ok=True)
  for index in range(files):
    lines = "".join(f"{text}\n" for text in texts[index::files])
    (directory / f"part-{index}.txt").write_text(lines)


def task(
  directory: pathlib.Path | None = None,
  *,
  splits: Mapping[str, str] | None = None,
  source=None,
  preprocessors: Sequence = (),
  features: Sequence[str] = ("inputs", "targets"),
  **options,
) -> str:
  """Registers a task with bytes as vocabulary; returns its name.

  The text becomes `targets`; `inputs` is the same rotated by a random number
  of places.
  """
  import seqio
  import tensorflow as tf

  @seqio.map_over_dataset(num_seeds=1)
  def rotate(example, seed):
    ids = example["targets"]
    shift = tf.random.stateless_uniform(
      [], seed, maxval=tf.maximum(tf.size(ids), 1), dtype=tf.int32
    )
    return {"inputs": tf.roll(ids, shift, 0), "targets": ids}

  splits = splits or {"train": "part-*.txt"}
  if source is None:
    source = seqio.TextLineDataSource(
      {split: f"{directory}/{glob}" for split, glob in splits.items()}
    )
  name = f"toy_{next(_number)}"
  seqio.TaskRegistry.add(
    name,
    source=source,
    preprocessors=[
      lambda ds: ds.map(lambda text: {"targets": text}),
      seqio.preprocessors.tokenize,
      rotate,
      *preprocessors,
    ],
    output_features={
      feature: seqio.Feature(seqio.ByteVocabulary(), add_eos=False)
      for feature in features
    },
    **options,
  )
  return name


def mixture(rates: Mapping[str, float]) -> str:
  """Registers a mixture; returns its name."""
  import seqio

  name = f"toy_{next(_number)}"
  seqio.MixtureRegistry.add(name, list(rates.items()))
  return name


def texts(batch: Mapping[str, np.ndarray], feature: str = "targets") -> list:
  """Returns the texts in the rows of a batch, in order."""
  found = []
  for ids, segments in zip(
    batch[feature], batch[f"{feature}_segment_ids"], strict=True
  ):
    for segment in range(1, segments.max(initial=0) + 1):
      tokens = ids[segments == segment]
      found.append(bytes((tokens - 3).tolist()).decode())
  return found
