"""Attention on a CPU: our default against JAX's own, in time and memory.

`jax.nn.dot_product_attention` computes all weights at once, as XLA's users
write it.  Time is the median of some calls, ours and theirs in turns; memory
is what the compiled program plans beside its arguments and results.

  python benchmarks/attention.py [--lengths 512,2048,4096] [--repeats 7]
"""

import argparse
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

import pallas_kernels

ROWS, HEADS, HEAD_DIM = 1, 8, 64


def ours(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
  return pallas_kernels.attention(q, k, v, causal=True, scale=HEAD_DIM**-0.5)


def theirs(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
  return jax.nn.dot_product_attention(q, k, v, is_causal=True)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--lengths", default="512,2048,4096")
  parser.add_argument("--repeats", type=int, default=7)
  options = parser.parse_args()
  print("length  implementation      ours    JAX's  ratio   MiB  JAX's")
  for length in map(int, options.lengths.split(",")):
    shape = (ROWS, length, HEADS, HEAD_DIM)
    keys = jax.random.split(jax.random.key(0), 3)
    arrays = [jax.random.normal(key, shape) for key in keys]
    steps, memory, times = [], [], ([], [])
    for function in (ours, theirs):

      def loss(*arrays: jax.Array, run: Callable = function) -> jax.Array:
        return jnp.sum(run(*arrays) ** 2)

      step = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
      steps.append(step.lower(*arrays).compile())
      memory.append(steps[-1].memory_analysis().temp_size_in_bytes / 2**20)
    for _ in range(options.repeats + 1):
      for step, taken in zip(steps, times, strict=True):
        begin = time.perf_counter()
        jax.block_until_ready(step(*arrays))
        taken.append(time.perf_counter() - begin)
    mine, other = (statistics.median(x[1:]) * 1e3 for x in times)
    name = pallas_kernels.pick_attention(*arrays)
    print(
      f"{length:6}  {name:<14} {mine:6.0f} ms {other:6.0f} ms"
      f" {mine / other:6.2f} {memory[0]:5.0f} {memory[1]:6.0f}",
      flush=True,
    )


if __name__ == "__main__":
  main()
