"""HiPPO matrices, and the spectra that state-space models start with.

A state x of size P follows x' = A x + B u and remembers the past of u as
coefficients of orthogonal functions (Gu et al. 2020, "HiPPO"):

  legs  Legendre polynomials of all of the past: scaled by 1 / t on all of it,
        and as it stands of a past that fades as exp(-lag).
  legt  Legendre polynomials of the last unit of time.
  fout  sines and cosines of the last unit of time.

Matrices are as in Gu et al. 2022, "How to train your HiPPO", in orthonormal
coordinates.  Each is a normal matrix less one of low rank (Gu et al. 2021,
"S4", theorem 1): A = V (diag(lambda) - p p*) V*.  All are real, so eigenvalues
come in conjugate pairs, of which only one is kept, the one with a positive
imaginary part.  NumPy, float64: this runs once, at initialization.
"""

from collections.abc import Callable

import numpy as np

from t5x_lite import errors

# Below this share of the largest eigenvalue, one counts as zero.
_TINY = 1e-9


def check_size(size: int) -> None:
  """Refuses sizes of a state that conjugate pairs cannot fill.

  Raises:
    ConfigError: the size is odd, or less than two.
  """
  if size < 2 or size % 2:
    raise errors.ConfigError(
      f"state_dim {size} must be even and at least 2, for the state is made of"
      f" conjugate pairs: take {max(2, size + size % 2)}"
    )


def choose(kind: str, name: str, known: dict[str, Callable]) -> Callable:
  """The entry of that name.

  Raises:
    ConfigError: there is none.
  """
  if name not in known:
    raise errors.ConfigError(
      f"{kind} {name!r} is not one of {', '.join(known)}"
      f"{errors.suggest(name, known)}"
    )
  return known[name]


def transition(measure: str, size: int) -> tuple[np.ndarray, np.ndarray]:
  """A [P P] and B [P] of a measure: "legs", "legt" or "fout".

  Raises:
    ConfigError: an unknown measure, or a size that is odd.
  """
  check_size(size)
  return choose("measure", measure, _TRANSITIONS)(size)


def low_rank(measure: str, size: int) -> np.ndarray:
  """[R P] real rows p with A + sum p' p a normal matrix; R is 1 or 2."""
  check_size(size)
  return choose("measure", measure, _LOW_RANKS)(size)


def _roots(size: int) -> np.ndarray:
  """Norms of the Legendre polynomials, sqrt(2 n + 1)."""
  return np.sqrt(2 * np.arange(size) + 1.0)


def _legs(size: int) -> tuple[np.ndarray, np.ndarray]:
  b = _roots(size)
  return -np.tril(np.outer(b, b), -1) - np.diag(np.arange(size) + 1.0), b


def _legt(size: int) -> tuple[np.ndarray, np.ndarray]:
  b = _roots(size)
  n, k = np.indices((size, size))
  signs = np.where(k <= n, 1.0, (-1.0) ** (n - k))
  return -np.outer(b, b) * signs, b


def _fout(size: int) -> tuple[np.ndarray, np.ndarray]:
  """In the order cos 0, sin 0, cos 1, sin 1, ...; sin 0 stays zero."""
  frequencies = 2 * np.pi * np.arange(size // 2)
  turning = np.zeros((size, size))
  even = np.arange(0, size, 2)
  turning[even, even + 1], turning[even + 1, even] = -frequencies, frequencies
  b = _cosines(size)
  return turning - 2 * np.outer(b, b), 2 * b


def _cosines(size: int) -> np.ndarray:
  """Values of the orthonormal functions at lag 0."""
  b = np.zeros(size)
  b[0::2] = np.sqrt(2.0)
  b[0] = 1.0
  return b


_TRANSITIONS = {"legs": _legs, "legt": _legt, "fout": _fout}


def _legt_low_rank(size: int) -> np.ndarray:
  """Rows of even and of odd degrees, which meet with opposite signs."""
  even = np.arange(size) % 2 == 0
  return np.stack([_roots(size) * even, _roots(size) * ~even])


_LOW_RANKS = {
  "legs": lambda size: np.sqrt(np.arange(size) + 0.5)[None],
  "legt": _legt_low_rank,
  "fout": lambda size: np.sqrt(2.0) * _cosines(size)[None],
}


def eigenvectors(
  measure: str, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """The normal part of A, diagonalized.

  Returns:
    lambda [P/2], the eigenvalues with imaginary parts >= 0, ascending; V
    [P P/2], their eigenvectors, orthonormal, which with their conjugates are
    a basis; and p [R P] of `low_rank`.
  """
  a, b = transition(measure, size)
  p = low_rank(measure, size)
  normal = a + p.T @ p
  decay = np.trace(normal) / size
  turning = (normal - normal.T) / 2  # what is left of it: skew-symmetric
  frequencies, vectors = np.linalg.eigh(-1j * turning)
  tiny = _TINY * np.abs(frequencies).max(initial=1.0)
  frequencies, kept = frequencies[size // 2 :], vectors[:, size // 2 :]
  if np.abs(frequencies[0]) < tiny:
    # Two eigenvalues of zero: any real basis of their space makes a pair.
    both = vectors[:, size // 2 - 1 : size // 2 + 1]
    parts = np.concatenate([both.real, both.imag], axis=1)
    plane = np.linalg.svd(parts)[0][:, :2]
    kept[:, 0] = (plane[:, 0] - 1j * plane[:, 1]) / np.sqrt(2.0)
    frequencies[0] = 0.0
  # Eigenvectors have any phase; this one makes B real and the same everywhere.
  inputs = kept.conj().T @ b
  phase = np.where(np.abs(inputs) > tiny, inputs, 1.0)
  return decay + 1j * frequencies, kept * (phase / np.abs(phase)), p


def diagonal_plus_low_rank(
  measure: str, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """A measure's system in the eigenvectors of its normal part.

  Returns:
    lambda [P/2], p [R P/2] and B [P/2], complex, one of each conjugate pair.
  """
  values, vectors, p = eigenvectors(measure, size)
  _, b = transition(measure, size)
  return values, p @ vectors.conj(), b @ vectors.conj()


def spectrum(name: str, size: int) -> tuple[np.ndarray, np.ndarray]:
  """A diagonal system of "S4D" (Gu et al. 2022).

  Args:
    name: "lin", "inv" or "legs" (the normal part of HiPPO-LegS and half of its
      B).
    size: P.

  Returns:
    lambda and B [P/2], complex, one of each conjugate pair.

  Raises:
    ConfigError: an unknown name, or a size that is odd.
  """
  check_size(size)
  return choose("spectrum", name, _SPECTRA)(size)


def _lin(size: int) -> tuple[np.ndarray, np.ndarray]:
  return -0.5 + 1j * np.pi * np.arange(size // 2), np.ones(size // 2, complex)


def _inv(size: int) -> tuple[np.ndarray, np.ndarray]:
  n = np.arange(size // 2)
  imaginary = size / np.pi * (size / (2 * n + 1) - 1)
  return -0.5 + 1j * imaginary, np.ones(size // 2, complex)


def _legs_spectrum(size: int) -> tuple[np.ndarray, np.ndarray]:
  values, _, b = diagonal_plus_low_rank("legs", size)
  return values, b / 2


_SPECTRA = {"lin": _lin, "inv": _inv, "legs": _legs_spectrum}
