"""How XLA compiles a run: its options, and what it keeps of former runs.

Options are XLA's flags without the dashes, by platform, given to the compiler
with the program and not by the environment:

  {'tpu': {'xla_tpu_scoped_vmem_limit_kib': 65536},
   'gpu': {'xla_gpu_enable_latency_hiding_scheduler': True}}
"""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import jax

from t5x_lite import errors

PLATFORMS = ("cpu", "gpu", "tpu")


@dataclasses.dataclass(frozen=True)
class Compilation:
  """Of the training step.

  Attributes:
    options: platform -> XLA option -> value; those of other platforms than the
      run's have no part in it, so that a file can name all.
    cache: directory, that of a bucket too, in which programs are kept for the
      next start of the same; None is none.
  """

  options: Mapping[str, Mapping[str, str | int | float | bool]] = (
    dataclasses.field(default_factory=dict)
  )
  cache: str | os.PathLike[str] | None = None

  def __post_init__(self) -> None:
    for platform in self.options:
      if platform not in PLATFORMS:
        raise errors.ConfigError(
          f"Compilation.options are by platform, and {platform!r} is none of"
          f" {', '.join(PLATFORMS)}{errors.suggest(platform, PLATFORMS)}"
        )

  def use_cache(self) -> None:
    """Lets all programs of the process be kept; before the first one."""
    if self.cache is not None:
      jax.config.update("jax_compilation_cache_dir", os.fspath(self.cache))
      # By default the quickest are compiled again.
      jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

  def __call__(
    self, lowered: jax.stages.Lowered, platform: str | None = None
  ) -> jax.stages.Compiled:
    """Compiles with the options of a platform, by default the run's.

    Raises:
      ConfigError: XLA does not know an option, or not its value.
    """
    # JAX takes numbers too, although it does not say so.
    found = self.options.get(platform or jax.default_backend(), {})
    options: dict[str, Any] = dict(found)
    try:
      return lowered.compile(compiler_options=options or None)
    except (jax.errors.JaxRuntimeError, ValueError) as error:
      culprit = [name for name in options if name in str(error)]
      if not culprit:
        raise
      raise errors.ConfigError(
        f"XLA refuses {culprit[0]} = {options[culprit[0]]!r} of"
        f" Compilation.options (COMPILER_OPTIONS): {error}"
      ) from error
