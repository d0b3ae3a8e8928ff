import pytest

from pallas_kernels import testing
from t5x_lite import chips


@pytest.mark.parametrize("name", chips.CHIPS)
def test_peaks_agree_with_those_of_the_kernels(name):
  peak = testing.CHIPS[name].peak_flops
  # The kernels' table has the half of a v4 chip, a core.
  assert chips.CHIPS[name].peak == (peak * 2 if name == "v4" else peak)


def test_every_chip_is_found_by_its_own_description():
  for name in ("A100", "H100", "H200", "B200"):
    assert chips.of_kind(testing.CHIPS[name].device).name == name
  assert chips.of_kind("cpu") is None


@pytest.mark.parametrize("chip", chips.CHIPS.values(), ids=str)
def test_what_is_near_is_faster(chip):
  assert chip.bandwidth > chip.link > chip.network > 0
  assert chip.domain >= 8
