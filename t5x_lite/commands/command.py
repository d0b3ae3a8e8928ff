"""What is told of a command, and where its work is done."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Command:
  """One word after `t5x_lite`."""

  name: str
  root: str  # dotted path of the function that gin configures and main calls
  summary: str
  about: str
  examples: tuple[tuple[str, str], ...]  # what it does, the command line
  run_file: str  # the shipped gin file whose macros the help shows
  # Short for --gin.MACRO=...: the flag, the macro, what the help says.
  flags: tuple[tuple[str, str, str], ...] = ()
  # Short for --gin.MACRO=True, likewise.
  switches: tuple[tuple[str, str, str], ...] = ()
  # Whether the run file is read first without being named.
  runs_alone: bool = False
  # Dotted path of a function that makes gin of the macros that are set, to be
  # read before all files (see `config.derive`).
  derives: str = ""
  # Whether it computes, and so may be one of several processes.
  computes: bool = False
  # Whether it stops by itself, all processes at once, after a SIGTERM.
  preemptible: bool = False
