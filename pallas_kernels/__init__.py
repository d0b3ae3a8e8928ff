"""Kernels for attention and scans; depends on jax alone.

Each operation is a function with a definition in plain jnp and implementations
that give the same numbers: jnp in linear memory, and kernels for TPUs and
NVIDIA GPUs, which are imported when they are picked.  `testing` compiles them
for chips that are absent.
"""

from pallas_kernels.attention import (
  Pattern,
  RelativeBias,
  attention,
  bigbird,
  longformer,
  pick_attention,
)
from pallas_kernels.platforms import KERNELS
from pallas_kernels.scan import (
  linear_attention,
  linear_scan,
  pick_linear_scan,
  pick_selective_scan,
  selective_scan,
)

__all__ = [
  "KERNELS",
  "Pattern",
  "RelativeBias",
  "attention",
  "bigbird",
  "linear_attention",
  "linear_scan",
  "longformer",
  "pick_attention",
  "pick_linear_scan",
  "pick_selective_scan",
  "selective_scan",
]
