"""Mamba's selective scan on a CPU: time and memory of its implementations.

CPU time is the least of some calls; memory is what the compiled program plans
beside its arguments and results.

  python benchmarks/scans.py [--length 1024] [--repeats 5]
"""

import argparse
import functools
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

import pallas_kernels

BATCH, CHANNELS, STATE = 2, 256, 16
IMPLEMENTATIONS = ("chunked", "chunked_associative", "sequential")
WHOLE = "associative"


def inputs(length: int) -> tuple[jax.Array, ...]:
  """Random x, dt, a, b, c."""
  keys = jax.random.split(jax.random.key(0), 5)
  wide, narrow = (BATCH, length, CHANNELS), (BATCH, length, STATE)
  return (
    jax.random.normal(keys[0], wide),
    jax.nn.softplus(jax.random.normal(keys[1], wide)),
    -jnp.exp(jax.random.normal(keys[2], (CHANNELS, STATE))),
    jax.random.normal(keys[3], narrow),
    jax.random.normal(keys[4], narrow),
  )


def measure(
  function: Callable[..., jax.Array],
  arrays: tuple[jax.Array, ...],
  repeats: int,
) -> tuple[float, float]:
  """Milliseconds of CPU time, and MiB of temporaries."""
  compiled = jax.jit(function).lower(*arrays).compile()
  jax.block_until_ready(compiled(*arrays))
  times = []
  for _ in range(repeats):
    start = time.process_time()
    jax.block_until_ready(compiled(*arrays))
    times.append(time.process_time() - start)
  memory = compiled.memory_analysis().temp_size_in_bytes
  return min(times) * 1e3, memory / 2**20


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--length", type=int, default=1024)
  parser.add_argument("--repeats", type=int, default=5)
  options = parser.parse_args()
  arrays = inputs(options.length)
  print("form                   forward ms  and backward ms   MiB")
  for name in (*IMPLEMENTATIONS, WHOLE):
    scan = functools.partial(pallas_kernels.selective_scan, implementation=name)

    def forward(*arrays: jax.Array, scan: Callable = scan) -> jax.Array:
      return jnp.sum(scan(*arrays)[0] ** 2)

    once, _ = measure(forward, arrays, options.repeats)
    backward = jax.grad(forward, argnums=range(5))
    both, memory = measure(backward, arrays, options.repeats)
    print(f"{name:<22} {once:10.1f}  {both:15.1f}  {memory:6.1f}", flush=True)


if __name__ == "__main__":
  main()
