"""Trains the toy and saves at every step, until it is killed."""

import hashlib
import pathlib

import jax
import numpy as np
import orbax.checkpoint  # noqa: F401 - loaded before the fork, to save time

from t5x_lite import checkpoints
from tests.checkpoints import toy


def digest(state):
  content = hashlib.sha256()
  for leaf in jax.tree.leaves(state):
    content.update(np.asarray(leaf).tobytes())
  return content.hexdigest()


def fresh():
  return toy.place(toy.create(dim=128, classes=512))


def main(workdir: pathlib.Path):
  iterator = toy.Counter()
  with (
    checkpoints.Checkpointer(every=1, keep=2).open(workdir) as session,
    (workdir / "digests.txt").open("a") as log,
  ):
    state = session.restore(toy.abstract(fresh()), iterator) or fresh()
    while True:
      next(iterator)
      state = toy.advance(state)
      log.write(f"{int(state.step)} {digest(state)}\n")
      log.flush()
      session.save(int(state.step), state, iterator)
