"""Attention and scans on one NVIDIA GPU: first are they right, then how fast.

  python -m benchmarks.gpu_kernels [--only attention] [--out results.json]
      [--repeats 20]

Everything takes less than ten minutes and needs nothing but jax; PyTorch's
attention is compared with where torch is installed.  Correctness is against
the definition in float64, on small random inputs; what is wrong is reported,
is not timed, and makes the exit code 1.  Times are medians of repeats, in
each of which as many calls as take 20 ms are queued and waited for.  That of
a backward pass is what it adds to the forward pass.
"""

import argparse
import functools
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.kernel_cases import (
  ATTENTION,
  FLOORS,
  LINEAR,
  SCANS,
  SMALL,
  SMALL_SCANS,
  Attention,
  Linear,
)

SPAN = 0.02  # seconds of queued calls that make one sample
KERNELS = ("mosaic_gpu", "triton")
TOLERANCES = {"bfloat16": 1e-2, "float32": 2e-6}


def error(case: Any, implementation: str) -> dict[str, float]:
  """Relative errors of the output and of every gradient, by name."""
  dtype = getattr(case, "dtype", "bfloat16")
  arrays = case.arrays(dtype)

  def run(arrays: Any, implementation: str) -> tuple[jax.Array, Any]:
    y, pull = jax.vjp(lambda x: case.call(x, implementation), arrays)
    weights = jnp.cos(jnp.arange(y.size).reshape(y.shape))
    return y, pull(weights.astype(y.dtype))[0]

  both = jax.jit(run, static_argnums=1)
  y, gradients = jax.device_get(both(arrays, implementation))
  got = {"output": y, **gradients}
  with jax.enable_x64(True):
    exact = jax.tree.map(lambda x: x.astype(jnp.float64), arrays)
    plain = "reference" if isinstance(case, Attention) else "sequential"
    y, gradients = jax.device_get(both(exact, plain))
    expected = {"output": y, **gradients}
    errors = {}
    for name, x in expected.items():
      away = jnp.linalg.norm(got[name].astype(jnp.float64).ravel() - x.ravel())
      errors[name] = float(away / jnp.linalg.norm(x.ravel()))
  return errors


def microseconds(run: Callable[[], Any], repeats: int) -> float:
  """Median of the time of a call, in a queue of calls."""
  jax.block_until_ready(run())
  begin = time.perf_counter()
  jax.block_until_ready(run())
  count = max(1, int(SPAN / max(time.perf_counter() - begin, 1e-6)))
  samples = []
  for _ in range(repeats):
    begin = time.perf_counter()
    for _ in range(count):
      result = run()
    jax.block_until_ready(result)
    samples.append((time.perf_counter() - begin) / count)
  return statistics.median(samples) * 1e6


def timed(
  function: Callable[[Any], jax.Array], arrays: Any, repeats: int
) -> dict[str, float]:
  """Microseconds of the forward pass and of what the backward pass adds."""
  forward = jax.jit(function)

  @jax.jit
  def both(arrays: Any) -> Any:
    y, pull = jax.vjp(function, arrays)
    return pull(y)

  once = microseconds(lambda: forward(arrays), repeats)
  twice = microseconds(lambda: both(arrays), repeats)
  return {"forward_us": once, "backward_us": twice - once}


def torch_attention(case: Attention, repeats: int) -> dict[str, float] | None:
  """PyTorch's, by whichever kernel it picks; None where it is absent."""
  try:
    import torch
  except ImportError:
    return None
  shape = (case.rows, case.heads, case.length, case.head_dim)
  kv_shape = (case.rows, case.kv_heads or case.heads, *shape[2:])
  q, k, v = (
    torch.randn(s, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    for s in (shape, kv_shape, kv_shape)
  )

  def forward() -> Any:
    return torch.nn.functional.scaled_dot_product_attention(
      q, k, v, is_causal=case.causal, enable_gqa=case.kv_heads is not None
    )

  def both() -> None:
    torch.autograd.grad(forward().sum(), (q, k, v))

  def median(run: Callable[[], Any]) -> float:
    run()
    torch.cuda.synchronize()
    samples = []
    for _ in range(repeats):
      begin = time.perf_counter()
      for _ in range(10):
        run()
      torch.cuda.synchronize()
      samples.append((time.perf_counter() - begin) / 10)
    return statistics.median(samples) * 1e6

  once = median(forward)
  return {"forward_us": once, "backward_us": median(both) - once}


def contenders(case: Any) -> dict[str, Callable[[Any], jax.Array]]:
  """Functions of the arrays, by name; ours where they run on this device."""
  if isinstance(case, Attention):
    names = (*KERNELS, "chunked", "reference")
  else:
    names = (*KERNELS, "associative")
  found = {
    name: functools.partial(case.call, implementation=name) for name in names
  }
  if isinstance(case, Attention) and case.plain:
    found["cudnn"] = case.cudnn
  return found


def copy_bandwidth(repeats: int) -> float:
  """Bytes a second that the device reads and writes in a copy."""
  x = jnp.zeros(2**28, jnp.float32)
  add = jax.jit(lambda x: x + 1)
  return 2 * x.nbytes / (microseconds(lambda: add(x), repeats) * 1e-6)


def attempt(function: Callable[[], Any]) -> tuple[Any, str | None]:
  """The result, or the first line of why there is none."""
  try:
    return function(), None
  except Exception as wrong:  # What fails is a result here, and reported.
    lines = str(wrong).strip().splitlines()
    return None, f"{type(wrong).__name__}: {lines[0] if lines else ''}"[:300]


def check(cases: tuple[Any, ...], results: list[dict[str, Any]]) -> set[str]:
  """Compares each kernel with float64; the kinds of kernels that are right."""
  wrong, seen = set(), set()
  for case in cases:
    for name in KERNELS:
      kind = f"{type(case).__name__} {name}"
      errors, why = attempt(functools.partial(error, case, name))
      worst = max(errors.values()) if errors else float("nan")
      dtype = getattr(case, "dtype", "bfloat16")
      good = errors is not None and worst < TOLERANCES[dtype]
      (seen if good else wrong).add(kind)
      results.append(
        {"case": case.name, "kernel": kind, "errors": errors, "why": why}
      )
      verdict = "right" if good else why or "WRONG"
      print(f"{case.name:<44} {kind:<22} {worst:9.1e}  {verdict}", flush=True)
  return seen - wrong


def time_all(
  cases: tuple[Any, ...],
  right: set[str],
  repeats: int,
  results: list[dict[str, Any]],
) -> None:
  """Prints and notes a line for each contender."""
  for case in cases:
    arrays = case.arrays(getattr(case, "dtype", "bfloat16"))
    runs: dict[str, Callable[[], Any]] = {}
    for name, function in contenders(case).items():
      if name in KERNELS and f"{type(case).__name__} {name}" not in right:
        continue
      runs[name] = functools.partial(timed, function, arrays, repeats)
    if isinstance(case, Attention) and case.plain:
      runs["torch"] = functools.partial(torch_attention, case, repeats)
    for name, run in runs.items():
      times, why = attempt(run)
      note = {"case": case.name, "kernel": name, "why": why, **(times or {})}
      results.append(note)
      if times is None:
        print(f"{case.name:<44} {name:<12} {why or 'not installed'}")
        continue
      line = f"{times['forward_us']:9.0f} us {times['backward_us']:9.0f} us"
      if isinstance(case, Attention):
        for part, factor in (("forward_us", 1.0), ("backward_us", 2.5)):
          rate = factor * case.flops / times[part] / 1e6
          note[part.replace("us", "tflops")] = rate
          line += f" {rate:6.0f} TFLOP/s"
      if isinstance(case, Linear):
        line += f" {case.bytes / times['forward_us'] / 1e6:6.2f} TB/s forward"
      if case.name in FLOORS:
        floors = FLOORS[case.name]
        line += f" {times['forward_us'] / floors[0]:5.2f}x"
        line += f" {times['backward_us'] / floors[1]:5.2f}x of the floor"
      print(f"{case.name:<44} {name:<12} {line}", flush=True)


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--only", choices=("attention", "scans"))
  parser.add_argument("--out", help="JSON file of all results")
  parser.add_argument("--repeats", type=int, default=20)
  options = parser.parse_args()
  device = jax.devices()[0]
  if device.platform != "gpu":
    print(f"needs an NVIDIA GPU, and jax has {device.platform} only")
    return 2
  small: tuple[Any, ...] = ()
  cases: tuple[Any, ...] = ()
  if options.only != "scans":
    small, cases = (*small, *SMALL), (*cases, *ATTENTION)
  if options.only != "attention":
    small, cases = (*small, *SMALL_SCANS), (*cases, *SCANS, *LINEAR)
  report: dict[str, Any] = {
    "device": device.device_kind,
    "jax": jax.__version__,
    "date": time.strftime("%Y-%m-%d"),
    "correctness": [],
    "times": [],
  }
  print(f"{device.device_kind}, jax {jax.__version__}", flush=True)
  right = check(small, report["correctness"])
  report["copy_bytes_per_s"] = copy_bandwidth(options.repeats)
  print(f"copy: {report['copy_bytes_per_s'] / 1e12:.2f} TB/s", flush=True)
  time_all(cases, right, options.repeats, report["times"])
  if options.out:
    with open(options.out, "w") as f:
      json.dump(report, f, indent=2)
  tried = {x["kernel"] for x in report["correctness"]}
  return 0 if right == tried else 1


if __name__ == "__main__":
  sys.exit(main())
