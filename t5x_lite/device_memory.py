"""How full the memory of the devices is, as their allocators tell.

What a platform does not tell is left out: a CPU tells nothing.
"""

from collections.abc import Sequence

import jax

_GIB = 2**30
# Our name: the allocator's, and which of several devices is shown.
_KNOWN = {
  "in_use_gib": ("bytes_in_use", max),
  "peak_gib": ("peak_bytes_in_use", max),
  "limit_gib": ("bytes_limit", min),
}


def measure(devices: Sequence[jax.Device] | None = None) -> dict[str, float]:
  """GiB in use now, at the most so far, and there are; of the fullest device.

  Args:
    devices: of this process; None is all of them.

  Returns:
    Those of "in_use_gib", "peak_gib" and "limit_gib" that all devices tell.
  """
  devices = jax.local_devices() if devices is None else devices
  told = [device.memory_stats() or {} for device in devices]
  return {
    name: pick(stats[key] for stats in told) / _GIB
    for name, (key, pick) in _KNOWN.items()
    if told and all(key in stats for stats in told)
  }
