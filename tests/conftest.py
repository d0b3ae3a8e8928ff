"""Tests run on eight virtual CPU devices, whatever the machine has."""

import os

from tests import cheap_compiles

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["XLA_FLAGS"] = cheap_compiles.flags(
  os.environ.get("XLA_FLAGS", ""),
  xla_force_host_platform_device_count=8,
  # Eight devices on a busy machine may be late; XLA would abort after 40 s.
  xla_cpu_collective_call_terminate_timeout_seconds=300,
)
