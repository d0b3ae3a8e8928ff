import pytest

from t5x_lite import errors
from t5x_lite.pipelines import divide


def shares(num_shards, rows):
  hosts = range(len(rows))
  return [
    divide.share(sum(map(len, rows)), num_shards, i, len(rows), rows)
    for i in hosts
  ]


def test_equal_parts():
  one = divide.share(8, 4, 1, 2)
  assert (one.visible, one.saved, one.taken) == ([2, 3], [2, 3], None)
  alone = divide.share(8, 4, 0, 1)
  assert (alone.visible, alone.taken) == ([0, 1, 2, 3], None)


def test_hosts_that_have_the_same_rows():
  """As with a mesh axis `model` over two hosts; one of them saves."""
  rows = [range(4), range(4), range(4, 8), range(4, 8)]
  made = [divide.share(8, 2, i, 4, rows) for i in range(4)]
  assert [one.visible for one in made] == [[0], [0], [1], [1]]
  assert [one.saved for one in made] == [[0], [], [1], []]


def test_rows_that_are_no_neighbours():
  """As a torus of chips may give them."""
  rows = [[0, 1, 4, 5], [2, 3, 6, 7]]
  made = shares(2, rows)
  assert [one.visible for one in made] == [[0, 1], [0, 1]]
  assert [one.saved for one in made] == [[0, 1], []]
  for one, own in zip(made, rows, strict=True):
    read = [shard * 4 + row for shard in one.visible for row in range(4)]
    assert [read[place] for place in one.taken] == own


def test_too_few_shards():
  with pytest.raises(errors.ConfigError, match="1 data shards .* 2 hosts"):
    divide.share(8, 1, 0, 2)
