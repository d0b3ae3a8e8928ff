"""Files of a checkpoint changed, cut and removed, one after the other."""

import shutil

import pytest

from t5x_lite import checkpoints, errors
from t5x_lite.checkpoints import manifest, steps
from tests.checkpoints import toy

# Orbax writes these after the manifest; nothing is read from them.
UNSEALED = {"_CHECKPOINT_METADATA", "commit_success.txt"}


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("run")
  with checkpoints.Checkpointer(every=1).open(workdir) as session:
    for step in (1, 2):
      session.save(step, toy.at(step), toy.Counter(), {"loss": 1.0})
  return workdir


@pytest.fixture
def workdir(two_steps, tmp_path):
  return shutil.copytree(two_steps, tmp_path / "run")


def sealed_files(directory):
  found = (p.relative_to(directory) for p in directory.rglob("*"))
  return sorted(
    str(p)
    for p in found
    if (directory / p).is_file() and str(p) not in UNSEALED
  )


def flip(path, position):
  content = bytearray(path.read_bytes())
  content[position % len(content)] ^= 1
  path.write_bytes(content)


def restore(workdir, **kwargs):
  with checkpoints.Checkpointer().open(workdir) as session:
    return session.restore(toy.abstract(toy.at(0)), toy.Counter(), **kwargs)


def test_finds_a_flipped_bit_in_every_file(workdir):
  directory = workdir / "checkpoints" / "2"
  names = sealed_files(directory)
  assert len(names) > 10
  assert {"MANIFEST", "metrics.json", "iterator/shard-0.json"} <= {*names}
  for number, name in enumerate(names):
    content = (directory / name).read_bytes()
    for position in (0, len(content) // 2, -1, 7919 * number):
      flip(directory / name, position)
      (problem, *rest) = manifest.problems(directory)
      assert name in problem and not rest
      (directory / name).write_bytes(content)
  assert not manifest.problems(directory)


def test_finds_cut_and_missing_files(workdir):
  directory = workdir / "checkpoints" / "2"
  for name in sealed_files(directory):
    content = (directory / name).read_bytes()
    for cut in (b"", content[:-1], content + b"0"):
      (directory / name).write_bytes(cut)
      assert name in manifest.problems(directory)[0]
    (directory / name).unlink()
    assert f"{name} is missing" in manifest.problems(directory)
    (directory / name).write_bytes(content)
  shutil.rmtree(directory / "model")
  assert len(manifest.problems(directory)) > 5


def test_unsealed_files_do_not_matter(workdir):
  directory = workdir / "checkpoints" / "2"
  found = {p.name for p in directory.iterdir() if p.is_file()}
  assert found == {*UNSEALED, "MANIFEST", "metrics.json"}
  for name in UNSEALED:
    (directory / name).write_bytes(b"{garbage")
  toy.assert_same(restore(workdir), toy.at(2))
  for name in UNSEALED:
    (directory / name).unlink()
  toy.assert_same(restore(workdir), toy.at(2))


def test_the_manifest_is_one_of_sha256sum(workdir):
  import subprocess

  if not shutil.which("sha256sum"):
    pytest.skip("sha256sum is not installed")
  done = subprocess.run(
    ["sha256sum", "--strict", "-c", "MANIFEST"],
    cwd=workdir / "checkpoints" / "2",
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr


def test_goes_on_from_the_step_before_and_says_so(workdir, caplog):
  directory = workdir / "checkpoints"
  (victim,) = (directory / "2/model/ocdbt.process_0").glob("manifest*")
  flip(victim, 30)
  toy.assert_same(restore(workdir), toy.at(1))
  assert "model/ocdbt.process_0/manifest.ocdbt has changed" in caplog.text
  assert "set aside" in caplog.text and "going on from step 1" in caplog.text
  assert steps.steps(directory) == [1]
  # What the message named is still there to be looked at.
  assert manifest.problems(directory / "2.damaged")
  # The same step can be saved again, and damaged again.
  with checkpoints.Checkpointer().open(workdir) as session:
    session.restore(toy.abstract(toy.at(0)))
    session.save(2, toy.at(2), toy.Counter(), force=True)
  toy.assert_same(restore(workdir), toy.at(2))
  (directory / "2" / "MANIFEST").unlink()
  toy.assert_same(restore(workdir), toy.at(1))
  assert (directory / "2.damaged.1").is_dir()


def test_is_loud_when_no_step_is_good(workdir):
  for step in "12":
    flip(workdir / "checkpoints" / step / "metrics.json", 3)
  with pytest.raises(errors.CheckpointError) as error:
    restore(workdir)
  message = str(error.value)
  assert "checkpoints/1 is damaged" in message
  assert "checkpoints/2 is damaged" in message
  assert "No other step is left" in message
  assert steps.steps(workdir / "checkpoints") == [1, 2]  # Nothing is moved.


def test_a_step_asked_for_is_not_replaced_by_another(workdir):
  flip(workdir / "checkpoints/2/metrics.json", 3)
  with pytest.raises(errors.CheckpointError) as error:
    restore(workdir, step=2)
  assert "metrics.json has changed" in str(error.value)
  assert "newest good step before it is 1" in str(error.value)
  assert steps.steps(workdir / "checkpoints") == [1, 2]


def test_inference_does_not_fall_back(workdir):
  model = toy.abstract(toy.at(0)).model
  flip(workdir / "checkpoints/2/model/_METADATA", 3)
  with pytest.raises(errors.CheckpointError, match="before it is 1"):
    checkpoints.restore_params(workdir, model)
  toy.assert_same(
    checkpoints.restore_params(workdir, model, step=1), toy.at(1).model
  )
  flip(workdir / "checkpoints/1/model/_METADATA", 3)
  with pytest.raises(errors.CheckpointError, match="no good step before it"):
    checkpoints.restore_params(workdir, model)


def test_another_format_is_not_called_damage(workdir, monkeypatch):
  monkeypatch.setattr(
    manifest, "_HEADER", "# t5x_lite checkpoint, format 2, seal: "
  )
  with pytest.raises(errors.CheckpointError, match="another format"):
    restore(workdir)


def test_unreadable_files_are_not_called_damage(workdir, monkeypatch):
  def fail(path):
    raise OSError(5, "Input/output error", str(path))

  monkeypatch.setattr(manifest, "_digest", fail)
  with pytest.raises(errors.CheckpointError, match="cannot be read"):
    restore(workdir)
  assert steps.steps(workdir / "checkpoints") == [1, 2]
