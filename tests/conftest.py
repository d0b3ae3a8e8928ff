"""Tests run on eight virtual CPU devices, whatever the machine has."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def _default_xla_flags(**flags: int) -> None:
  """Adds flags that the environment does not set already."""
  given = os.environ.get("XLA_FLAGS", "")
  new = [f"--{k}={v}" for k, v in flags.items() if f"--{k}=" not in given]
  os.environ["XLA_FLAGS"] = " ".join([given, *new]).strip()


# Tests compile much and compute little: without LLVM's optimizations (XLA's
# own stay) they need half the time.
_default_xla_flags(
  xla_force_host_platform_device_count=8, xla_backend_optimization_level=0
)
