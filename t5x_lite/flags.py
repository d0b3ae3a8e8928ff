"""Flags of the command line, and the help about them."""

import argparse
import textwrap
from collections.abc import Iterable, Sequence
from typing import NoReturn

import t5x_lite
from t5x_lite import commands, errors, launch

EXIT_CODES = """\
exit codes:
  0    done
  1    a defect of t5x_lite or of your own module (with a traceback)
  2    the command line or a gin file is wrong; nothing was run
  3    data that cannot be read or does not fit the model
  4    a checkpoint that cannot be written, read or used for this run
  5    loss, gradients or parameters became NaN or infinite
  6    another process of the run is lost, or did not come
  7    nothing moved for longer than WATCHDOG_MINUTES; all stacks are shown
  8    the program does not fit into the memory of the devices
  75   stopped by SIGTERM after saving; the same command goes on from there
  130  interrupted from the keyboard"""

_ABOUT_GIN = """\
gin:
  Files are looked for in the working directory, then among those that come
  with t5x_lite. Modules they import may lie in the working directory.
  --gin.NAME=value sets a macro, or a parameter: --gin.layers.Stack.remat=full
  (with a scope: --gin.encoder/layers.Stack.num_layers=4).
  A value is a Python literal (8, 1e-3, True, None, "{'inputs': 512}"), a macro
  (%DIM), a class or function (@layers.RMSNorm) or its result (@f()). Text
  that is none of these, such as my_task or /data/*.txt, is a string; write
  "'8'" for a string that would be something else.
  A setting that has no effect is an error."""


class _Parser(argparse.ArgumentParser):
  def error(self, message: str) -> NoReturn:
    raise errors.ConfigError(f"{message}; see {self.prog} --help")


def _parser(command: commands.Command) -> argparse.ArgumentParser:
  parser = _Parser(
    prog=f"t5x_lite {command.name}",
    description=command.about,
    epilog="\n\n".join((_examples(command), _ABOUT_GIN, EXIT_CODES)),
    formatter_class=argparse.RawDescriptionHelpFormatter,
    add_help=False,
    allow_abbrev=False,
  )
  add = parser.add_argument
  add(
    "-h",
    "--help",
    action="store_true",
    help="show this; with --gin_file, show the macros of these files",
  )
  add("--workdir", metavar="DIR", help="where the run keeps all of its files")
  add(
    "--gin_file",
    metavar="FILE",
    action="append",
    default=[],
    help="a gin file; may be repeated, later files win",
  )
  for flag, macro, about in command.flags:
    add(flag, metavar=macro, help=f"{about}; short for --gin.{macro}")
  for flag, macro, about in command.switches:
    help_ = f"{about}; short for --gin.{macro}=True"
    add(flag, dest=macro, action="store_true", help=help_)
  add(
    "--gin.NAME",
    metavar="VALUE",
    dest="_",
    help="set a macro or parameter; wins over all files",
  )
  add(
    "--dry_run",
    action="store_true",
    help="show what would run, and touch nothing",
  )
  add(
    "--list_macros",
    action="store_true",
    help="show each macro of the files, its value and its place",
  )
  if command.computes:
    _add_processes(parser)
  return parser


def _add_processes(parser: argparse.ArgumentParser) -> None:
  """Flags of runs of several processes, which most launchers spare one."""
  add = parser.add_argument_group(
    "several processes",
    "found by itself on Cloud TPU, Slurm, Kubernetes and with Open MPI",
  ).add_argument
  add(
    "--coordinator_address",
    metavar="HOST:PORT",
    help="of process 0; the port is any that is free there",
  )
  add(
    "--num_processes",
    metavar="N",
    type=int,
    help="how many there are; 1 is a run alone, whatever the launcher says",
  )
  add("--process_id", metavar="I", type=int, help="of this one, 0 to N - 1")
  add(
    "--wait_seconds",
    metavar="S",
    type=float,
    default=300.0,
    help="to wait for all to come (default 300)",
  )


def parse(command: commands.Command, argv: Sequence[str]) -> argparse.Namespace:
  """Returns workdir, gin_file, gin (pairs of name and value), dry_run, help.

  The command's own flags are among the pairs.

  Raises:
    errors.ConfigError: a flag that does not exist, with the nearest one.
  """
  settings, others = _take_gin_flags(argv)
  parser = _parser(command)
  options, unknown = parser.parse_known_args(others)
  if unknown:
    raise errors.ConfigError(_unknown_flag(unknown[0], parser))
  for flag, macro, _ in command.flags:
    value = getattr(options, flag.removeprefix("--"))
    settings += [] if value is None else [(macro, value)]
  for _, macro, _ in command.switches:
    settings += [(macro, "True")] if getattr(options, macro) else []
  options.gin = settings
  if command.runs_alone and command.run_file not in options.gin_file:
    options.gin_file = [command.run_file, *options.gin_file]
  return options


def _take_gin_flags(
  argv: Sequence[str],
) -> tuple[list[tuple[str, str]], list[str]]:
  settings, others = [], []
  waiting = iter(argv)
  for word in waiting:
    if not word.startswith("--gin."):
      others.append(word)
      continue
    name, equals, value = word.removeprefix("--gin.").partition("=")
    if not equals:
      value = next(waiting, "")
    settings.append((name, value))
  return settings, others


def _unknown_flag(word: str, parser: argparse.ArgumentParser) -> str:
  if word.endswith(".gin") and not word.startswith("-"):
    return f"each gin file has a flag of its own: --gin_file={word}"
  name, equals, value = word.partition("=")
  if equals and not name.startswith("-"):
    return f"what is {word!r}? To set a macro, write --gin.{name}={value}"
  known = [f for a in parser._actions for f in a.option_strings]
  if name.removeprefix("--").isupper():
    return f"no flag {name}; to set a macro, write --gin.{name.strip('-')}=..."
  return f"there is no flag {name}{errors.suggest(name, known)}"


def version() -> str:
  """The text of `--version`."""
  return f"t5x_lite {t5x_lite.__version__}"


def overview() -> str:
  """The text of `t5x_lite --help`."""
  words = commands.COMMANDS.values()
  listed = "\n".join(f"  {c.name:<8} {c.summary}" for c in words)
  listed += f"\n  {'launch':<8} {launch.SUMMARY}"
  return (
    f"t5x_lite: {t5x_lite.__doc__}\n\n"
    "usage: t5x_lite COMMAND [--workdir=DIR] [--gin_file=FILE ...] "
    "[--gin.NAME=VALUE ...]\n\n"
    f"commands:\n{listed}\n\n"
    "t5x_lite COMMAND --help explains a command with examples.\n\n"
    f"{EXIT_CODES}"
  )


def help_text(command: commands.Command, options: argparse.Namespace) -> str:
  """The text of `t5x_lite COMMAND --help`."""
  files = options.gin_file or [command.run_file]
  try:
    table = macro_table(files, options.gin)
  except errors.ConfigError as error:
    if options.gin_file:
      raise
    table = str(error)
  title = f"macros of {' '.join(files)}:"
  help_ = _parser(command).format_help().rstrip()
  return "\n".join((help_, "", title, textwrap.indent(table, "  ")))


def macro_table(
  files: Iterable[str], settings: Iterable[tuple[str, str]] = ()
) -> str:
  """A line for each macro: value, place, and what the file says about it."""
  from t5x_lite.config import reader, statements

  rows = []
  macros = reader.read(files, settings).macros()
  for name, binding in sorted(macros.items()):
    is_required = binding.value == statements.REQUIRED
    value = "(required)" if is_required else repr(binding.value)
    rows.append((f"{name} = {value}", str(binding.place)))
    if binding.place.comment:
      rows.append((f"    {binding.place.comment}", ""))
  width = min(max((len(row[0]) for row in rows if row[1]), default=0), 48)
  return "\n".join(f"{a:<{width}}  {b}".rstrip() for a, b in rows)


def _examples(command: commands.Command) -> str:
  lines = ["examples:"]
  for purpose, line in command.examples:
    first, *rest = line.split(" --")
    words = [first, *(f"--{word}" for word in rest)]
    wrapped = textwrap.wrap(
      "\0".join(words).replace(" ", "\1").replace("\0", " "),
      width=74,
      subsequent_indent="    ",
      break_long_words=False,
      break_on_hyphens=False,
    )
    lines.append(f"  {purpose}")
    lines.append(
      "    " + " \\\n    ".join(w.replace("\1", " ") for w in wrapped)
    )
  return "\n".join(lines)
