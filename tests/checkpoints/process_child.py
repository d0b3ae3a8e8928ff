"""One of two processes of a run with a mesh over both."""

import hashlib
import json
import logging
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from t5x_lite import checkpoints, errors, hosts
from tests.checkpoints import toy


class ShardCounter(toy.Counter):
  """Each process has a file of its own."""

  def _name(self):
    return f"shard-{jax.process_index()}.json"

  def save(self, directory):
    (directory / self._name()).write_text(str(self.next))

  def restore(self, directory):
    self.next = int((directory / self._name()).read_text())


def same(x, y):
  return all(
    np.array_equal(a.data, b.data)
    for a, b in zip(x.addressable_shards, y.addressable_shards, strict=True)
  )


def check_saving(workdir):
  state, iterator = toy.at(2, shape=(2, 4)), ShardCounter()
  iterator.next = 10 + jax.process_index()
  with checkpoints.Checkpointer(every=1, keep=2).open(workdir) as session:
    for step in (1, 2, 3):
      assert session.save(step, state, iterator)
    try:
      checkpoints.Checkpointer().open(workdir)
    except errors.CheckpointError as error:
      first = "in use by process" in str(error)
      assert first == hosts.is_first(), error
    else:
      raise AssertionError("two sessions in one workdir")
    bad = state.model.head.kernel
    state.model.head.kernel = bad.replace(bad[...].at[0, 0].set(jnp.nan))
    try:
      session.save(4, state, iterator)
    except errors.NonFiniteError as error:
      assert "model/head/kernel" in str(error)
    else:
      raise AssertionError("saved NaN")


def check_restoring(workdir, expected_step):
  expected, iterator = toy.at(2, shape=(4, 2)), ShardCounter()
  with checkpoints.Checkpointer().open(workdir) as session:
    state = session.restore(toy.abstract(expected, (4, 2)), iterator)
    assert session.latest_step() == expected_step
  assert iterator.next == 10 + jax.process_index()
  assert all(
    same(x, y)
    for x, y in zip(
      jax.tree.leaves(state), jax.tree.leaves(expected), strict=True
    )
  )
  wanted = toy.abstract(expected, (4, 2)).model
  model = checkpoints.restore_params(workdir, wanted)
  assert same(model.head.kernel[...], expected.model.head.kernel[...])
  assert jax.tree.structure(model) == jax.tree.structure(expected.model)


def record_digests():
  """The files whose digests this process computes, from now on."""
  files, compute = [], hashlib.file_digest

  def recorded(file, name):
    files.append(file.name)
    return compute(file, name)

  hashlib.file_digest = recorded
  return files


def tell(what, files, workdir):
  """Prints them, by their names without the directories of the steps."""
  root = str(workdir / "checkpoints")
  names = [str(pathlib.Path(f).relative_to(root)) for f in files]
  print(json.dumps({what: sorted(n.partition("/")[2] for n in names)}))
  files.clear()


def main(rank, port, workdir):
  jax.config.update("jax_cpu_collectives_implementation", "gloo")
  jax.distributed.initialize(f"localhost:{port}", 2, rank)
  workdir, files = pathlib.Path(workdir), record_digests()
  check_saving(workdir)
  tell("saved", files, workdir)
  with checkpoints.Checkpointer().open(workdir) as session:
    session.restore(toy.abstract(toy.at(2, shape=(4, 2)), (4, 2)))
  tell("checked", files, workdir)
  check_restoring(workdir, 3)
  if hosts.is_first():
    (workdir / "checkpoints/3/metrics.json").unlink(missing_ok=True)
    (workdir / "checkpoints/3/model/_METADATA").write_text("{}")
  multihost_utils.sync_global_devices("damaged")
  check_restoring(workdir, 2)
  print("done", flush=True)


if __name__ == "__main__":
  logging.basicConfig(level=logging.WARNING)
  main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
