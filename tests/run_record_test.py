import json
import pathlib

import pytest

from t5x_lite import errors, run_record

RECORD = {
  "model": {"encoder/layers/kernel": "float32[8 16]", "head": "float32[16 4]"},
  "vocabulary": {"kind": "SentencePiece", "size": 32000, "sha256": "3fa"},
  "data": {
    "mixture": "c4",
    "batch_size": 8,
    "rates": [0.5, 0.5],
    "lengths": {"inputs": 512, "targets": 114},
  },
  "optimizer": {"kind": "adafactor", "decay": 0.8, "clip": None},
}


def changed(**groups):
  return {k: {**v, **groups.get(k, {})} for k, v in RECORD.items()}


def test_writes_once_and_agrees_with_itself(tmp_path):
  workdir = tmp_path / "new" / "run"
  run_record.check(workdir, RECORD)
  written = (workdir / "run.json").read_bytes()
  assert json.loads(written) == RECORD
  run_record.check(workdir, changed(data={"rates": (0.5, 0.5)}))
  run_record.check(workdir, dict(reversed(RECORD.items())))
  assert (workdir / "run.json").read_bytes() == written
  assert [path.name for path in workdir.iterdir()] == ["run.json"]


def test_only_the_first_process_writes(tmp_path):
  run_record.check(tmp_path, RECORD, write=False)
  assert not list(tmp_path.iterdir())
  run_record.check(tmp_path, RECORD)
  with pytest.raises(errors.ConfigError):
    run_record.check(tmp_path, {}, write=False)


def test_a_workdir_without_progress_takes_another_run(tmp_path):
  run_record.check(tmp_path, RECORD)
  other = changed(data={"mixture": "wikipedia"})
  run_record.check(tmp_path, other, bound=False, write=False)
  assert json.loads((tmp_path / "run.json").read_text()) == RECORD
  run_record.check(tmp_path, other, bound=False)
  run_record.check(tmp_path, other)
  with pytest.raises(errors.ConfigError):
    run_record.check(tmp_path, RECORD)


def test_refuses_another_run_field_by_field(tmp_path):
  run_record.check(tmp_path, RECORD)
  with pytest.raises(errors.ConfigError) as error:
    run_record.check(
      tmp_path,
      changed(
        vocabulary={"sha256": "91c", "size": 32100},
        data={"mixture": "wikipedia", "lengths": {"inputs": 512}},
        optimizer={"clip": 1.0, "momentum": 0.9},
      ),
    )
  assert error.value.exit_code == 2
  assert str(error.value) == (
    f"{tmp_path} was made by another run; 6 of 14 fields differ:\n"
    "  data.lengths.targets: saved 114      now (absent)\n"
    '  data.mixture:         saved "c4"     now "wikipedia"\n'
    "  optimizer.clip:       saved null     now 1.0\n"
    "  optimizer.momentum:   saved (absent) now 0.9\n"
    '  vocabulary.sha256:    saved "3fa"    now "91c"\n'
    "  vocabulary.size:      saved 32000    now 32100\n"
    "Use another --workdir, or the saved values to go on with this run."
  )
  assert json.loads((tmp_path / "run.json").read_text()) == RECORD


def test_tells_null_and_types_apart(tmp_path):
  run_record.check(tmp_path, RECORD)
  for value in ("(absent)", 0, False, {}):
    with pytest.raises(errors.ConfigError, match=r"optimizer\.clip: +saved nu"):
      run_record.check(tmp_path, changed(optimizer={"clip": value}))
  with pytest.raises(errors.ConfigError, match=r"size: saved 8 now \"8\""):
    run_record.check(tmp_path, changed(data={"batch_size": "8"}))


def test_a_younger_field_that_is_off_is_no_difference(tmp_path):
  run_record.check(tmp_path, RECORD)
  run_record.check(tmp_path, changed(optimizer={"offload": None}))
  with pytest.raises(errors.ConfigError, match=r"offload: +saved \(absent\)"):
    run_record.check(tmp_path, changed(optimizer={"offload": False}))


def test_a_long_list_fits_a_screen(tmp_path):
  run_record.check(
    tmp_path, {"model": {f"layer_{i}": "x" * 200 for i in range(100)}}
  )
  with pytest.raises(errors.ConfigError) as error:
    run_record.check(tmp_path, {"model": {"layer_1": "y" * 200}})
  lines = str(error.value).splitlines()
  assert "100 of 100 fields differ" in lines[0]
  assert "  and 88 more" in lines
  assert len(lines) < 20 and max(map(len, lines)) < 140


def test_ignores_what_it_is_told_to(tmp_path):
  run_record.check(tmp_path, RECORD)
  other = changed(data={"batch_size": 16, "lengths": {"inputs": 1}})
  ignore = ["data.batch_size", "data.lengths"]
  run_record.check(tmp_path, other, ignore=ignore)
  assert json.loads((tmp_path / "run.json").read_text()) == RECORD
  with pytest.raises(errors.ConfigError, match=r"data\.batch_size"):
    run_record.check(tmp_path, other, ignore=["data.lengths"])
  with pytest.raises(errors.ConfigError, match="did you mean 'data.batch_size"):
    run_record.check(tmp_path, other, ignore=["data.batch_sizes"])


@pytest.mark.parametrize("text", ["", "{", '{"model": '])
def test_a_damaged_record_is_named(tmp_path, text):
  (tmp_path / "run.json").write_text(text)
  with pytest.raises(errors.CheckpointError, match=r"run\.json is damaged"):
    run_record.check(tmp_path, RECORD)
  assert (tmp_path / "run.json").read_text() == text


def test_a_failing_write_leaves_no_record(tmp_path, monkeypatch):
  def fail(self, target):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(pathlib.Path, "replace", fail)
  with pytest.raises(errors.CheckpointError, match="No space left"):
    run_record.check(tmp_path, RECORD)
  assert not (tmp_path / "run.json").exists()


def test_refuses_values_that_are_not_json(tmp_path):
  with pytest.raises(TypeError):
    run_record.check(tmp_path, {"model": object()})
