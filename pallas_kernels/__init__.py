"""Kernels for attention and scans; depends on jax alone.

Each operation is a folder: `__init__` is the public function, `reference` its
definition in plain jnp.  Only plain jnp exists today; TPU and GPU kernels will
have the same signature and the definition as their test.
"""

from pallas_kernels.attention import attention
from pallas_kernels.scan import linear_attention, linear_scan, selective_scan

__all__ = ["attention", "linear_attention", "linear_scan", "selective_scan"]
