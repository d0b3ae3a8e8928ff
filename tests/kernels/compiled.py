"""Compiling kernels for chips that are absent: what tests share.

    @pytest.mark.compiled
    @pytest.mark.parametrize("chip", compiled.TPUS)
    def test_spills_nothing(chip):
      found = compiled.report(chip, forward, length=1024)
      assert found.tpu_kernel("attention").spill_stores == 0

`forward` stands at the top of the test's module: see `testing.compile_for`.
"""

import functools
import json

import pytest

from pallas_kernels import testing

TPUS = tuple(c.name for c in testing.CHIPS.values() if c.platform == "tpu")
GPUS = tuple(c.name for c in testing.CHIPS.values() if c.platform == "gpu")


def sample(*often, rest=()):
  """Parameters for every run, and others for those of all tests."""
  slow = (x if isinstance(x, tuple) else (x,) for x in rest)
  return [*often, *(pytest.param(*x, marks=pytest.mark.slow) for x in slow)]


def without(every, often):
  """What `sample` leaves for the rest."""
  return [x for x in every if x not in often]


def report(chip, target, **arguments):
  """Returns `testing.compile_for`'s report, each made once.

  Skips the test where the compiler is not installed.
  """
  if lacking := testing.missing(chip):
    pytest.skip(lacking)
  return _report(chip, target, json.dumps(arguments, sort_keys=True))


@functools.cache
def _report(chip, target, arguments):
  return testing.compile_for(chip, target, json.loads(arguments))
