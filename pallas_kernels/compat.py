"""Differences between the versions of jax, 0.10 to 0.12."""

from typing import Any

import jax

VERSION = tuple(int(x) for x in jax.__version__.split(".")[:2])


def store_global(ref: Any, value: jax.Array) -> None:
  """Stores to global memory from a Mosaic GPU kernel, in any layout."""
  from jax.experimental.pallas import mosaic_gpu as plgpu

  if hasattr(plgpu, "store"):
    plgpu.store(ref, value, optimized=False)
  else:
    ref[...] = value


def tpu_reciprocal(x: jax.Array) -> jax.Array:
  """About 1 / x, in a TPU kernel: a first guess."""
  from jax.experimental import pallas
  from jax.experimental.pallas import tpu

  reciprocal = getattr(tpu, "reciprocal", None) or pallas.reciprocal
  guess: jax.Array = reciprocal(x, approx=True)
  return guess


def gpu_load(ref: Any, layout: Any) -> jax.Array:
  """Loads in a Mosaic GPU kernel, from any memory and in any layout."""
  from jax.experimental.pallas import mosaic_gpu as plgpu

  load: Any = plgpu.load  # Before 0.11 it asks for an index too.
  loaded: jax.Array = load(ref, layout=layout, optimized=False)
  return loaded


def gpu_interpreter() -> Any:
  """What makes `plgpu.kernel` interpret, and look for races; of 0.11 on."""
  from jax.experimental.pallas import mosaic_gpu as plgpu

  parameters: Any = vars(plgpu)["InterpretGPUParams"]
  return parameters(detect_races=True)
