"""Attention against its definition in float64: values and every gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pallas_kernels
from tests.kernels import plain_attention

IMPLEMENTATIONS = ("reference", "chunked")
CHUNK = 8
SEEDS = range(10)
MORE_SEEDS = range(10, 40)
KEY = jax.random.key(7)


class Case:
  """Inputs drawn from a seed.

  Attributes:
    arrays: float32 inputs with gradients, by name.
    where: arguments for masks, as NumPy.
    how: the other arguments.
    rule: (bidirectional, max_distance) of the relative bias, or None.
    cotangents: of the output and of the log-sum-exp, float32.
  """

  def __init__(self, seed):
    self.rng = rng = np.random.default_rng(seed)
    batch, self.kv_heads = 2, int(rng.choice([1, 2]))
    heads = self.kv_heads * int(rng.choice([1, 3]))
    t = int(rng.integers(1, 30))
    # The last queries of the keys, keys of another row, or the same row.
    start = int(rng.choice([0, 5]))
    s = int(rng.choice([start + t, rng.integers(1, 30)]))
    self.shape = batch, heads, t, s
    self.where = self._where(batch, t, s, start)
    self.seen = plain_attention.mask((batch, t, s), **self.where)
    width, v_width = (int(x) for x in rng.choice([4, 8, 12], 2))
    normal = rng.standard_normal
    self.arrays = {
      "q": normal((batch, t, heads, width)),
      "k": normal((batch, s, self.kv_heads, width)),
      "v": normal((batch, s, self.kv_heads, v_width)),
    }
    if self._coin():
      sides = zip(self.shape, rng.random(4) < 0.4, strict=True)
      self.arrays["bias"] = normal([1 if one else x for x, one in sides])
    self.rule = None
    if self._coin():
      self.rule = self._coin(), 12
      self.arrays["table"] = normal((8, heads))
    self.how = {"scale": 0.3 if self._coin() else 1.0}
    if self._coin():
      self.how["soft_cap"] = 3.0
    self.rate = 0.3 if self._coin() else 0.0
    dlse = normal((batch, t, heads)) * self.seen.any(-1)[..., None]
    self.cotangents = normal((batch, t, heads, v_width)), dlse
    # Numbers that bfloat16 has: what is measured is not their rounding.
    self.arrays, self.cotangents = jax.tree.map(
      lambda x: np.asarray(jnp.asarray(x, jnp.bfloat16), np.float32),
      (self.arrays, self.cotangents),
    )

  def _coin(self):
    return bool(self.rng.random() < 0.5)

  def _where(self, batch, t, s, start):
    rng, where = self.rng, {"q_start": start}
    if self._coin():
      where["causal"] = True
      if self._coin():
        where["k_prefix"] = rng.random((batch, s)) < 0.3
    if rng.random() < 0.3:
      left, right = rng.integers(0, 12, 2)
      where["window"] = (int(left), int(right) if self._coin() else None)
    if rng.random() < 0.3:
      where["pattern"] = (
        pallas_kernels.longformer(6, 2)
        if self._coin()
        else pallas_kernels.bigbird(start + t, size=3, random_blocks=1)
      )
    if self._coin():
      where["q_segments"] = np.sort(rng.integers(0, 3, (batch, t)))
      where["k_segments"] = np.sort(rng.integers(0, 3, (batch, s)))
    return where

  def expected(self):
    keep = None
    if self.rate:
      seed = jax.device_get(jax.random.bits(KEY, (2,), "uint32"))
      keep = plain_attention.kept(seed, self.rate, self.shape)
    rule = self.rule and (*self.rule, self.where["q_start"])
    return plain_attention.with_gradients(
      self.arrays,
      self.cotangents,
      self.seen,
      keep=keep,
      rate=self.rate,
      rule=rule,
      **self.how,
    )

  def found(self, implementation, dtype=jnp.float32, start=None):
    """As `expected`; a `start` is traced where `where` has a static one."""
    where = {
      name: jnp.asarray(x) if isinstance(x, np.ndarray) else x
      for name, x in self.where.items()
    }

    @jax.jit
    def run(arrays, dy, dlse, start):
      if start is not None:
        where["q_start"] = start

      def attend(arrays):
        arrays = dict(arrays)
        if "table" in arrays:
          arrays["relative_bias"] = pallas_kernels.RelativeBias(
            arrays.pop("table"), *self.rule
          )
        return pallas_kernels.attention(
          **arrays,
          **where,
          **self.how,
          dropout=self.rate,
          key=KEY,
          return_lse=True,
          implementation=implementation,
          chunk=CHUNK,
        )

      outputs, pull = jax.vjp(attend, arrays)
      y, lse = outputs
      return outputs, pull((dy.astype(y.dtype), dlse.astype(lse.dtype)))[0]

    arrays = {name: jnp.asarray(x, dtype) for name, x in self.arrays.items()}
    return jax.device_get(run(arrays, *self.cotangents, start))


@functools.lru_cache(len(SEEDS))
def drawn(seed):
  case = Case(seed)
  return case, case.expected()


def error(found, expected):
  """The greatest error beside the greatest number."""
  found = np.asarray(found, np.float64)
  np.testing.assert_array_equal(np.isfinite(found), np.isfinite(expected))
  finite = np.isfinite(expected)
  found, expected = found[finite], expected[finite]
  size = np.abs(expected).max(initial=0.0)
  return np.abs(found - expected).max(initial=0.0) / max(size, 1e-3)


def check(found, expected, tolerance):
  (y, lse), gradients = found
  (true_y, true_lse), true_gradients = expected
  assert error(y, true_y) < tolerance
  assert error(lse, true_lse) < tolerance
  assert gradients.keys() == true_gradients.keys()
  for name, gradient in gradients.items():
    assert error(gradient, true_gradients[name]) < tolerance, name


@pytest.mark.parametrize("seed", SEEDS)
def test_float32(seed):
  case, expected = drawn(seed)
  for implementation in IMPLEMENTATIONS:
    check(case.found(implementation), expected, 2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("seed", MORE_SEEDS)
def test_more_float32(seed):
  test_float32(seed)


@pytest.mark.parametrize(
  ("seed", "dtype"),
  [(0, jnp.bfloat16), (4, jnp.bfloat16), (8, jnp.bfloat16), (2, jnp.float16)],
)
def test_16_bits(seed, dtype):
  case, expected = drawn(seed)
  for implementation in IMPLEMENTATIONS:
    found = case.found(implementation, dtype)
    assert {x.dtype for x in found[1].values()} == {jnp.dtype(dtype)}
    assert found[0][0].dtype == dtype
    assert found[0][1].dtype == jnp.float32
    check(found, expected, 1e-2)


def test_float64_is_not_rounded():
  case, expected = drawn(0)
  with jax.enable_x64(True):
    for implementation in IMPLEMENTATIONS:
      check(case.found(implementation, jnp.float64), expected, 1e-13)


def test_a_traced_start_is_a_static_one():
  """Decoding with a cache: nothing is known of what blocks see."""
  seeds = (seed for seed in SEEDS if drawn(seed)[0].where.get("causal"))
  case, expected = drawn(next(seeds))
  start = jnp.asarray(case.where["q_start"])
  check(case.found("chunked", start=start), expected, 2e-6)


def test_the_cases_have_everything():
  """Each argument is drawn, and left out, with both outcomes elsewhere."""
  cases = [drawn(seed)[0] for seed in SEEDS]
  have = [{*case.arrays, *case.where, *case.how} for case in cases]
  for name in (
    *("bias", "table", "causal", "k_prefix", "window", "pattern"),
    *("q_segments", "soft_cap"),
  ):
    assert 0 < sum(name in x for x in have) < len(cases), name
  assert len({case.rate for case in cases}) == 2
  assert len({case.rule for case in cases}) == 3
  assert any(not case.seen.any(-1).all() for case in cases)
  assert any(case.kv_heads < case.shape[1] for case in cases)
