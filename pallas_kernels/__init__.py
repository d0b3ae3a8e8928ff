"""Kernels for attention and scans; depends on jax alone.

Each operation is a folder: `__init__` is the public function, `reference` its
definition in plain jnp.  Only the reference exists today; TPU and GPU kernels
will have the same signature and the reference as their test.
"""

from pallas_kernels.attention import attention

__all__ = ["attention"]
