"""Time and memory of one mixer against the length of the row.

A layer of attention, of S4 (by FFT and in blocks) and of Mamba, of one width,
computes the gradients of a row of 512 to 65,536 tokens, forward and backward.
Time is that of the CPU, all threads, so that what else runs matters little.
Memory is what the compiled step needs beside its arguments, as XLA plans it,
so that it is known of steps that are too large to run; the greatest resident
memory of the process is given too.  Each layer has a process of its own, which
goes from short rows to long ones.

  python benchmarks/length.py [--arms attention,s4_fft,s4_blocks,mamba]
      [--lengths 512,1024,...] [--dim 64] [--limit_gib 4] [--repeats 3]
      [--picture docs/cost_against_length.png] [--json out.json]
"""

import argparse
import json
import math
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import curves

NAMES = {
  "attention": "attention",
  "s4_fft": "S4, FFT",
  "s4_blocks": "S4, blocks",
  "mamba": "Mamba",
}
_MIB = 2**20


def layer(arm: str, dim: int) -> Any:
  """The layer of an arm."""
  from flax import nnx

  from t5x_lite import layers

  rngs = nnx.Rngs(0)
  if arm == "attention":
    return layers.Attention(
      dim, heads=dim // 16, head_dim=16, causal=True, rngs=rngs
    )
  if arm == "mamba":
    return layers.Mamba(dim, rngs=rngs)
  mode = {"s4_fft": "convolution", "s4_blocks": "blocks"}[arm]
  return layers.S4(dim, mode=mode, rngs=rngs)


def measure(arm: str, flags: argparse.Namespace) -> Iterator[dict[str, Any]]:
  """Plans the step of a row of each length, and runs it if there is room."""
  import jax
  import jax.numpy as jnp

  from t5x_lite.layers import Context

  module = layer(arm, flags.dim)

  @jax.jit
  def step(module: Any, x: jax.Array, ctx: Context) -> Any:
    def total(module: Any, x: jax.Array) -> jax.Array:
      return jnp.sum(jnp.square(module(x, ctx)[0]))

    return jax.grad(total, argnums=(0, 1))(module, x)

  for length in flags.lengths:
    x = jax.random.normal(jax.random.key(0), (1, length, flags.dim))
    ctx = Context(jnp.arange(length, dtype=jnp.int32)[None])
    compiled = step.lower(module, x, ctx).compile()
    plan = compiled.memory_analysis().temp_size_in_bytes
    found = {"length": length, "plan_mib": plan / _MIB, "seconds": []}
    if plan <= flags.limit_gib * 2**30:
      jax.block_until_ready(compiled(module, x, ctx))
      for _ in range(flags.repeats):
        before = time.process_time()
        jax.block_until_ready(compiled(module, x, ctx))
        found["seconds"].append(time.process_time() - before)
      peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB
      found["resident_mib"] = peak / 1024
    yield found


def _run(flags: argparse.Namespace, arm: str) -> dict[int, dict[str, Any]]:
  """`measure` in a process of its own; results by length."""
  root = str(pathlib.Path(__file__).resolve().parents[1])
  path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
  done = subprocess.run(
    [sys.executable, *sys.argv, f"--one={arm}"],
    stdout=subprocess.PIPE,
    text=True,
    env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": path},
    check=True,
  )
  found = [json.loads(line) for line in done.stdout.splitlines()]
  return {one["length"]: one for one in found}


def _lengths(text: str) -> list[int]:
  return sorted(int(length) for length in text.split(","))


def table(found: dict[str, dict[int, Any]], lengths: list[int]) -> str:
  """Time and memory by length, in Markdown."""
  arms = list(found)
  names = [NAMES[arm] for arm in arms]
  titles = [*(f"{n}, ms" for n in names), *(f"{n}, MiB" for n in names)]
  lines = [
    "| tokens | " + " | ".join(titles) + " |",
    "|--:|" + "--:|" * len(titles),
  ]
  for length in lengths:
    cells = []
    for arm in arms:
      seconds = found[arm][length]["seconds"]
      cells.append(
        f"{1e3 * statistics.median(seconds):,.0f}" if seconds else "-"
      )
    cells += [f"{found[arm][length]['plan_mib']:,.0f}" for arm in arms]
    lines.append(f"| {length:,} | " + " | ".join(cells) + " |")
  return "\n".join(lines)


def growth(points: dict[int, float]) -> float:
  """The exponent of length between the last two lengths, base 2."""
  (short, less), (long, more) = sorted(points.items())[-2:]
  return math.log(more / less) / math.log(long / short)


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--arms", default=",".join(NAMES))
  lengths = [2**n for n in range(9, 17)]
  parser.add_argument("--lengths", type=_lengths, default=lengths)
  parser.add_argument("--dim", type=int, default=64)
  parser.add_argument("--limit_gib", type=float, default=4.0)
  parser.add_argument("--repeats", type=int, default=3)
  parser.add_argument("--picture", type=pathlib.Path)
  parser.add_argument("--json", type=pathlib.Path)
  parser.add_argument("--one", help=argparse.SUPPRESS)
  flags = parser.parse_args()
  if flags.one:
    for found in measure(flags.one, flags):
      print(json.dumps(found), flush=True)
    return
  results = {arm: _run(flags, arm) for arm in flags.arms.split(",")}
  print(table(results, flags.lengths))
  times, plans = (
    {arm: _points(found, what) for arm, found in results.items()}
    for what in ("seconds", "plan_mib")
  )
  for arm in results:
    peaks = [r["resident_mib"] for r in results[arm].values() if r["seconds"]]
    print(
      f"{NAMES[arm]}: time grows as length to the {growth(times[arm]):.2f},"
      f" memory to the {growth(plans[arm]):.2f}, at the longest rows;"
      f" greatest resident memory {max(peaks):,.0f} MiB"
    )
  if flags.json:
    flags.json.write_text(json.dumps(results, indent=1))
  if flags.picture:
    panels = {
      "CPU seconds of a step": times,
      "MiB beside the arguments": plans,
    }
    named = {
      label: {NAMES[a]: list(p.items()) for a, p in lines.items()}
      for label, lines in panels.items()
    }
    curves.draw(flags.picture, named, logarithmic=True)


def _points(found: dict[int, Any], what: str) -> dict[int, float]:
  """Medians by length, of what was measured."""
  if what == "seconds":
    return {
      length: statistics.median(result["seconds"])
      for length, result in found.items()
      if result["seconds"]
    }
  return {length: result[what] for length, result in found.items()}


if __name__ == "__main__":
  main()
