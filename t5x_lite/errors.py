"""Errors that a user can mend: one clear message, a documented exit code.

`main` prints the message of a `UserError` without a traceback and ends with
its `exit_code`.  Anything else is a defect of ours and keeps its traceback.
"""

import difflib
from collections.abc import Iterable


class UserError(Exception):
  """Names the culprit and the remedy; ends the process with `exit_code`."""

  exit_code = 1


class ConfigError(UserError):
  """A wrong command line, gin file or combination of settings."""

  exit_code = 2


class DataError(UserError):
  """Input that cannot be read, or that does not fit the model."""

  exit_code = 3


class CheckpointError(UserError):
  """A checkpoint that cannot be written, read or used for this run."""

  exit_code = 4


class NonFiniteError(UserError):
  """Loss, gradients or parameters became NaN or infinite."""

  exit_code = 5


class ProcessLost(UserError):
  """Another process of the run is gone, or did not come."""

  exit_code = 6


class Hung(UserError):
  """Nothing moved for longer than the watchdog allows."""

  exit_code = 7


class TooLargeError(UserError):
  """A program that does not fit into the memory of its devices."""

  exit_code = 8


class Preempted(UserError):
  """Stopped by SIGTERM after saving; 75 is EX_TEMPFAIL of sysexits.h."""

  exit_code = 75


def suggest(name: str, known: Iterable[str]) -> str:
  """Returns "; did you mean 'x' or 'y'?", or "" when nothing is near."""
  lowered = {candidate.lower(): candidate for candidate in known}
  near = difflib.get_close_matches(name.lower(), lowered, n=3, cutoff=0.6)
  if not near:
    return ""
  return "; did you mean " + " or ".join(repr(lowered[n]) for n in near) + "?"
