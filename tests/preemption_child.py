"""A training loop that saves and leaves when it is told to."""

import pathlib
import sys

from t5x_lite import checkpoints, errors, preemption
from t5x_lite.checkpoints import manifest
from tests.checkpoints import toy


def main(workdir: str, last: int, slow: bool) -> int:
  iterator, state = toy.Counter(), toy.place(toy.create())
  checkpointer = checkpoints.Checkpointer(every=1_000_000)
  if slow:
    _announce_sealing()
  with (
    preemption.watch() as preempted,
    checkpointer.open(pathlib.Path(workdir)) as session,
  ):
    state = session.restore(toy.abstract(state), iterator) or state
    for step in range(int(state.step) + 1, last + 1):
      next(iterator)
      state = toy.advance(state)
      if step == 3:
        print("training", flush=True)
      if preempted(step):
        session.save(step, state, iterator, force=True)
        session.wait()
        raise errors.Preempted(preemption.MESSAGE.format(step=step))
    session.save(last, state, iterator, force=True)
  return 0


def _announce_sealing():
  """Stays in the save for a moment, so that a signal can come there."""
  import time

  seal = manifest.seal

  def slowly(*args):
    print("sealing", flush=True)
    time.sleep(0.5)
    seal(*args)

  manifest.seal = slowly


if __name__ == "__main__":
  try:
    sys.exit(main(sys.argv[1], int(sys.argv[2]), sys.argv[3] == "slow"))
  except errors.UserError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
