"""HiPPO matrices remember what they should, and come apart as they should."""

import numpy as np
import pytest
import scipy.linalg

from t5x_lite import errors
from t5x_lite.layers import hippo

MEASURES = ("legs", "legt", "fout")
SIZES = (2, 8, 64)


def functions(measure, size, lag):
  """Orthonormal functions [P T] of the share of a window that a lag is."""
  if measure != "fout":
    vandermonde = np.polynomial.legendre.legvander(1 - 2 * lag, size - 1)
    return (vandermonde * np.sqrt(2 * np.arange(size) + 1)).T
  rows = np.zeros((size, *lag.shape))
  for m in range(size // 2):
    rows[2 * m] = np.cos(2 * np.pi * m * lag) * np.sqrt(2 if m else 1)
    rows[2 * m + 1] = np.sin(2 * np.pi * m * lag) * np.sqrt(2)
  return rows


def smooth(t):
  return np.sin(3 * t) + 0.5 * np.cos(7 * t + 1) - 0.3 * t


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("size", SIZES)
def test_diagonal_plus_low_rank_multiplies_back(measure, size):
  a, b = hippo.transition(measure, size)
  values, vectors, p = hippo.eigenvectors(measure, size)
  whole = np.concatenate([vectors, vectors.conj()], axis=1)
  values = np.concatenate([values, values.conj()])
  np.testing.assert_allclose(whole.conj().T @ whole, np.eye(size), atol=1e-12)
  found = whole @ np.diag(values) @ whole.conj().T - p.T @ p
  np.testing.assert_allclose(found, a, atol=1e-12 * np.abs(a).max())
  assert p.shape == ({"legt": 2}.get(measure, 1), size)
  assert np.linalg.matrix_rank(p) == len(p)
  # And in the coordinates that a layer starts with.
  half, low_rank, inputs = hippo.diagonal_plus_low_rank(measure, size)
  both = np.concatenate([low_rank, low_rank.conj()], axis=1)
  inner = np.diag(np.concatenate([half, half.conj()])) - both.T @ both.conj()
  np.testing.assert_allclose(
    whole @ inner @ whole.conj().T, a, atol=1e-12 * np.abs(a).max()
  )
  both = np.concatenate([inputs, inputs.conj()])
  np.testing.assert_allclose(whole @ both, b, atol=1e-12 * np.abs(b).max())


@pytest.mark.parametrize("measure", MEASURES)
def test_one_of_each_conjugate_pair_is_kept_in_order(measure):
  values, _, inputs = hippo.diagonal_plus_low_rank(measure, 32)
  assert (values.imag >= 0).all() and (np.diff(values.imag) > 0).all()
  decay = {"legs": 0.5}.get(measure, 0.0)
  np.testing.assert_allclose(values.real, -decay, atol=1e-12)
  assert (inputs.real >= 0).all()
  np.testing.assert_allclose(inputs.imag, 0.0, atol=1e-12)


def test_legs_holds_all_of_the_past_and_gives_it_back():
  """x' = (A x + B u) / t holds the coefficients of the whole of u.

  A smooth signal of 2,000 steps comes back from 24 numbers within 5e-5, of
  which the steps' own error is all: the true coefficients give it within 1e-6.
  """
  size, steps, end = 24, 2000, 3.0
  a, b = hippo.transition("legs", size)
  u = smooth(np.linspace(0, end, steps + 1))
  x, unit = np.zeros(size), np.eye(size)
  x[0] = u[1]  # all that there was up to the first step, as if constant
  for k in range(1, steps):
    inputs = (u[k + 1] / (k + 1) + u[k] / k) / 2
    right = (unit + a / (2 * k)) @ x + b * inputs
    x = np.linalg.solve(unit - a / (2 * (k + 1)), right)
  # Coefficients by quadrature.
  nodes, weights = np.polynomial.legendre.leggauss(80)
  lag = (1 - nodes) / 2
  exact = functions("legs", size, lag) @ (weights / 2 * smooth(end * (1 - lag)))
  np.testing.assert_allclose(x, exact, atol=1e-5)
  lag = np.linspace(0, 1, 301)
  past, rows = smooth(end * (1 - lag)), functions("legs", size, lag)
  np.testing.assert_allclose(exact @ rows, past, atol=1e-6)
  np.testing.assert_allclose(x @ rows, past, atol=5e-5)


@pytest.mark.parametrize("measure, error", [("legt", 1e-3), ("fout", 0.08)])
def test_a_window_gives_back_the_last_unit_of_time(measure, error):
  """From 32 numbers.

  The sines and cosines of a signal that is not periodic converge slowly, and
  not at all at the ends of the window.
  """
  size, steps = 32, 4000
  a, b = hippo.transition(measure, size)
  transition = scipy.linalg.expm(a / steps)
  inputs = _held(a, b, 1 / steps)
  x = np.zeros(size)
  for u in smooth(np.arange(1, 4 * steps + 1) / steps):
    x = transition @ x + inputs * u
  lag = np.linspace(0.1, 0.9, 161)
  found = x @ functions(measure, size, lag)
  np.testing.assert_allclose(found, smooth(4 - lag), atol=error)


def _held(a, b, dt):
  """B of a zero-order hold; A need have no inverse."""
  size = len(b)
  whole = np.zeros((size + 1, size + 1))
  whole[:size, :size], whole[:size, size] = a, b
  return scipy.linalg.expm(whole * dt)[:size, size]


@pytest.mark.parametrize("measure", MEASURES)
def test_what_an_impulse_leaves_is_the_functions_of_its_lag(measure):
  """exp(t A) B: Legendre polynomials of exp(-t), or of a window."""
  size, time = 64, np.linspace(0, 1, 41)[1:-1]
  a, b = hippo.transition(measure, size)
  found = np.stack([scipy.linalg.expm(a * t) @ b for t in time], axis=1)
  if measure == "legs":
    expected = functions("legs", size, 1 - np.exp(-time)) * np.exp(-time)
    np.testing.assert_allclose(found[:12], expected[:12], atol=1e-8)
    return
  # Windows are so in the mean: the functions of low degree, over the window.
  expected = functions(measure, size, time)
  error = np.sqrt(np.mean((found - expected)[:4] ** 2, axis=1))
  assert error.max() < 0.15
  after = np.stack([scipy.linalg.expm(a * t) @ b for t in (1.3, 1.7)])
  assert np.abs(after[:, :4]).max() < 0.15 < np.abs(found[:4]).max()


def test_the_diagonal_of_legs_comes_to_legs_as_it_grows():
  """Theorem 3 of S4D: exp(t Lambda) B / 2 against exp(t A) B.

  Weakly, that is in their integrals, here what a unit step leaves.
  """
  time, degrees, distances = np.linspace(0.1, 3, 30), 4, []
  a, b = hippo.transition("legs", degrees)  # does not depend on higher ones
  expected = np.stack([_held(a, b, t) for t in time], axis=1)
  for size in (16, 64, 256):
    values, b = hippo.spectrum("legs", size)
    _, vectors, _ = hippo.eigenvectors("legs", size)
    states = np.expm1(values[:, None] * time) / values[:, None] * b[:, None]
    found = 2 * (vectors @ states).real[:degrees]
    distances.append(np.sqrt(np.mean((found - expected) ** 2)))
  assert distances[0] > 4 * distances[1] > 16 * distances[2]
  assert distances[2] < 1e-3


def test_spectra_are_the_formulas_of_s4d():
  lin, ones = hippo.spectrum("lin", 6)
  np.testing.assert_allclose(lin, [-0.5, -0.5 + 3.14159265j, -0.5 + 6.2831853j])
  np.testing.assert_array_equal(ones, 1)
  inv, _ = hippo.spectrum("inv", 6)
  imaginary = [6 / np.pi * (6 / n - 1) for n in (1, 3, 5)]
  np.testing.assert_allclose(inv, -0.5 + 1j * np.array(imaginary))
  # It was made after that of HiPPO-LegS, of which it has the largest.
  legs, _ = hippo.spectrum("legs", 64)
  inv, _ = hippo.spectrum("inv", 64)
  assert inv.imag.max() == pytest.approx(legs.imag.max(), rel=0.02)


@pytest.mark.parametrize("size", [-2, 0, 1, 7])
def test_sizes_that_make_no_pairs_are_refused(size):
  wanted = {-2: 2, 0: 2, 1: 2, 7: 8}[size]
  match = f"state_dim {size} must be even.*take {wanted}"
  for function in (hippo.transition, hippo.low_rank):
    with pytest.raises(errors.ConfigError, match=match):
      function("legs", size)
  with pytest.raises(errors.ConfigError, match=match):
    hippo.spectrum("lin", size)


def test_unknown_names_are_told_with_the_nearest():
  with pytest.raises(errors.ConfigError, match="'leg'.*did you mean 'leg"):
    hippo.transition("leg", 4)
  with pytest.raises(errors.ConfigError, match="spectrum 'linn'.*'lin'"):
    hippo.spectrum("linn", 4)
