"""The command line: `t5x_lite COMMAND ...` or `python -m t5x_lite COMMAND ...`.

  commands   the words one can say, and the function behind each
  flags      the flags of a command, and its help
  launch     several processes of a command, on this machine
  cluster    the other processes of the run, if there are any
  config     gin files and --gin flags, checked, then bound to that function
  errors     what users can mend: one message and an exit code, no traceback

From here the reader goes on to `train.train`, where a run is put together.
"""

import argparse
import sys
import traceback
from collections.abc import Sequence

from t5x_lite import (
  cluster,
  commands,
  errors,
  flags,
  launch,
  quiet,
  watchdog,
)


def main(argv: Sequence[str] | None = None) -> int:
  """Runs one command; returns the exit code (see `flags.EXIT_CODES`)."""
  quiet.keep_quiet()
  member, message = cluster.Member(), ""
  try:
    code = _run(list(sys.argv[1:] if argv is None else argv), member)
  except errors.UserError as error:
    member.settle(error)
    # Gin adds the calls that led here; the message stands without them.
    message = str(error).partition("\n  In call to configurable ")[0]
    print(f"t5x_lite: {_kind(error)}{member.prefix}{message}", file=sys.stderr)
    code = error.exit_code
  except KeyboardInterrupt:
    message, code = "interrupted", 130
    print(f"t5x_lite: {member.prefix}{message}", file=sys.stderr)
  except Exception as error:
    if member.alone:
      raise
    member.settle(error)
    traceback.print_exc()
    message, code = f"{type(error).__name__}: {error}", 1
  finally:
    watchdog.disarm()
  member.leave(code, message)
  return code


def _run(argv: list[str], member: cluster.Member) -> int:
  if not argv or argv[0] in ("-h", "--help", "--version"):
    print(flags.version() if argv == ["--version"] else flags.overview())
    return 0 if argv else errors.ConfigError.exit_code
  if argv[0] == "launch":
    return launch.launch(argv[1:])
  name = commands.ALIASES.get(argv[0], argv[0])
  command = commands.COMMANDS.get(name)
  if command is None:
    near = errors.suggest(argv[0], [*commands.COMMANDS, "launch"])
    known = ", ".join(commands.COMMANDS)
    near = near or f"; the commands are {known}"
    raise errors.ConfigError(f"there is no command {argv[0]!r}{near}")
  if command.computes:
    watchdog.arm()
  options = flags.parse(command, argv[1:])
  if options.help:
    print(flags.help_text(command, options))
    return 0
  if options.list_macros:
    print(flags.macro_table(options.gin_file, options.gin))
    return 0

  from t5x_lite import config

  given = {} if options.workdir is None else {"workdir": options.workdir}
  others = [c.root for c in commands.COMMANDS.values()]
  files, settings = options.gin_file, options.gin
  if command.derives:
    files = config.derive(command.derives, files, settings)
  loaded = config.load(command.root, files, settings, given, others)
  if not loaded.takes.issuperset(given):
    raise errors.ConfigError(
      f"`t5x_lite {command.name}` keeps no files: leave out --workdir"
    )
  if command.computes and (at := _place(options)) is not None:
    member.join(
      at, seconds=options.wait_seconds, preemptible=command.preemptible
    )
  if "watchdog" not in loaded.takes:
    watchdog.disarm()  # what follows shows no signs of life
  if not options.dry_run:
    loaded.call()
  elif "dry_run" in loaded.takes:
    loaded.call(dry_run=True)
  else:
    print(loaded.text, end="")
  return 0


def _place(options: argparse.Namespace) -> cluster.Place | None:
  return cluster.place(
    options.coordinator_address, options.num_processes, options.process_id
  )


def _kind(error: errors.UserError) -> str:
  return "" if isinstance(error, errors.Preempted) else "error: "


if __name__ == "__main__":
  sys.exit(main())
