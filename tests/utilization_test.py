"""What is reported of how well devices are used, MFU and HFU."""

import pytest

from t5x_lite import flops, utilization


@pytest.mark.parametrize(
  "kind, teraflops",
  [
    ("TPU v4", 275),
    ("TPU v5 lite", 197),
    ("TPU v5e", 197),
    ("TPU v5", 459),
    ("TPU v5p", 459),
    ("TPU v6 lite", 918),
    ("TPU7x", 1153.5),  # two devices a chip of 2307
    ("NVIDIA H100 80GB HBM3", 989.5),
    ("NVIDIA H100 PCIe", 756.5),
    ("NVIDIA H200", 989.5),
    ("NVIDIA A100-SXM4-80GB", 312),
    ("NVIDIA A100 80GB PCIe", 312),
    ("NVIDIA B200", 2250),
  ],
)
def test_peaks_of_known_devices(kind, teraflops):
  assert utilization.peak(kind) == teraflops * 1e12
  assert utilization.mfu(teraflops * 1e12, 4.0, kind, num_devices=2) == 1 / 8


@pytest.mark.parametrize(
  "kind", ["cpu", "TPU v99", "NVIDIA A100-SXM4-40GB MIG 1g.5gb", ""]
)
def test_unknown_devices_have_no_peak(kind):
  assert utilization.peak(kind) is None
  assert utilization.mfu(1e12, 1.0, kind, num_devices=1) is None


def test_utilization_reports_both_conventions_and_hfu():
  step = flops.Flops(matmul=80e12, attention=10e12, attention_full=20e12)
  on_tpu = utilization.Utilization(step, "TPU v4", 2, hardware=110e12)
  assert on_tpu(0.5) == pytest.approx(
    {
      "mfu": 90 / 275,
      "mfu_full_attention": 100 / 275,
      "hfu": 110 / 275,
      "teraflops_per_device": 90,
      "hardware_teraflops_per_device": 110,
    }
  )
  on_cpu = utilization.Utilization(step, "cpu", 2, hardware=110e12)
  assert on_cpu(0.5) == {
    "teraflops_per_device": 90,
    "hardware_teraflops_per_device": 110,
  }
