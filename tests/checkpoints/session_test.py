import dataclasses
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from t5x_lite import checkpoints, errors
from t5x_lite.checkpoints import manifest, steps
from tests.checkpoints import toy


def files(workdir):
  return sorted(p.name for p in (workdir / "checkpoints").iterdir())


def save_steps(session, numbers, metrics=None):
  for number in numbers:
    values = None if metrics is None else metrics.get(number)
    session.save(number, toy.at(1), metrics=values, force=True)
  session.wait()


def test_restores_every_bit(tmp_path):
  state, counter = toy.at(3), toy.Counter()
  for _ in range(5):
    next(counter)
  with checkpoints.Checkpointer(every=1).open(tmp_path) as session:
    assert session.restore(toy.abstract(state)) is None
    assert session.save(3, state, counter)
  other = toy.Counter()
  with checkpoints.Checkpointer().open(tmp_path) as session:
    restored = session.restore(toy.abstract(state), other)
    assert session.latest_step() == 3
  toy.assert_same(restored, state)
  assert next(other) == 5


def test_saved_on_one_mesh_restored_on_another(tmp_path):
  state = toy.at(2, shape=(2, 4))
  with checkpoints.Checkpointer(every=1).open(tmp_path) as session:
    session.save(2, state)
    session.wait()
    for shape in ((4, 2), (8, 1), (1, 1), (1, 8)):
      wanted = toy.abstract(state, shape)
      restored = session.restore(wanted)
      toy.assert_same(restored, state)
      for x, y in zip(
        jax.tree.leaves(restored), jax.tree.leaves(wanted), strict=True
      ):
        assert x.sharding == y.sharding


def test_saves_when_due(tmp_path):
  with checkpoints.Checkpointer(every=2).open(tmp_path) as session:
    assert [session.save(i, toy.at(0)) for i in range(1, 5)] == [
      False,
      True,
      False,
      True,
    ]
    assert session.save(5, toy.at(0), force=True)
    assert not session.save(5, toy.at(0), force=True)  # It is saved already.
  assert steps.steps(tmp_path / "checkpoints") == [2, 4, 5]


def test_the_iterator_is_saved_at_once(tmp_path, monkeypatch):
  """Training draws the next batch while the arrays are being written."""
  gate = threading.Event()
  seal = manifest.seal
  monkeypatch.setattr(
    manifest, "seal", lambda *args: (gate.wait(30), seal(*args))[1]
  )
  counter, other = toy.Counter(), toy.Counter()
  next(counter)
  with checkpoints.Checkpointer(every=1).open(tmp_path) as session:
    session.save(1, toy.at(1), counter)
    next(counter)
    assert session.latest_step() is None  # Not yet there, not half there.
    gate.set()
    session.wait()
    session.restore(toy.abstract(toy.at(1)), other)
  assert other.next == 1


def test_training_may_overwrite_the_state_while_it_is_saved(tmp_path):
  add = jax.jit(
    lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0
  )
  for name, shape in (("one", (1, 1)), ("eight", (8, 1))):
    kernel = {"w": jnp.arange(2.0**20).reshape(1024, 1024)}
    state = toy.place(toy.State(jnp.int32(0), kernel, {}), shape)
    expected = jax.tree.map(np.array, state)
    with checkpoints.Checkpointer(every=1).open(tmp_path / name) as session:
      session.save(1, state)
      for _ in range(20):
        state = add(state)
      jax.block_until_ready(state)
      session.wait()
      restored = session.restore(toy.abstract(expected, shape))
    toy.assert_same(jax.tree.map(np.array, restored), expected)


def test_keeps_the_newest_and_every_kth(tmp_path):
  with checkpoints.Checkpointer(keep=2, keep_every=4).open(tmp_path) as session:
    save_steps(session, range(1, 8))
  assert files(tmp_path) == ["4", "6", "7"]


def test_keeps_all(tmp_path):
  with checkpoints.Checkpointer(keep=None).open(tmp_path) as session:
    save_steps(session, range(1, 5))
  assert files(tmp_path) == ["1", "2", "3", "4"]


@pytest.mark.parametrize("mode, best", [("max", "2"), ("min", "4")])
def test_keeps_the_best_and_the_newest(tmp_path, mode, best):
  scores = {1: 1.0, 2: 3.0, 3: float("nan"), 4: 0.5, 5: 2.0, 7: 1.0}
  metrics = {step: {"eval/loss": score} for step, score in scores.items()}
  checkpointer = checkpoints.Checkpointer(
    keep=1, best_metric="eval/loss", best_mode=mode
  )
  with checkpointer.open(tmp_path) as session:
    save_steps(session, range(1, 6), metrics)
  # The metrics of earlier steps are read back from disk.
  with checkpointer.open(tmp_path) as session:
    save_steps(session, range(6, 9), metrics)
    assert session.best_step() == int(best)
  assert files(tmp_path) == [best, "8"]


def test_warns_of_a_missing_best_metric(tmp_path, caplog):
  checkpointer = checkpoints.Checkpointer(best_metric="eval/loss")
  with checkpointer.open(tmp_path) as session:
    session.save(1, toy.at(0), metrics={"eval/los": 1.0}, force=True)
  assert "no metric 'eval/loss'" in caplog.text
  assert "did you mean 'eval/los'?" in caplog.text


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf])
@pytest.mark.parametrize("shape", [(1, 1), (2, 4)])
def test_never_saves_a_state_that_is_not_finite(tmp_path, value, shape):
  good = toy.at(1, shape=shape)
  with checkpoints.Checkpointer(every=1).open(tmp_path) as session:
    session.save(1, good)
    bad = toy.at(2, shape=shape)
    kernel = bad.model.attention.value.kernel
    bad.model.attention.value.kernel = kernel.replace(
      kernel[...].at[1, 2].set(value)
    )
    with pytest.raises(errors.NonFiniteError) as error:
      session.save(2, bad)
    assert "model/attention/value/kernel" in str(error.value)
    assert "last good checkpoint is step 1" in str(error.value)
    toy.assert_same(session.restore(toy.abstract(good, shape)), good)
  assert files(tmp_path) == ["1"]


def test_never_saves_moments_that_are_not_finite(tmp_path):
  state = toy.at(1)
  leaves, structure = jax.tree.flatten(state.opt_state)
  leaves[-1] = leaves[-1].at[0].set(jnp.inf)
  bad = dataclasses.replace(
    state, opt_state=jax.tree.unflatten(structure, leaves)
  )
  with (
    checkpoints.Checkpointer(every=1).open(tmp_path) as session,
    pytest.raises(errors.NonFiniteError, match=r"opt_state/1/0/nu/head"),
  ):
    session.save(1, bad)
  assert files(tmp_path) == []


def test_refuses_a_checkpoint_of_another_model(tmp_path):
  state = toy.at(1)
  with checkpoints.Checkpointer(every=1).open(tmp_path) as session:
    session.save(1, state)
    wanted = toy.abstract(toy.create(classes=32, optimizer=optax.sgd(0.1)))
    with pytest.raises(errors.CheckpointError) as error:
      session.restore(wanted)
  message = str(error.value)
  assert "7 not in this model, 1 of another shape or dtype" in message
  assert "float32[8 16]" in message and "float32[8 32]" in message
  assert "optimizer/opt_state/1/0/mu/attention/key/kernel" in message
  assert len(message.splitlines()) < 20
  row = next(line for line in message.splitlines() if "head" in line)
  assert row.split() == [
    "model/head/kernel",
    "float32[8",
    "16]",
    "float32[8",
    "32]",
  ]


def test_refuses_another_dtype_and_missing_arrays(tmp_path):
  def save(name, model):
    state = toy.State(jnp.int32(0), model, {})
    with checkpoints.Checkpointer().open(tmp_path / name) as session:
      session.save(0, state)
      session.wait()
      bigger = {**model, "b": jnp.ones(3), "w": jnp.ones((2, 2))}
      return session.restore(toy.abstract(toy.State(jnp.int32(0), bigger, {})))

  with pytest.raises(errors.CheckpointError, match="1 missing from the"):
    save("missing", {"w": jnp.ones((2, 2))})
  with pytest.raises(errors.CheckpointError) as error:
    save("dtype", {"w": jnp.ones((2, 2), jnp.bfloat16), "b": jnp.ones(3)})
  assert "bfloat16[2 2]  float32[2 2]" in str(error.value)


def test_refuses_to_restore_without_the_position_in_the_data(tmp_path):
  with checkpoints.Checkpointer(every=1).open(tmp_path) as session:
    session.save(1, toy.at(1))
    with pytest.raises(errors.CheckpointError, match="no position in the"):
      session.restore(toy.abstract(toy.at(1)), toy.Counter())


def test_refuses_to_mix_two_histories(tmp_path):
  state = toy.at(1)
  with checkpoints.Checkpointer(every=1).open(tmp_path) as session:
    session.save(1, state)
    session.save(2, toy.at(2))
    session.wait()
    toy.assert_same(session.restore(toy.abstract(state), step=1), state)
    with pytest.raises(errors.CheckpointError, match="already holds step 2"):
      session.save(2, toy.at(2))
    with pytest.raises(errors.CheckpointError, match="there are 1, 2"):
      session.restore(toy.abstract(state), step=3)


def test_a_workdir_takes_one_run(tmp_path):
  with (
    checkpoints.Checkpointer().open(tmp_path),
    pytest.raises(errors.CheckpointError, match="in use by process"),
  ):
    checkpoints.Checkpointer().open(tmp_path)
  checkpoints.Checkpointer().open(tmp_path).close()


def test_sweeps_leftovers_but_not_what_is_not_its_own(tmp_path):
  directory = tmp_path / "checkpoints"
  for name in ("7.orbax-checkpoint-tmp", "staged", "deleted/3", "notes"):
    (directory / name).mkdir(parents=True)
  with checkpoints.Checkpointer().open(tmp_path) as session:
    assert session.latest_step() is None
    assert files(tmp_path) == ["notes"]


def test_warns_when_training_waits_for_the_disk(tmp_path, monkeypatch, caplog):
  monkeypatch.setattr("t5x_lite.checkpoints.session._SLOW", 0.2)
  seal = manifest.seal
  monkeypatch.setattr(
    manifest, "seal", lambda *args: (threading.Event().wait(0.4), seal(*args))
  )
  with checkpoints.Checkpointer(every=1).open(tmp_path) as session:
    session.save(1, toy.at(0))
    assert not caplog.records
    session.save(2, toy.at(0))
  assert "training waited" in caplog.text


def test_restores_parameters_alone(tmp_path):
  state = toy.at(2, shape=(2, 4))
  with checkpoints.Checkpointer(every=1).open(tmp_path) as session:
    session.save(1, toy.at(1))
    session.save(2, state)
    session.wait()
    # No lock is needed, and a damaged optimizer state does not matter.
    for path in (tmp_path / "checkpoints/2/optimizer").rglob("*"):
      if path.is_file():
        path.write_bytes(b"")
    plain = jax.eval_shape(lambda: state.model)
    step = tmp_path / "checkpoints" / "2"
    for path in (tmp_path, tmp_path / "checkpoints", step, str(step)):
      toy.assert_same(checkpoints.restore_params(path, plain), state.model)
    wanted = toy.abstract(state.model, (4, 2))
    restored = checkpoints.restore_params(tmp_path, wanted)
    assert restored.head.kernel[...].sharding == wanted.head.kernel.sharding
    toy.assert_same(
      checkpoints.restore_params(tmp_path, plain, step=1), toy.at(1).model
    )
    with pytest.raises(errors.CheckpointError, match=r"float32\[8 32\]"):
      big = jax.eval_shape(lambda: toy.create(classes=32).model)
      checkpoints.restore_params(tmp_path, big)


def test_names_what_is_missing_at_a_path(tmp_path):
  with pytest.raises(errors.CheckpointError, match="there is no checkpoint"):
    checkpoints.restore_params(tmp_path, {})


@pytest.mark.parametrize(
  "settings",
  [
    {"every": 0},
    {"keep": 0},
    {"keep_every": -1},
    {"best_mode": "high"},
    {"timeout_minutes": 0},
  ],
)
def test_refuses_wrong_settings(settings):
  with pytest.raises(errors.ConfigError, match="use"):
    checkpoints.Checkpointer(**settings)


def test_refuses_urls():
  with pytest.raises(errors.ConfigError, match="mount the bucket"):
    checkpoints.Checkpointer().open("gs://bucket/run")


def test_an_error_in_the_loop_is_not_hidden_by_one_in_the_save(
  tmp_path, monkeypatch, caplog
):
  def fail(*args):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(manifest, "seal", fail)
  with (
    pytest.raises(ZeroDivisionError),
    checkpoints.Checkpointer(every=1).open(tmp_path) as session,
  ):
    session.save(1, toy.at(0))
    raise ZeroDivisionError
  assert "step 1 is not saved" in caplog.text
  checkpoints.Checkpointer().open(tmp_path).close()  # The lock is gone.
