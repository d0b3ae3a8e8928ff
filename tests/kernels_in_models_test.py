"""Models that attend and scan by kernels, each device its part.

The kernels are a TPU's, interpreted; one step on eight devices is that of the
definitions on one.
"""

import functools
import types

import numpy as np
import pytest

import pallas_kernels
from pallas_kernels import platforms
from t5x_lite.layers import kernels
from tests import partitioning_families_test as families
from tests import tiny

KERNEL = "mosaic_tpu"
FAMILIES = ("t5_1_1", "bert", "llama3", "palm", "mamba")
SLOW = ("bert", "palm")


def use_kernels(monkeypatch):
  """Lets models run them; returns the set of names of those that did."""
  called = set()

  def interpreted(function, *args, implementation=None, **arguments):
    called.add(function.__name__)
    return function(*args, implementation=KERNEL, interpret=True, **arguments)

  functions = pallas_kernels.attention, pallas_kernels.selective_scan
  patched = {f.__name__: functools.partial(interpreted, f) for f in functions}
  monkeypatch.setattr(
    kernels, "pallas_kernels", types.SimpleNamespace(**patched)
  )
  monkeypatch.setattr(kernels, "_by_device", lambda _: platforms.divided())
  return called


@pytest.mark.parametrize(
  "family",
  [
    pytest.param(name, marks=pytest.mark.slow if name in SLOW else ())
    for name in FAMILIES
  ],
)
def test_a_step_by_kernels_is_that_of_the_definitions(family, monkeypatch):
  model, expected, parameters = families.on_one_device(family)
  called = use_kernels(monkeypatch)
  objective = families.FAMILIES[family]
  values, stepped = families.step(
    model, objective, families.partitioner("two_d")
  )
  operation = "selective_scan" if family == "mamba" else "attention"
  assert called == {operation}
  assert values == pytest.approx(expected, rel=1e-4, abs=1e-5)
  found = tiny.leaves(stepped)
  for name, array in parameters.items():
    np.testing.assert_allclose(found[name], array, atol=2e-4, err_msg=name)
