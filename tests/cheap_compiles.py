"""XLA flags for tests, which compile much and compute little."""

import importlib.metadata


def flags(given: str = "", **more: int | str) -> str:
  """XLA_FLAGS with which a CPU program compiles in half the time.

  LLVM's optimizations are off (XLA's own stay), a program is compiled as one
  module, and jax 0.10's MLIR emitters, which take the longest and which newer
  releases have no flag for, are left out.

  Args:
    given: flags that are kept as they are and win.
    **more: further ones.
  """
  new: dict[str, int | str] = {
    "xla_backend_optimization_level": 0,
    "xla_cpu_parallel_codegen_split_count": 1,
    **more,
  }
  if importlib.metadata.version("jaxlib").startswith("0.10."):
    new["xla_cpu_use_fusion_emitters"] = "false"
  added = [f"--{k}={v}" for k, v in new.items() if f"--{k}=" not in given]
  return " ".join([given, *added]).strip()
