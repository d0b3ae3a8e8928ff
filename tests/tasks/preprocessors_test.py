"""Preprocessors inside SeqIO tasks: nothing lost, seeded, rebindable."""

import functools
import os

import numpy as np
import pytest
import seqio
import tensorflow as tf

from t5x_lite import errors
from tasks import preprocessors, rows

BYTES = seqio.ByteVocabulary(extra_ids=100)
LOWEST = 259  # Ids from here on are sentinels of BYTES.
LENGTHS = {"inputs": 64, "targets": 24}
TEXTS = [
  "".join(chr(97 + (i * i + 7 * j) % 26) for j in range(length))
  for i, length in enumerate([5, 300, 1, 0, 77, 120, 64, 2, 43, 501] * 3)
]


def _task(
  *preprocessing,
  texts=tuple(TEXTS),
  features=("inputs", "targets"),
  vocabulary=BYTES,
  **tokenizing,
):
  tokenize = functools.partial(
    preprocessors.tokenize_documents, **({"batch": 8} | tokenizing)
  )

  def read(split, shuffle_files, seed=None):
    del split, shuffle_files, seed
    return tf.data.Dataset.from_tensor_slices({"text": list(texts)})

  return seqio.Task(
    "documents",
    source=seqio.FunctionDataSource(read, splits=["train"]),
    preprocessors=[tokenize, *preprocessing],
    output_features={name: seqio.Feature(vocabulary) for name in features},
  )


def _examples(task, lengths=None, seed=0, **kwargs):
  lengths = LENGTHS if lengths is None else lengths
  dataset = task.get_dataset(
    lengths, "train", shuffle=False, seed=seed, **kwargs
  )
  return list(dataset.as_numpy_iterator())


def _restore(example):
  """Puts the noise of a corrupted example back; checks sentinels and EOS."""
  inputs, targets = example["inputs"], example["targets"]
  assert inputs[-1] == 1 and targets[-1] == 1
  inputs, targets = inputs[:-1], targets[:-1]
  places = np.flatnonzero(targets >= LOWEST)
  expected = BYTES.vocab_size - 1 - np.arange(len(places))
  np.testing.assert_array_equal(targets[places], expected)
  np.testing.assert_array_equal(inputs[inputs >= LOWEST], expected)
  spans = iter(np.split(targets, places)[1:])
  text = []
  for token in inputs:
    text.extend(next(spans)[1:] if token >= LOWEST else [token])
  return "".join(chr(token - 3) for token in text)


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize(
  "objective",
  [preprocessors.span_corruption, preprocessors.iid_span_corruption],
)
def test_joined_rows_are_the_documents_one_after_the_other(objective, number):
  examples = _examples(_task(objective), seed=number)
  for example in examples:
    assert len(example["inputs"]) <= 64 and len(example["targets"]) <= 24
  # Batches of 8 documents; a last row of one token is dropped.
  batches = ["".join(TEXTS[i : i + 8]) for i in range(0, len(TEXTS), 8)]
  found = "".join(_restore(example) for example in examples)
  if objective is preprocessors.span_corruption:
    width = 70
    kept = [b[:-1] if len(b) % width == 1 else b for b in batches]
    assert found == "".join(kept)
    assert len(examples[0]["inputs"]) == 64
  else:
    assert len("".join(batches)) - len(found) <= len(batches)


def test_rows_that_stay_within_their_document():
  split = functools.partial(preprocessors.span_corruption, join=False)
  found = [_restore(example) for example in _examples(_task(split))]
  expected = [t[i : i + 70] for t in TEXTS for i in range(0, len(t), 70)]
  assert found == [piece for piece in expected if len(piece) > 1]


def test_t5_lengths_are_filled_exactly():
  task = _task(preprocessors.span_corruption, texts=["a" * 568 * 4])
  for lengths in ({"inputs": 512, "targets": 114}, None):
    dataset = task.get_dataset(lengths, "train", shuffle=False, seed=1)
    examples = list(dataset.as_numpy_iterator())
    sizes = [(len(e["inputs"]), len(e["targets"])) for e in examples]
    assert sizes == [(512, 114)] * 4


def test_seeds_decide_and_epochs_and_shards_differ():
  task = _task(preprocessors.span_corruption, texts=["ab" * 568] * 20)
  lengths = {"inputs": 512, "targets": 114}
  first, again, other = (
    _examples(task, lengths, seed=seed, num_epochs=2) for seed in (0, 0, 1)
  )
  for left, right in zip(first, again, strict=True):
    np.testing.assert_array_equal(left["targets"], right["targets"])
  noise = {tuple(e["inputs"] >= LOWEST) for e in first + other}
  assert len(first) == 80 and len(noise) == 160
  # Shards share the seed, but not the noise.
  texts = ["a" * 700, "b" * 700]
  noise = []
  for text in texts:
    example = _examples(_task(preprocessors.span_corruption, texts=[text]))[0]
    noise.append(tuple(example["inputs"] >= LOWEST))
  assert noise[0] != noise[1]


@pytest.mark.parametrize(
  "objective",
  [
    preprocessors.span_corruption,
    preprocessors.iid_span_corruption,
    preprocessors.prefix_lm,
  ],
)
def test_an_iterator_resumes_within_a_batch(objective, tmp_path):
  task = _task(objective)
  dataset = task.get_dataset(LENGTHS, "train", seed=3, num_epochs=None)
  iterator = iter(dataset)
  for _ in range(11):
    next(iterator)
  path = tf.train.Checkpoint(it=iterator).write(str(tmp_path / "iterator"))
  expected = [next(iterator) for _ in range(40)]
  restored = iter(dataset)
  tf.train.Checkpoint(it=restored).read(path).assert_consumed()
  for example in expected:
    resumed = next(restored)
    for name in example:
      np.testing.assert_array_equal(example[name], resumed[name])
  # No Python in the graph: its state could not be saved.
  graph = dataset._as_serialized_graph().numpy()
  assert b"UnbatchDataset" in graph
  assert b"PyFunc" not in graph and b"GeneratorDataset" not in graph


def test_of_a_very_long_document_a_random_stretch_is_used():
  text = "".join(chr(32 + i % 95) for i in range(5000))
  stretch = functools.partial(preprocessors.span_corruption, max_document=500)
  starts = set()
  for seed in range(3):
    task = _task(stretch, texts=["xyz", text, "tail"])
    joined = "".join(_restore(e) for e in _examples(task, seed=seed))
    assert joined.startswith("xyz") and joined.endswith("tail")
    assert len(joined) == 507 and joined[3:-4] in text
    starts.add(joined[3:20])
  assert len(starts) == 3


def test_prefix_lm_cuts_rows_anywhere_and_ends_documents_with_eos():
  task = _task(preprocessors.prefix_lm, end_documents=True, batch=30)
  lengths = {"inputs": 20, "targets": 31}
  examples = _examples(task, lengths)
  joined = np.concatenate(
    [part for e in examples for part in (e["inputs"], e["targets"])]
  )
  expected = "".join(text + "\n" for text in TEXTS)
  found = "".join("\n" if t == 1 else chr(t - 3) for t in joined)
  assert found == expected[: len(found)] and len(expected) - len(found) <= 1
  places = [len(e["inputs"]) for e in examples[:-1]]
  assert set(places) == set(range(1, 21))


def test_language_modeling_loses_nothing():
  task = _task(
    preprocessors.language_modeling, features=("targets",), end_documents=True
  )
  examples = _examples(task, {"targets": 50})
  joined = [t for example in examples for t in example["targets"]]
  found = "".join("\n" if t == 1 else chr(t - 3) for t in joined)
  assert found == "".join(text + "\n" for text in TEXTS)
  assert {len(e["targets"]) for e in examples[:10]} == {50}


def test_pairs_are_tokenized_as_seqio_does():
  texts = [*TEXTS[:9], "naïve café", ""]

  def read(split, shuffle_files, seed=None):
    del split, shuffle_files, seed
    pairs = {"inputs": texts, "targets": texts[::-1], "lead": texts}
    return tf.data.Dataset.from_tensor_slices(pairs)

  task = seqio.Task(
    "pairs",
    source=seqio.FunctionDataSource(read, splits=["train"]),
    preprocessors=[functools.partial(preprocessors.tokenize_pairs, batch=4)],
    output_features={
      "inputs": seqio.Feature(BYTES, add_eos=False),
      "targets": seqio.Feature(BYTES),
    },
  )
  usual = task.replace(
    preprocessors=[
      seqio.preprocessors.tokenize,
      seqio.preprocessors.append_eos_after_trim,
    ]
  )
  for lengths in ({}, {"inputs": 30, "targets": 20}):
    ours, theirs = (_examples(t, lengths) for t in (task, usual))
    for left, right in zip(ours, theirs, strict=True):
      assert left.keys() == right.keys()
      for name in left:
        np.testing.assert_array_equal(left[name], right[name], name)


def test_a_task_takes_another_vocabulary():
  other = seqio.ByteVocabulary(extra_ids=20)
  task = _task(preprocessors.span_corruption)
  features = {name: seqio.Feature(other) for name in ("inputs", "targets")}
  rebound = task.replace(output_features=features)
  assert max(e["targets"].max() for e in _examples(task)) == 358
  assert max(e["targets"].max() for e in _examples(rebound)) == 278


def test_sentinels_of_vocabularies():
  assert rows.sentinels(BYTES) == (358, 100)
  # ByT5 reuses the last 100 bytes.
  assert rows.sentinels(seqio.ByteVocabulary()) == (258, 100)
  with pytest.raises(errors.ConfigError, match="extra_ids=100"):
    rows.sentinels(seqio.PassThroughVocabulary(100))


def test_sentinels_inside_a_sentencepiece_model(tmp_path):
  import sentencepiece
  from sentencepiece import sentencepiece_model_pb2

  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(TEXTS),
    model_prefix=str(tmp_path / "plain"),
    vocab_size=40,
    pad_id=0,
    eos_id=1,
    unk_id=2,
    bos_id=-1,
    hard_vocab_limit=False,
    minloglevel=2,
  )
  plain = tmp_path / "plain.model"
  model = sentencepiece_model_pb2.ModelProto.FromString(plain.read_bytes())
  size = len(model.pieces)
  for i in (2, 1, 0):
    model.pieces.add(piece=f"▁<extra_id_{i}>", score=0.0, type=4)
  inside = tmp_path / "inside.model"
  inside.write_bytes(model.SerializeToString())
  vocabulary = seqio.SentencePieceVocabulary
  assert rows.sentinels(vocabulary(str(inside))) == (size + 2, 3)
  assert rows.sentinels(vocabulary(str(plain), 3)) == (size + 2, 3)
  with pytest.raises(errors.ConfigError, match="extra_ids=100"):
    rows.sentinels(vocabulary(str(plain)))


@pytest.mark.skipif(
  not os.path.exists(os.environ.get("T5X_LITE_VOCAB", "")),
  reason="T5X_LITE_VOCAB names no SentencePiece model",
)
def test_a_real_vocabulary_reads_a_batch_as_it_reads_one_text():
  vocabulary = seqio.SentencePieceVocabulary(
    os.environ["T5X_LITE_VOCAB"], use_fast_tokenizer=True
  )
  texts = ["The quick brown fox", "", "naïve cafés, twice"]
  ids = rows.encode(vocabulary, tf.constant(texts)).to_list()
  assert ids == [vocabulary.encode(text) for text in texts]


@pytest.mark.parametrize(
  "lengths, extra_ids, match",
  [
    ({"inputs": 512, "targets": 100}, 100, "targets to 114"),
    ({"inputs": 512, "targets": 114}, 20, "28 noise spans, .* 20 sentinels"),
  ],
)
def test_settings_that_cannot_work_are_refused(lengths, extra_ids, match):
  vocabulary = seqio.ByteVocabulary(extra_ids)
  task = _task(preprocessors.span_corruption, vocabulary=vocabulary)
  with pytest.raises(errors.ConfigError, match=match):
    task.get_dataset(lengths, "train")
