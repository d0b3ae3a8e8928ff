"""The files that come with t5x_lite keep the rules that users' files keep."""

import pytest

from t5x_lite import commands
from t5x_lite.config import check, reach, reader, resolve, shipped

FILES = reader.shipped_files()
ROOTS = [command.root for command in commands.COMMANDS.values()]


def _source(name):
  source = reader.read([name])
  objects = resolve.resolve(source)
  return source.renamed(resolve.aliases(objects)), objects


def test_there_are_files():
  assert "models/t5_1_1/small.gin" in FILES


def test_every_macro_is_read_somewhere():
  read = shipped.macros_read()
  for name in FILES:
    unread = set(reader.read([name]).macros()) - read
    assert not unread, name


@pytest.mark.parametrize("name", FILES)
def test_names_parameters_and_types(name):
  source, objects = _source(name)
  everything = reach.everything(source)
  assert check.cycles(source) == []
  assert check.unknown_parameters(source, objects) == []
  assert check.wrong_types(source, objects) == []
  assert check.without_effect(source, everything, ROOTS, objects) == []
