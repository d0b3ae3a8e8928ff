"""Triton's attention, interpreted, against the definition in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pallas_kernels
from pallas_kernels.attention import reference, triton
from pallas_kernels.attention.dropout import Dropout
from pallas_kernels.attention.masks import Mask
from pallas_kernels.attention.tiles import Window
from tests.kernels import plain_attention
from tests.kernels.attention_values_test import check

SEEDS = range(8)
MORE_SEEDS = range(8, 40)
KEY = jax.random.key(7)
PLAIN = {
  "mask": Mask(),
  "bias": None,
  "relative_bias": None,
  "dropout": None,
  "scale": 1.0,
  "soft_cap": None,
}


class Case:
  """Inputs drawn from a seed; each argument is there or not by a bit of it.

  Attributes:
    arrays: float32 inputs with gradients, by name.
    where: arguments for masks, as NumPy.
    how: scale and soft cap.
    rate: of dropout.
    rule: (bidirectional, max_distance) of the relative bias, or None.
    blocks: queries and keys of a block.
    cotangents: of the output and of the log-sum-exp, float32.
  """

  def __init__(self, seed):
    self.rng = rng = np.random.default_rng(seed)
    kv_heads = int(rng.choice([1, 2]))
    heads = kv_heads * int(rng.choice([1, 2]))
    t = int(rng.integers(1, 60))
    start = int(rng.choice([0, 16]))
    s = int(rng.choice([start + t, rng.integers(1, 60)]))
    self.shape = 2, heads, t, s
    self.blocks = triton.Blocks(int(rng.choice([16, 32])), 16)
    self.where = self._where(t, s, start)
    self.seen = plain_attention.mask((2, t, s), **self.where)
    normal = rng.standard_normal
    width, v_width = (int(x) for x in rng.choice([4, 16, 20], 2))
    self.arrays = {
      "q": normal((2, t, heads, width)),
      "k": normal((2, s, kv_heads, width)),
      "v": normal((2, s, kv_heads, v_width)),
    }
    if self._coin():
      sides = zip(self.shape, rng.random(4) < 0.5, strict=True)
      self.arrays["bias"] = normal([1 if one else x for x, one in sides])
    self.rule = None
    if self._coin():
      self.rule = self._coin(), int(rng.choice([12, 30]))
      self.arrays["table"] = normal((8, heads))
    self.how = {
      "scale": 0.3 if self._coin() else 1.0,
      "soft_cap": 3.0 if self._coin() else None,
    }
    self.rate = 0.3 if self._coin() else 0.0
    dlse = normal((2, t, heads)) * self.seen.any(-1)[..., None]
    self.cotangents = normal((2, t, heads, v_width)), dlse
    # Numbers that bfloat16 has: what is measured is not their rounding.
    self.arrays, self.cotangents = jax.tree.map(
      lambda x: np.asarray(jnp.asarray(x, jnp.bfloat16), np.float32),
      (self.arrays, self.cotangents),
    )

  def _coin(self):
    return bool(self.rng.random() < 0.5)

  def _where(self, t, s, start):
    rng, where = self.rng, {"q_start": start}
    if self._coin():
      where["causal"] = True
      if self._coin():
        where["k_prefix"] = rng.random((2, s)) < 0.3
    if rng.random() < 0.3:
      left, right = rng.integers(0, 30, 2)
      where["window"] = (int(left), int(right) if self._coin() else None)
    if rng.random() < 0.4:
      where["pattern"] = (
        pallas_kernels.longformer(12, 2)
        if self._coin()
        else pallas_kernels.bigbird(
          start + t, size=16, window=1, random_blocks=1, global_blocks=1
        )
      )
    if self._coin():
      where["q_segments"] = np.sort(rng.integers(0, 4, (2, t)))
      where["k_segments"] = np.sort(rng.integers(0, 4, (2, s)))
    return where

  def expected(self):
    keep = None
    if self.rate:
      seed = jax.device_get(jax.random.bits(KEY, (2,), "uint32"))
      keep = plain_attention.kept(seed, self.rate, self.shape)
    return plain_attention.with_gradients(
      self.arrays,
      self.cotangents,
      self.seen,
      keep=keep,
      rate=self.rate,
      rule=self.rule and (*self.rule, self.where["q_start"]),
      **self.how,
    )

  def found(self, dtype=jnp.float32):
    where = {
      name: jnp.asarray(x) if isinstance(x, np.ndarray) else x
      for name, x in self.where.items()
    }
    if "window" in where:
      where["window"] = Window(*where["window"])

    def attend(arrays):
      relative = None
      if "table" in arrays:
        relative = pallas_kernels.RelativeBias(arrays["table"], *self.rule)
      inputs = {
        "mask": Mask(**where),
        "bias": arrays.get("bias"),
        "relative_bias": relative,
        "dropout": Dropout.of(self.rate, KEY),
        **self.how,
      }
      q, k, v = (arrays[name] for name in "qkv")
      assert triton.refusal(q, k, v, **inputs) is None
      return triton.attention(
        q, k, v, **inputs, blocks=self.blocks, interpret=True
      )

    @jax.jit
    def run(arrays, dy, dlse):
      (y, lse), pull = jax.vjp(attend, arrays)
      return (y, lse), pull((dy.astype(y.dtype), dlse.astype(lse.dtype)))[0]

    arrays = {name: jnp.asarray(x, dtype) for name, x in self.arrays.items()}
    return jax.device_get(run(arrays, *self.cotangents))


@functools.lru_cache(len(SEEDS))
def drawn(seed):
  case = Case(seed)
  return case, case.expected()


@pytest.mark.parametrize("seed", SEEDS)
def test_float32(seed):
  case, expected = drawn(seed)
  check(case.found(), expected, 2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("seed", MORE_SEEDS)
def test_more_float32(seed):
  test_float32(seed)


@pytest.mark.parametrize(
  ("seed", "dtype"), [(0, jnp.bfloat16), (1, jnp.bfloat16), (2, jnp.float16)]
)
def test_16_bits(seed, dtype):
  case, expected = drawn(seed)
  found = case.found(dtype)
  assert {x.dtype for x in found[1].values()} == {jnp.dtype(dtype)}
  assert found[0][0].dtype == dtype
  assert found[0][1].dtype == jnp.float32
  check(found, expected, 1e-2)


def test_the_cases_have_everything():
  """Each argument is drawn, and left out."""
  cases = [Case(seed) for seed in SEEDS]
  have = [
    {
      name
      for name, x in {**y.arrays, **y.where, **y.how}.items()
      if x is not None
    }
    for y in cases
  ]
  for name in (
    *("bias", "table", "causal", "k_prefix", "window", "pattern"),
    *("q_segments", "soft_cap"),
  ):
    assert 0 < sum(name in x for x in have) < len(cases), name
  assert len({case.rate for case in cases}) == 2
  assert {case.where["q_start"] for case in cases} == {0, 16}
  assert any(not case.seen.any(-1).all() for case in cases)
  assert any(len(case.arrays["k"][0, 0]) < case.shape[1] for case in cases)


def normal(seed, *shape):
  return jax.random.normal(jax.random.key(seed), shape)


def test_a_bias_far_to_either_side():
  """Rows long enough for tiles left and right of the panel, all visited."""
  q, k, v = (normal(i, 1, 96, 2, 8) for i in range(3))
  table = normal(3, 8, 2)

  def loss(implementation, how, table):
    bias = pallas_kernels.RelativeBias(table, True, 12)
    inputs = PLAIN | {"relative_bias": bias}
    return jnp.sin(implementation(q, k, v, **inputs, **how)[0]).sum()

  interpreted = {"blocks": triton.Blocks(32, 16), "interpret": True}
  found = jax.grad(functools.partial(loss, triton.attention, interpreted))
  expected = jax.grad(functools.partial(loss, reference.attention, {}))
  one, other = jax.jit(found)(table), jax.jit(expected)(table)
  # In each bucket by itself: the farthest have as much to say as the nearest.
  np.testing.assert_allclose(one, other, rtol=1e-4)


def test_blocks_that_nobody_sees_are_not_read():
  q, k, v = (normal(i, 1, 64, 2, 8) for i in range(3))
  k, v = (x.at[:, 32:].set(jnp.nan) for x in (k, v))
  y, lse = triton.attention(
    *(q, k, v),
    **PLAIN | {"mask": Mask(causal=True)},
    blocks=triton.Blocks(16, 16),
    interpret=True,
  )
  assert jnp.isfinite(y[:, :32]).all() and jnp.isfinite(lse[:, :32]).all()
  assert jnp.isnan(y[:, 32:]).all()


def test_by_its_name_and_with_the_blocks_it_picks():
  q, k, v = (normal(i, 1, 70, 2, 8) for i in range(3))
  found, expected = (
    pallas_kernels.attention(q, k, v, causal=True, **how)
    for how in (
      {"implementation": "triton", "interpret": True},
      {"implementation": "reference"},
    )
  )
  np.testing.assert_allclose(found, expected, atol=2e-6)


REFUSED = {
  "float64": ({}, "float64", 8, "float64"),
  "wide heads": ({}, "float32", 257, "256"),
  "a scale that is traced": ({"scale": jnp.ones(())}, "float32", 8, "scale"),
  "a start that is traced": (
    {"mask": Mask(q_start=jnp.zeros((), int))},
    "float32",
    8,
    "q_start",
  ),
  "blocks of a pattern": (
    {"mask": Mask(pattern=pallas_kernels.bigbird(64, size=24))},
    "float32",
    8,
    "multiples of 16",
  ),
  "a start between the blocks of a bias": (
    {
      "mask": Mask(q_start=5),
      "relative_bias": pallas_kernels.RelativeBias(jnp.ones((8, 2))),
    },
    "float32",
    8,
    "multiples of 16",
  ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(case):
  inputs, dtype, width, reason = REFUSED[case]
  q = jax.ShapeDtypeStruct((1, 64, 2, width), dtype)
  assert reason in triton.refusal(q, q, q, **PLAIN | inputs)


def test_nothing_is_refused_without_need():
  q = jax.ShapeDtypeStruct((1, 64, 2, 256), "bfloat16")
  mask = Mask(
    causal=True,
    pattern=pallas_kernels.bigbird(128, size=48),
    q_start=16,
    q_segments=jnp.zeros((1, 64), int),
    k_segments=jnp.zeros((1, 64), int),
  )
  inputs = PLAIN | {
    "mask": mask,
    "bias": jnp.ones((1, 1, 64, 64)),
    "relative_bias": pallas_kernels.RelativeBias(jnp.ones((8, 2))),
    "dropout": Dropout.of(0.1, KEY),
    "soft_cap": 3.0,
  }
  assert triton.refusal(q, q, q, **inputs) is None
