"""`infer` is killed and goes on; what is complete stays as it is."""

import pathlib
import signal
import subprocess
import sys

import pytest

from t5x_lite import (
  decoding,
  errors,
)
from tests import infer_toy as toy


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  return toy.run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
  """The uninterrupted result for toy.LINES."""
  directory = tmp_path_factory.mktemp("whole")
  return toy.predict(
    run, toy.file(toy.text(directory)), directory / "out.jsonl"
  )


class Killed(BaseException):
  pass


@pytest.mark.parametrize("where", ["before", "during", "joining"])
def test_a_killed_run_goes_on(run, tmp_path, whole, monkeypatch, where):
  """At any moment: the final file is that of an uninterrupted run."""
  source, output = (
    toy.file(toy.text(tmp_path)),
    tmp_path / "out.jsonl",
  )
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
      toy.predict(run, source, output)
  assert not output.exists()
  ready = sum(name.startswith("0") for name in replaced)
  ready -= where != "joining"
  batches = []
  predict = decoding.Predictor.predict

  def counted(self, model, examples, **kwargs):
    batches.append(len(examples))
    return predict(self, model, examples, **kwargs)

  monkeypatch.setattr(decoding.Predictor, "predict", counted)
  toy.predict(run, source, output)
  assert output.read_bytes() == whole.read_bytes()
  assert len(batches) == 6 - ready, "chunks were made twice"
  assert not list(tmp_path.glob("*.parts"))


_CHILD = """
import os, pathlib, signal, sys
from tests import infer_toy as toy

replace = pathlib.Path.replace

def kill(self, target):
  if target.name == "000003.jsonl":
    os.kill(os.getpid(), signal.SIGKILL)
  return replace(self, target)

pathlib.Path.replace = kill
run, source, output = map(pathlib.Path, sys.argv[1:])
toy.predict(run, toy.file(source), output)
"""


@pytest.mark.slow
def test_a_run_goes_on_after_sigkill(run, tmp_path, whole):
  source, output = toy.text(tmp_path), tmp_path / "out.jsonl"
  done = subprocess.run(
    [sys.executable, "-c", _CHILD, run, source, output],
    cwd=pathlib.Path(__file__).parents[1],
    timeout=300,
  )
  assert done.returncode == -signal.SIGKILL
  parts = sorted(path.name for path in tmp_path.glob("out.jsonl.parts/0*l"))
  assert parts == ["000000.jsonl", "000001.jsonl", "000002.jsonl"]
  toy.predict(run, toy.file(source), output)
  assert output.read_bytes() == whole.read_bytes()
  assert sorted(path.name for path in tmp_path.iterdir()) == [
    "in.txt",
    "out.jsonl",
    "out.run.json",
  ]


def test_a_complete_file_is_left_alone(run, tmp_path, capsys, monkeypatch):
  source, output = (
    toy.file(toy.text(tmp_path)),
    tmp_path / "out.jsonl",
  )
  toy.predict(run, source, output)
  before = output.stat().st_mtime_ns
  monkeypatch.setattr(decoding.Predictor, "predict", None)
  toy.predict(run, source, output)
  assert output.stat().st_mtime_ns == before
  assert "complete already" in capsys.readouterr().out


def test_refuses_to_mix_two_jobs(run, tmp_path):
  path = toy.text(tmp_path)
  output = tmp_path / "out.jsonl"
  toy.predict(run, toy.file(path), output)
  with pytest.raises(
    errors.ConfigError, match=r"begun with[^!]*checkpoint\.path"
  ):
    toy.predict(run, toy.file(path), output, step=1)
  with pytest.raises(errors.ConfigError, match="source.prefix: '' then, 'x'"):
    toy.predict(run, toy.file(path, prefix="x"), output)
  toy.text(tmp_path, ["changed"])
  with pytest.raises(errors.ConfigError, match="source.sha256"):
    toy.predict(run, toy.file(path), output)
  (tmp_path / "out.run.json").unlink()
  with pytest.raises(errors.ConfigError, match="not by `infer`"):
    toy.predict(run, toy.file(path), output)


def test_a_full_disk_is_told(run, tmp_path, monkeypatch):
  def full(self, target):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(pathlib.Path, "replace", full)
  with pytest.raises(errors.DataError, match="out.jsonl cannot be written"):
    toy.predict(run, toy.file(toy.text(tmp_path)), tmp_path / "out.jsonl")
