"""The `infer` command: files in, JSON lines out, shards, kills, bad input."""

import gzip
import json
import logging
import pathlib
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
import seqio
import tensorflow as tf

from t5x_lite import (
  checkpoints,
  chunks,
  decoding,
  errors,
  infer,
  objectives,
  partitioning,
  sources,
  train_state,
  vocabularies,
)
from tests import tiny

BYTES = vocabularies.Bytes()
MODEL = tiny.t5(vocab=384)
LENGTH = 24
LINES = [f"line {i}: {'abcdefgh'[i % 8] * (i % 11)}" for i in range(23)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """A run directory with checkpoints of two steps."""
  workdir = tmp_path_factory.mktemp("run")
  with checkpoints.Checkpointer(every=1).open(workdir) as session:
    for step in (1, 2):
      model = tiny.fill(MODEL, seed=step)
      kernel = model.head.kernel[...].at[:, 1].multiply(2.0)
      model.head.kernel = model.head.kernel.replace(kernel)
      state = train_state.TrainState(np.int32(step), model, ())
      session.save(step, jax.tree.map(jax.numpy.asarray, state))
  return workdir


def _file(path, **kwargs):
  return sources.File(str(path), BYTES, {"inputs": LENGTH}, **kwargs)


def _text(tmp_path, lines=LINES, name="in.txt"):
  path = tmp_path / name
  path.write_text("".join(f"{line}\n" for line in lines))
  return path


def _infer(run, source, output=None, *, chunk_size=4, batch_size=4, **kwargs):
  shards = {k: kwargs.pop(k) for k in ("shard", "num_shards") if k in kwargs}
  path = None if output is None else str(output)
  return infer.infer(
    workdir=str(run),
    model=MODEL,
    objective=objectives.Seq2Seq(),
    partitioner=partitioning.Partitioner({"data": -1}, {}),
    source=source,
    batch_size=batch_size,
    output=chunks.Output(path, chunk_size=chunk_size, **shards),
    **({"decoder": decoding.Decoder(6)} | kwargs),
  )


def _rows(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
  """The uninterrupted result for LINES."""
  directory = tmp_path_factory.mktemp("whole")
  return _infer(run, _file(_text(directory)), directory / "out.jsonl")


def test_writes_a_line_for_each_line_in_order(whole):
  rows = _rows(whole)
  assert [row["inputs"] for row in rows] == LINES
  assert all(set(row) <= {"inputs", "prediction", "score"} for row in rows)
  assert len({row["prediction"] for row in rows}) > 3
  assert all(row["score"] < 0 for row in rows)
  names = sorted(path.name for path in whole.parent.iterdir())
  assert names == ["in.txt", "out.jsonl", "out.run.json"]


def test_predicts_what_the_decoder_gives(run, whole):
  model = checkpoints.restore_params(run, tiny.fill(MODEL))
  vocabulary, decode = BYTES.build(), jax.jit(decoding.Decoder(6))
  for row in _rows(whole)[:3]:
    ids = np.zeros((1, LENGTH), np.int32)
    tokens = [*vocabulary.encode(row["inputs"]), 1]
    ids[0, : len(tokens)] = tokens
    decoded = decode(model, {"encoder_input_tokens": ids})
    text = vocabulary.decode(np.asarray(decoded.tokens)[0].tolist())
    assert row["prediction"] == text
    assert row["score"] == pytest.approx(float(decoded.scores[0]), abs=1e-4)


def test_json_lines_keep_their_keys(run, tmp_path, whole):
  path = tmp_path / "in.jsonl.gz"
  lines = [{"id": i, "text": line, "é": [i]} for i, line in enumerate(LINES)]
  text = "".join(json.dumps(line) + "\n\n" for line in lines)  # blank lines
  path.write_bytes(gzip.compress(text.encode()))
  rows = _rows(_infer(run, _file(path, key="text"), tmp_path / "out.jsonl"))
  expected = [
    {"inputs": line["text"], "id": line["id"], "é": line["é"]}
    | {"prediction": row["prediction"], "score": row["score"]}
    for line, row in zip(lines, _rows(whole), strict=True)
  ]
  assert rows == expected


def test_shards_one_after_another_are_the_whole(run, tmp_path, whole):
  source, output = _file(_text(tmp_path)), tmp_path / "out.jsonl"
  paths = [
    _infer(run, source, output, shard=i, num_shards=3) for i in (2, 0, 1)
  ]
  names = [f"out-0000{i}-of-00003.jsonl" for i in (2, 0, 1)]
  assert [path.name for path in paths] == names
  rows = [row for path in sorted(paths) for row in _rows(path)]
  assert [row["inputs"] for row in rows] == LINES
  # Other examples share a batch, so the last digits may differ.
  for row, expected in zip(rows, _rows(whole), strict=True):
    assert row["prediction"] == expected["prediction"]
    assert row["score"] == pytest.approx(expected["score"], abs=1e-4)


def test_more_shards_than_examples(run, tmp_path):
  source = _file(_text(tmp_path, ["one"]))
  sizes = [
    len(_rows(_infer(run, source, tmp_path / "o", shard=i, num_shards=3)))
    for i in range(3)
  ]
  assert sum(sizes) == 1


class Killed(BaseException):
  pass


@pytest.mark.parametrize("where", ["before", "during", "joining"])
def test_a_killed_run_goes_on(run, tmp_path, whole, monkeypatch, where):
  """At any moment: the final file is that of an uninterrupted run."""
  source, output = _file(_text(tmp_path)), tmp_path / "out.jsonl"
  replace, replaced = pathlib.Path.replace, []

  def dying(self, target):
    replaced.append(target.name)
    last = {"before": "000002.jsonl", "during": "000003.jsonl"}
    if target.name == last.get(where, "out.jsonl"):
      raise Killed
    return replace(self, target)

  with monkeypatch.context() as patch:
    patch.setattr(pathlib.Path, "replace", dying)
    with pytest.raises(Killed):
      _infer(run, source, output)
  assert not output.exists()
  ready = sum(name.startswith("0") for name in replaced)
  ready -= where != "joining"
  batches = []
  predict = decoding.Predictor.predict

  def counted(self, model, examples, **kwargs):
    batches.append(len(examples))
    return predict(self, model, examples, **kwargs)

  monkeypatch.setattr(decoding.Predictor, "predict", counted)
  _infer(run, source, output)
  assert output.read_bytes() == whole.read_bytes()
  assert len(batches) == 6 - ready, "chunks were made twice"
  assert not list(tmp_path.glob("*.parts"))


_CHILD = """
import os, pathlib, signal, sys
from tests import infer_test

replace = pathlib.Path.replace

def kill(self, target):
  if target.name == "000003.jsonl":
    os.kill(os.getpid(), signal.SIGKILL)
  return replace(self, target)

pathlib.Path.replace = kill
run, source, output = map(pathlib.Path, sys.argv[1:])
infer_test._infer(run, infer_test._file(source), output)
"""


@pytest.mark.slow
def test_a_run_goes_on_after_sigkill(run, tmp_path, whole):
  source, output = _text(tmp_path), tmp_path / "out.jsonl"
  done = subprocess.run(
    [sys.executable, "-c", _CHILD, run, source, output],
    cwd=pathlib.Path(__file__).parents[1],
    timeout=300,
  )
  assert done.returncode == -signal.SIGKILL
  parts = sorted(path.name for path in tmp_path.glob("out.jsonl.parts/0*l"))
  assert parts == ["000000.jsonl", "000001.jsonl", "000002.jsonl"]
  _infer(run, _file(source), output)
  assert output.read_bytes() == whole.read_bytes()
  assert sorted(path.name for path in tmp_path.iterdir()) == [
    "in.txt",
    "out.jsonl",
    "out.run.json",
  ]


def test_a_complete_file_is_left_alone(run, tmp_path, capsys, monkeypatch):
  source, output = _file(_text(tmp_path)), tmp_path / "out.jsonl"
  _infer(run, source, output)
  before = output.stat().st_mtime_ns
  monkeypatch.setattr(decoding.Predictor, "predict", None)
  _infer(run, source, output)
  assert output.stat().st_mtime_ns == before
  assert "complete already" in capsys.readouterr().out


def test_refuses_to_mix_two_jobs(run, tmp_path):
  path = _text(tmp_path)
  output = tmp_path / "out.jsonl"
  _infer(run, _file(path), output)
  with pytest.raises(
    errors.ConfigError, match=r"begun with[^!]*checkpoint\.path"
  ):
    _infer(run, _file(path), output, step=1)
  with pytest.raises(errors.ConfigError, match="source.prefix: '' then, 'x'"):
    _infer(run, _file(path, prefix="x"), output)
  _text(tmp_path, ["changed"])
  with pytest.raises(errors.ConfigError, match="source.sha256"):
    _infer(run, _file(path), output)
  (tmp_path / "out.run.json").unlink()
  with pytest.raises(errors.ConfigError, match="not by `infer`"):
    _infer(run, _file(path), output)


def test_steps_and_the_default_path(run, tmp_path):
  source = _file(_text(tmp_path))
  second, first = _infer(run, source), _infer(run, source, step=1)
  assert second == run / "infer" / "in-2.jsonl"
  assert first == run / "infer" / "in-1.jsonl"
  assert first.read_text() != second.read_text()
  directory = run / "checkpoints" / "1"
  path = _infer(run, source, tmp_path / "o.jsonl", checkpoint=str(directory))
  assert path.read_text() == first.read_text()
  with pytest.raises(errors.CheckpointError, match="no checkpoint of step 7"):
    _infer(run, source, step=7)
  with pytest.raises(errors.ConfigError, match="did you mean 'latest'"):
    _infer(run, source, step="lastest")


def test_long_inputs_are_cut_and_counted(run, tmp_path, caplog):
  lines = ["short", "x" * 23, "x" * 24, "x" * 500]
  source = _file(_text(tmp_path, lines))
  with caplog.at_level(logging.WARNING, "t5x_lite.infer"):
    rows = _rows(_infer(run, source, tmp_path / "out.jsonl"))
  assert [row.get("truncated", False) for row in rows] == [0, 0, 1, 1]
  assert "2 of 4 inputs are longer than 24 tokens" in caplog.text
  assert [row["inputs"] for row in rows] == lines
  assert rows[2]["prediction"] == rows[3]["prediction"]
  for query in source.read(0, 4):
    assert len(query.features["inputs"]) <= LENGTH
    assert query.features["inputs"][-1] == 1


def test_a_prefix_is_read_by_the_model_only(run, tmp_path, whole):
  stripped = [line.removeprefix("line ") for line in LINES]
  source = _file(_text(tmp_path, stripped), prefix="line ")
  rows = _rows(_infer(run, source, tmp_path / "out.jsonl"))
  for row, expected in zip(rows, _rows(whole), strict=True):
    assert row["inputs"] == expected["inputs"].removeprefix("line ")
    assert row["prediction"] == expected["prediction"]


def test_line_ends_and_empty_lines(tmp_path):
  path = tmp_path / "in.txt"
  path.write_bytes("\ufeffone\r\n\ntwo\u2028half\nlast".encode())
  source = _file(path)
  assert source.scan().count == 4
  texts = [query.record["inputs"] for query in source.read(0, 4)]
  assert texts == ["one", "", "two\u2028half", "last"]
  assert [q.record["inputs"] for q in source.read(1, 3)] == texts[1:3]
  assert next(source.read(1, 2)).features == {"inputs": [1]}


@pytest.mark.parametrize(
  "name,content,message",
  [
    ("in.txt", b"", "in.txt is empty"),
    ("in.jsonl", b"\n \n", "in.jsonl is empty"),
    ("in.txt", b"fine\n\xff\n", "line 2: byte 1 is not UTF-8"),
    ("in.jsonl", b'{"inputs": "a"}\n{"inputs"\n', "line 2: not JSON: .*column"),
    ("in.jsonl", b"[1]\n", r"line 1: not a JSON object: \[1\]"),
    ("in.jsonl", b'{"input": "a"}', "'inputs'; did you mean 'input'?"),
    ("in.jsonl", b'{"inputs": 3}', "line 1: no text under 'inputs': "),
    ("in.jsonl", b'{"inputs": "a", "score": 1}', "'score' is a key that infer"),
    ("in.txt.gz", b"not gzip", "in.txt.gz cannot be read: Not a gzipped file"),
    ("in.txt.gz", gzip.compress(b"a" * 999)[:-9], "in.txt.gz cannot be read"),
  ],
)
def test_bad_files(run, tmp_path, name, content, message):
  path = tmp_path / name
  path.write_bytes(content)
  with pytest.raises(errors.DataError, match=message):
    _infer(run, _file(path), tmp_path / "out.jsonl")
  assert list(tmp_path.iterdir()) == [path], "nothing may be left behind"


def test_a_missing_file(run, tmp_path):
  _text(tmp_path)
  with pytest.raises(errors.DataError, match=r"in.text; did you mean 'in.txt'"):
    _infer(run, _file(tmp_path / "in.text"))
  with pytest.raises(errors.DataError, match="nor is there its directory"):
    _infer(run, _file(tmp_path / "none" / "in.txt"))


def test_bad_settings(run, tmp_path):
  path = _text(tmp_path)
  with pytest.raises(errors.ConfigError, match="a vocabulary is needed"):
    sources.File(str(path), None, {"inputs": 8})
  with pytest.raises(errors.ConfigError, match="must give 'inputs'"):
    sources.File(str(path), BYTES, {"input": 8})
  with pytest.raises(errors.ConfigError, match="shard 3 of 3"):
    chunks.Output(shard=3, num_shards=3)
  with pytest.raises(errors.ConfigError, match="chunk_size 0"):
    chunks.Output(chunk_size=0)
  with pytest.raises(errors.DataError, match="id 198 but the model has 64 emb"):
    small = sources.File(
      str(_text(tmp_path, ["\u00ff"], "high.txt")), BYTES, {"inputs": 8}
    )
    predictor = decoding.Predictor(
      decoding.Decoder(4),
      objectives.Seq2Seq(),
      partitioning.Partitioner({"data": -1}, {}),
      feature_lengths={"inputs": 8},
      batch_size=2,
    )
    model = tiny.fill(tiny.t5())
    list(predictor.predict(model, [q.features for q in small.read(0, 1)]))


def test_another_vocabulary_than_the_run_had(run, tmp_path):
  saved = vocabularies.Bytes(extra_ids=100).fingerprint()
  record = {"data": {"vocabulary": {"inputs": saved, "targets": saved}}}
  (run / "run.json").write_text(json.dumps(record))
  try:
    with pytest.raises(errors.ConfigError, match="inputs.extra_ids: 100 then"):
      _infer(run, _file(_text(tmp_path)), tmp_path / "out.jsonl")
  finally:
    (run / "run.json").unlink()


def _register(name, texts, split="test"):
  feature = seqio.Feature(seqio.ByteVocabulary(), add_eos=True)
  seqio.TaskRegistry.remove(name)
  seqio.TaskRegistry.add(
    name,
    source=seqio.FunctionDataSource(
      lambda split, shuffle_files, seed=None: (
        tf.data.Dataset.from_tensor_slices(
          {"inputs": texts, "targets": [text.upper() for text in texts]}
        )
      ),
      splits=[split],
    ),
    preprocessors=[
      seqio.preprocessors.tokenize,
      seqio.preprocessors.append_eos_after_trim,
    ],
    output_features={"inputs": feature, "targets": feature},
    metric_fns=[],
  )


def _split(mixture, split="test", **kwargs):
  lengths = {"inputs": LENGTH, "targets": 8}
  return sources.TaskSplit(mixture, split, lengths, task_modules=(), **kwargs)


def test_a_task_gives_what_its_text_gives(run, tmp_path, whole):
  _register("infer_lines", LINES)
  path = _infer(run, _split("infer_lines"))
  assert path == run / "infer" / "infer_lines-test-2.jsonl"
  assert _rows(path) == [
    {"inputs": row["inputs"], "targets": row["inputs"].upper()}
    | {"prediction": row["prediction"], "score": row["score"]}
    for row in _rows(whole)
  ]
  record = json.loads(path.with_suffix(".run.json").read_text())
  assert record["source"]["vocabulary"]["inputs"] == BYTES.fingerprint()


def test_a_mixture_goes_task_by_task(run, tmp_path):
  _register("infer_a", LINES[:3])
  _register("infer_b", LINES[3:7])
  seqio.MixtureRegistry.remove("infer_both")
  seqio.MixtureRegistry.add("infer_both", ["infer_a", "infer_b"], 1.0)
  source = _split("infer_both", vocabulary=vocabularies.Bytes(extra_ids=5))
  path = _infer(run, source, tmp_path / "out.jsonl", num_shards=2, shard=1)
  rows = _rows(path)
  assert [row["inputs"] for row in rows] == LINES[3:7]
  assert {row["task"] for row in rows} == {"infer_b"}


def test_mistakes_about_tasks(run):
  _register("infer_lines", LINES)
  with pytest.raises(errors.ConfigError, match="'infer_line'; did you mean"):
    _infer(run, _split("infer_line"))
  with pytest.raises(errors.ConfigError, match=r"no split 'tests'.*\['test'\]"):
    _infer(run, _split("infer_lines", "tests"))


def test_select():
  lengths = {"inputs": 8, "targets": 8}
  with pytest.raises(errors.ConfigError, match="nothing to predict for"):
    sources.select(feature_lengths=lengths)
  file = sources.select(
    feature_lengths=lengths, file="a.txt", mixture="m", vocabulary=BYTES
  )
  assert file == sources.File("a.txt", BYTES, lengths)
  split = sources.select(feature_lengths=lengths, mixture="m")
  assert split == sources.TaskSplit("m", "validation", lengths)


def test_the_decoder_stops_at_the_length_of_the_targets(run, tmp_path):
  source = sources.File(
    str(_text(tmp_path)), BYTES, {"inputs": LENGTH, "targets": 2}
  )
  _infer(run, source, tmp_path / "out.jsonl", decoder=None)
  record = json.loads((tmp_path / "out.run.json").read_text())
  assert record["decoder"] == {"max_length": 2, "strategy": "greedy"}
  with pytest.raises(errors.ConfigError, match="lacks 'targets'"):
    _infer(run, _file(_text(tmp_path)), decoder=None)


def test_dry_run_touches_nothing(run, tmp_path, capsys):
  path = _text(tmp_path)
  before = sorted(tmp_path.rglob("*")), sorted(run.rglob("*"))
  output = tmp_path / "new" / "out.jsonl"
  assert _infer(run, _file(path), output, dry_run=True) == output
  shown = capsys.readouterr().out
  assert "23 of 23" in shown and "line 0" in shown
  assert (sorted(tmp_path.rglob("*")), sorted(run.rglob("*"))) == before


def test_a_full_disk_is_told(run, tmp_path, monkeypatch):
  def full(self, target):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(pathlib.Path, "replace", full)
  with pytest.raises(errors.DataError, match="out.jsonl cannot be written"):
    _infer(run, _file(_text(tmp_path)), tmp_path / "out.jsonl")
