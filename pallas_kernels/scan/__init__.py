"""Linear recurrences along time: scans of state-space models."""

from pallas_kernels.scan.linear import linear_scan, pick_linear_scan
from pallas_kernels.scan.linear_attention import linear_attention
from pallas_kernels.scan.selective import pick_selective_scan, selective_scan

__all__ = [
  "linear_attention",
  "linear_scan",
  "pick_linear_scan",
  "pick_selective_scan",
  "selective_scan",
]
