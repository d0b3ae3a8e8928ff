"""Linear time-invariant systems, one a channel, in discrete time.

x_k = A x_{k-1} + B u_k,  y_k = C x_k, with real inputs and outputs.  A state of
size P is made of Q = P / 2 complex numbers, of which the conjugates are not
kept: y = 2 Re <c, x>.  Between calls it is real, [B D P], the real parts and
then the imaginary ones.  A system says, all of them real,

  kernel(n)      [D n], C A^k B, what an impulse gives k steps later
  read(n)        [D n P], row i is C A^(i + 1): a state's part in y_i
  write(n)       [D n P], row k is A^k B: an input's part k steps later
  advance(n)     the function h -> A^n h
  step(h, u)     A h + B u
  states(u, h, resets)  all states by `jax.lax.associative_scan`

Everything is in the precision of the parameters, float32 or float64.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

import pallas_kernels


class System(Protocol):
  """What `s4_kernels` needs of a system; see above."""

  @property
  def output(self) -> jax.Array:
    """[D P], C in real coordinates."""
    ...

  def kernel(self, n: int) -> jax.Array: ...

  def read(self, n: int) -> jax.Array: ...

  def write(self, n: int) -> jax.Array: ...

  def advance(self, n: int) -> Callable[[jax.Array], jax.Array]: ...

  def step(self, h: jax.Array, u: jax.Array) -> jax.Array: ...

  def states(
    self, u: jax.Array, h: jax.Array, resets: jax.Array
  ) -> jax.Array: ...


def real(x: jax.Array) -> jax.Array:
  """[... Q] complex as [... 2 Q]."""
  return jnp.concatenate([x.real, x.imag], axis=-1)


def paired(x: jax.Array) -> jax.Array:
  """[... 2 Q] as [... Q] complex: undoes `real`."""
  first, second = jnp.split(x, 2, axis=-1)
  return jax.lax.complex(first, second)


def reading(c: jax.Array) -> jax.Array:
  """[... 2 Q] real with <reading(c), real(x)> = 2 Re(c x)."""
  return 2 * jnp.concatenate([c.real, -c.imag], axis=-1)


def einsum(equation: str, *arrays: jax.Array) -> jax.Array:
  """In full precision, which accelerators don't give unless asked."""
  return jnp.einsum(equation, *arrays, precision=jax.lax.Precision.HIGHEST)


@dataclasses.dataclass(frozen=True)
class Diagonal:
  """S4D.

  Attributes:
    log_a: [D Q] complex, the logarithm of A.
    b: [D Q] complex.
    c: [D Q] complex.
  """

  log_a: jax.Array
  b: jax.Array
  c: jax.Array

  def _powers(self, first: int, n: int, by: int = 1) -> jax.Array:
    """[D n Q], A^first, A^(first + by), ..."""
    exponents = first + by * np.arange(n, dtype=self.log_a.real.dtype)
    return jnp.exp(self.log_a[:, None] * exponents[:, None])

  @property
  def output(self) -> jax.Array:
    return reading(self.c)

  def kernel(self, n: int) -> jax.Array:
    # k = inner * j + i, and the sum over Q is a matrix product of the powers
    # of j and of i: no [D n Q] is ever in memory.
    inner = math.isqrt(n - 1) + 1
    outer = -(-n // inner)
    left = self._powers(0, outer, inner) * (self.b * self.c)[:, None]
    right = self._powers(0, inner)
    k = einsum("djp,dip->dji", reading(left), real(right))
    return k.reshape(-1, outer * inner)[:, :n]

  def read(self, n: int) -> jax.Array:
    return reading(self.c[:, None] * self._powers(1, n))

  def write(self, n: int) -> jax.Array:
    return real(self.b[:, None] * self._powers(0, n))

  def advance(self, n: int) -> Callable[[jax.Array], jax.Array]:
    power = jnp.exp(n * self.log_a)
    return lambda h: real(power * paired(h))

  def step(self, h: jax.Array, u: jax.Array) -> jax.Array:
    # Of slow states A is almost 1, and A - 1 has the digits that A rounds off.
    h = paired(h)
    return real(h + (jnp.expm1(self.log_a) * h + self.b * u[..., None]))

  def states(self, u: jax.Array, h: jax.Array, resets: jax.Array) -> jax.Array:
    all_states, _ = pallas_kernels.linear_scan(
      jnp.exp(self.log_a)[None, None],
      self.b * u[..., None],
      initial=paired(h),
      resets=resets,
      implementation="associative",
    )
    return real(all_states)


def diagonal(
  values: jax.Array,
  b: jax.Array,
  c: jax.Array,
  dt: jax.Array,
  discretization: str,
) -> Diagonal:
  """x' = values x + b u, discretized.

  Args:
    values: [D Q] complex, with negative real parts.
    b: [D Q] complex.
    c: [D Q] complex.
    dt: [D] length of a step.
    discretization: "zoh", by which the input is constant within a step, or
      "bilinear" (the trapezoidal rule, Tustin's).
  """
  dt = dt[:, None]
  if discretization == "zoh":
    log_a = dt * values
    return Diagonal(log_a, jnp.expm1(log_a) / values * b, c)
  half = values * dt / 2
  log_a = jnp.log1p(half) - jnp.log1p(-half)
  return Diagonal(log_a, dt * b / (1 - half), c)
