"""The README names what is there, and no command of it is left out."""

import itertools
import re

from tests.e2e import commands, readme


def test_every_command_is_run() -> None:
  sections = [readme.SECTIONS[s] for s in (*readme.OWN_TEXT, *readme.OTHERS)]
  run = list(itertools.chain(*sections))
  assert sorted(run) == sorted(readme.commands_of(readme.TEXT))
  assert {name for _, name, *_ in run} == set(readme.SMALLER)
  # In blocks that are not run too: what needs an extra, or several processes.
  written = re.findall(r"^ *t5x_lite (\w+) ", readme.TEXT, re.M)
  others = ("compile", "harness", "launch")
  assert sorted(written) == sorted([*(c[1] for c in run), *others])


def test_files_that_are_named_exist() -> None:
  links = re.findall(r"\]\(([\w/.-]+)\)", readme.TEXT)
  assert links
  for link in links:
    assert (commands.ROOT / link).exists(), link
