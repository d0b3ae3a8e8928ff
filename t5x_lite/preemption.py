"""SIGTERM: save, then leave with an exit code that says "run me again".

Schedulers send SIGTERM some seconds before they take a machine away.  Training
asks after each step whether it came:

  with preemption.watch() as preempted:
    for step in ...:
      ...
      if preempted(step):
        session.save(step, state, iterator, force=True)
        session.close()
        raise errors.Preempted(preemption.MESSAGE.format(step=step))
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import jax

MESSAGE = (
  "stopped by SIGTERM after saving step {step}; the same command goes on from"
  " there"
)
_NOTICE = b"SIGTERM: saving after this step, then leaving (exit code 75)\n"


@contextlib.contextmanager
def watch() -> Iterator[Callable[[int], bool]]:
  """Catches SIGTERM; gives a function of the step that tells whether it came.

  Until the end of the `with`, further SIGTERMs change nothing, so they cannot
  tear a save.  Then the previous handler is back.

  In a run of several processes all get the same answer at the same step, even
  if only one was told: JAX's coordination service, which catches the signal
  there, agrees on a step that none has passed.

  Raises:
    RuntimeError: this is not the main thread, where Python handles signals.
  """
  if threading.current_thread() is not threading.main_thread():
    raise RuntimeError("preemption.watch() works in the main thread only")
  if jax.process_count() > 1:
    from jax.experimental import multihost_utils

    yield multihost_utils.reached_preemption_sync_point
    return

  received = threading.Event()

  def handle(number: int, frame: FrameType | None) -> None:
    del number, frame
    if not received.is_set():
      received.set()
      # Not print(): the signal may have interrupted one.
      with contextlib.suppress(OSError):
        os.write(2, _NOTICE)

  previous = signal.signal(signal.SIGTERM, handle)
  try:
    yield lambda step: received.is_set()
  finally:
    signal.signal(signal.SIGTERM, previous)
