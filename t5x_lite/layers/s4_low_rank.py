"""S4's system: a diagonal matrix less one of low rank (Gu et al. 2021)."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite.layers.s4_convolution import irfft
from t5x_lite.layers.s4_systems import einsum, paired, reading, real

# Frequencies of a kernel that are computed at once; it bounds the memory.
_FREQUENCIES = 256
# A generating function is taken where z^n is this.
_WITHIN = 0.5


@dataclasses.dataclass(frozen=True)
class DiagonalPlusLowRank:
  """S4: x' = (diag(values) - sum p p*) x + b u, by the bilinear rule.

  As p stands on both sides, no state can grow while the real parts of the
  values are negative (Goel et al. 2022).

  Attributes:
    values: [D Q] complex, with negative real parts.
    p: [R D Q] complex; R is 1 or 2.
    b: [D Q] complex.
    c: [D Q] complex.
    dt: [D].
  """

  values: jax.Array
  p: jax.Array
  b: jax.Array
  c: jax.Array
  dt: jax.Array

  @property
  def output(self) -> jax.Array:
    return reading(self.c)

  def _project(self, i: int, x: jax.Array) -> jax.Array:
    """p_i* x over both of each pair, [... D 1] real."""
    return 2 * jnp.sum((self.p[i].conj() * x).real, axis=-1, keepdims=True)

  def _solve(self, x: jax.Array) -> jax.Array:
    """(I - dt / 2 A)^-1 x of x [... D Q]: Woodbury's identity, by rank."""
    half = self.dt[:, None] / 2
    inverse = 1 / (1 - half * self.values)
    x, columns = inverse * x, list(inverse * self.p)
    for i, column in enumerate(columns):
      factor = half / (1 + half * self._project(i, column))
      x = x - factor * column * self._project(i, x)
      for j in range(i + 1, len(columns)):
        later = columns[j]
        columns[j] = later - factor * column * self._project(i, later)
    return x

  def _derivative(self, x: jax.Array) -> jax.Array:
    """A x, of the continuous A, for x [... D Q]."""
    result = self.values * x
    for i in range(len(self.p)):
      result = result - self.p[i] * self._project(i, x)
    return result

  def step(self, h: jax.Array, u: jax.Array) -> jax.Array:
    # (I - dt/2 A)^-1 (I + dt/2 A) = I + (I - dt/2 A)^-1 dt A.
    h, dt = paired(h), self.dt[:, None]
    change = self._derivative(h) + self.b * u[..., None]
    return real(h + self._solve(dt * change))

  def dense(self) -> jax.Array:
    """A [D P P] of real coordinates and discrete time."""
    channels, pairs = self.values.shape
    unit = jnp.eye(2 * pairs, dtype=self.dt.dtype)[:, None]
    unit = jnp.broadcast_to(unit, (2 * pairs, channels, 2 * pairs))
    columns = self.step(unit, jnp.zeros(unit.shape[:-1], unit.dtype))
    return jnp.transpose(columns, (1, 2, 0))

  def _input(self) -> jax.Array:
    """B [D P] of discrete time."""
    return real(self._solve(self.dt[:, None] * self.b))

  def read(self, n: int) -> jax.Array:
    a = self.dense()
    return _krylov(a, einsum("dp,dpq->dq", self.output, a), n)

  def write(self, n: int) -> jax.Array:
    return _krylov(jnp.swapaxes(self.dense(), 1, 2), self._input(), n)

  def advance(self, n: int) -> Callable[[jax.Array], jax.Array]:
    power = _power(self.dense(), n)
    return lambda h: einsum("dpq,bdq->bdp", power, h)

  def states(self, u: jax.Array, h: jax.Array, resets: jax.Array) -> jax.Array:
    # A matrix for each step and channel, but not for each row of the batch:
    # whether a row began within the steps goes along as a truth value.
    a = self.dense()
    x = jnp.moveaxis(u[..., None] * self._input(), 1, 0)  # [T B D P]
    cut = resets.T[..., None, None]
    first = jnp.where(cut[0], 0, einsum("dpq,bdq->bdp", a, h))
    elements = (
      jnp.broadcast_to(a, (u.shape[1], *a.shape)),
      x.at[0].add(first),
      cut,
    )

    def combine(before: Any, after: Any) -> Any:
      carried = einsum("tdpq,tbdq->tbdp", after[0], before[1])
      return (
        einsum("tdpq,tdqr->tdpr", after[0], before[0]),
        jnp.where(after[2], 0, carried) + after[1],
        before[2] | after[2],
      )

    return jnp.moveaxis(jax.lax.associative_scan(combine, elements)[1], 0, 1)

  def kernel(self, n: int) -> jax.Array:
    """By its generating function at the roots of unity, a Cauchy kernel.

    sum_{k < n} C A^k B z^k = C (I - z^n A^n) (I - A z)^-1 B, and the inverse is
    dt ((1 - z) I - dt / 2 (1 + z) A')^-1 of the continuous A' (Gu et al. 2021,
    appendix C.3, without the division by 1 + z, which may be 0): of a diagonal
    matrix, for which a sum over Q is left, and of R corrections.
    """
    # On a circle a little inside the unit one, clear of poles: some measures
    # have eigenvalues that don't decay.
    log_radius = math.log(_WITHIN) / n
    cut = self.output - _WITHIN * einsum(
      "dp,dpq->dq", self.output, _power(self.dense(), n)
    )
    first, second = jnp.split(cut, 2, axis=-1)
    left = jnp.stack([jax.lax.complex(first, -second) / 2, *self.p.conj()])
    right = jnp.stack([self.b, *self.p])
    # Half of the frequencies suffice, for the kernel is real.
    transform = _in_parts(
      lambda z: self._generating(left[:, None] * right, *z),
      _circle(n, log_radius).astype(self.values.dtype),
    )
    k = irfft(transform * self.dt[:, None], n)
    return k * jnp.exp(-log_radius * np.arange(n, dtype=self.dt.dtype))

  def _generating(
    self, products: jax.Array, minus: jax.Array, plus: jax.Array
  ) -> jax.Array:
    """[D F] of products [1+R 1+R D Q] at frequencies [F]."""
    scale = self.dt[:, None] / 2 * plus

    def cauchy(products: jax.Array, values: jax.Array) -> jax.Array:
      inverse = 1 / (minus[:, None] - scale[..., None] * values[:, None])
      return einsum("ijdq,dfq->ijdf", products, inverse)

    k = cauchy(products, self.values)
    k = k + cauchy(products.conj(), self.values.conj())
    for i in range(1, len(k)):
      k = k - scale * k[:, i, None] * k[None, i] / (1 + scale * k[i, i])
    return k[0, 0]


def _circle(n: int, log_radius: float) -> np.ndarray:
  """1 - z and 1 + z of half a circle, [2 F]; exact where they are almost 0."""
  angle, radius = 2 * np.pi * np.arange(n // 2 + 1) / n, math.exp(log_radius)
  gap = -math.expm1(log_radius)
  minus = gap + 2 * radius * np.sin(angle / 2) ** 2
  plus = gap + 2 * radius * np.cos(angle / 2) ** 2
  turn = 1j * radius * np.sin(angle)
  return np.stack([minus + turn, plus - turn])


def _in_parts(function: Any, z: np.ndarray) -> jax.Array:
  """function([2 F]) -> [D F], of some frequencies at a time."""
  count = z.shape[1]
  if count <= _FREQUENCIES:
    return function(jnp.asarray(z))
  parts = -(-count // _FREQUENCIES)
  padded = np.pad(z, ((0, 0), (0, parts * _FREQUENCIES - count)), mode="edge")
  padded = padded.reshape(2, parts, _FREQUENCIES).swapaxes(0, 1)
  found = jax.lax.map(jax.checkpoint(function), jnp.asarray(padded))
  found = jnp.moveaxis(found, 0, 1)
  return found.reshape(found.shape[0], -1)[:, :count]


def _power(a: jax.Array, n: int) -> jax.Array:
  """a^n of [D P P] and n > 0, by squares."""
  result = None
  while n:
    if n & 1:
      result = a if result is None else einsum("dpq,dqr->dpr", result, a)
    n >>= 1
    if n:
      a = einsum("dpq,dqr->dpr", a, a)
  assert result is not None
  return result


def _krylov(a: jax.Array, row: jax.Array, n: int) -> jax.Array:
  """[D n P], row, row a, row a^2, ..., by doubling."""
  rows = row[:, None]
  while rows.shape[1] < n:
    rows = jnp.concatenate([rows, einsum("dkp,dpq->dkq", rows, a)], axis=1)
    if rows.shape[1] < n:
      a = einsum("dpq,dqr->dpr", a, a)
  return rows[:, :n]
