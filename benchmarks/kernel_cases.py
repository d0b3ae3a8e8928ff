"""Shapes at which kernels are compared with one another, and their inputs."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

import pallas_kernels


@dataclasses.dataclass(frozen=True)
class Attention:
  """One shape of attention, in bfloat16."""

  rows: int
  heads: int
  length: int
  head_dim: int
  kv_heads: int | None = None
  causal: bool = False
  t5_bias: bool = False
  segments: int = 1

  @property
  def name(self) -> str:
    parts = [f"B{self.rows} N{self.heads} L{self.length} H{self.head_dim}"]
    parts += [f"K{self.kv_heads}"] * (self.kv_heads is not None)
    parts += ["causal"] * self.causal + ["T5 bias"] * self.t5_bias
    parts += [f"{self.segments} segments"] * (self.segments > 1)
    return " ".join(parts)

  @property
  def flops(self) -> float:
    """Of the forward pass: half where causal, by segments' squares."""
    pairs = self.length**2 / self.segments / (2 if self.causal else 1)
    return 4.0 * self.rows * self.heads * pairs * self.head_dim

  def arrays(self, dtype: Any) -> dict[str, Any]:
    keys = jax.random.split(jax.random.key(0), 4)
    kv_heads = self.kv_heads or self.heads
    shape = (self.rows, self.length)
    normal = functools.partial(jax.random.normal, dtype=dtype)
    arrays = {
      "q": normal(keys[0], (*shape, self.heads, self.head_dim)),
      "k": normal(keys[1], (*shape, kv_heads, self.head_dim)),
      "v": normal(keys[2], (*shape, kv_heads, self.head_dim)),
    }
    if self.t5_bias:
      arrays["table"] = jax.random.normal(keys[3], (32, self.heads))
    return arrays

  def call(self, arrays: dict[str, Any], implementation: str) -> jax.Array:
    how: dict[str, Any] = {"causal": self.causal, "scale": self.head_dim**-0.5}
    if self.t5_bias:
      bidirectional = not self.causal
      how["relative_bias"] = pallas_kernels.RelativeBias(
        arrays["table"], bidirectional
      )
    if self.segments > 1:
      each = self.length // self.segments
      ids = jnp.broadcast_to(
        jnp.arange(self.length) // each, (self.rows, self.length)
      )
      how["q_segments"] = how["k_segments"] = ids
    q, k, v = (arrays[name] for name in "qkv")
    return pallas_kernels.attention(
      q, k, v, implementation=implementation, **how
    )

  def cudnn(self, arrays: dict[str, Any]) -> jax.Array:
    q, k, v = (arrays[name] for name in "qkv")
    return jax.nn.dot_product_attention(
      q, k, v, is_causal=self.causal, implementation="cudnn"
    )

  @property
  def plain(self) -> bool:
    """Whether cuDNN and PyTorch do the same without a bias in memory."""
    return not self.t5_bias and self.segments == 1


@dataclasses.dataclass(frozen=True)
class Scan:
  """One shape of a selective or linear scan."""

  rows: int
  length: int
  width: int
  state: int = 16
  dtype: str = "bfloat16"

  @property
  def name(self) -> str:
    return f"B{self.rows} L{self.length} E{self.width} P{self.state}"

  def arrays(self, dtype: Any) -> dict[str, Any]:
    keys = jax.random.split(jax.random.key(0), 7)
    wide = (self.rows, self.length, self.width)
    narrow = (self.rows, self.length, self.state)
    normal = functools.partial(jax.random.normal, dtype=dtype)
    grid = jax.random.normal(keys[6], (self.width, self.state))
    return {
      "x": normal(keys[0], wide),
      "dt": normal(keys[1], wide),
      "a": -jnp.exp(grid),
      "b": normal(keys[2], narrow),
      "c": normal(keys[3], narrow),
      "z": normal(keys[4], wide),
      "d": jax.random.normal(keys[5], (self.width,)),
    }

  def call(self, arrays: dict[str, Any], implementation: str) -> jax.Array:
    x, dt, a, b, c = (arrays[name] for name in ("x", "dt", "a", "b", "c"))
    return pallas_kernels.selective_scan(
      *(x, dt, a, b, c),
      d=arrays["d"],
      z=arrays["z"],
      dt_softplus=True,
      implementation=implementation,
    )[0]


@dataclasses.dataclass(frozen=True)
class Linear(Scan):
  """h = a h + b, in float32; the state has one number a channel."""

  state: int = 1
  dtype: str = "float32"

  def arrays(self, dtype: Any) -> dict[str, Any]:
    keys = jax.random.split(jax.random.key(0), 2)
    wide = (self.rows, self.length, self.width)
    a = jax.nn.sigmoid(jax.random.normal(keys[0], wide, dtype))
    return {"a": a, "b": jax.random.normal(keys[1], wide, dtype)}

  def call(self, arrays: dict[str, Any], implementation: str) -> jax.Array:
    return pallas_kernels.linear_scan(
      arrays["a"], arrays["b"], implementation=implementation
    )[0]

  @property
  def bytes(self) -> float:
    """Read and written by the forward pass."""
    return 3.0 * 4 * self.rows * self.length * self.width


ATTENTION = (
  Attention(8, 16, 2048, 64),
  Attention(8, 16, 2048, 64, t5_bias=True),
  Attention(8, 16, 2048, 64, causal=True, t5_bias=True),
  Attention(32, 12, 512, 64, t5_bias=True),
  Attention(8, 16, 2048, 64, segments=4),
  Attention(8, 16, 2048, 128),
  Attention(8, 16, 2048, 128, causal=True),
  Attention(2, 32, 8192, 128, kv_heads=8, causal=True),
)
SMALL = (
  Attention(2, 2, 256, 64),
  Attention(2, 2, 320, 64, t5_bias=True),
  Attention(1, 2, 384, 64, causal=True, t5_bias=True),
  Attention(2, 2, 256, 64, segments=4),
  Attention(1, 4, 256, 128, kv_heads=2, causal=True),
  Attention(1, 4, 200, 128, kv_heads=1, causal=True),
)
SCANS = (Scan(8, 2048, 2048), Scan(4, 8192, 1536))
LINEAR = (Linear(8, 2048, 2048),)
SMALL_SCANS = (Scan(2, 200, 256), Linear(2, 200, 256))
# The least that the shapes of the first selective scan take on an H200 by
# its exponentials (forward) and multiply-adds (backward), in microseconds.
FLOORS = {SCANS[0].name: (128, 257)}
