"""Gradients of the TPU's attention, interpreted, against float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pallas_kernels
from pallas_kernels.attention import tpu
from pallas_kernels.attention.dropout import Dropout
from pallas_kernels.attention.masks import Mask
from pallas_kernels.attention.tiles import Window
from tests.kernels import plain_attention
from tests.kernels.attention_values_test import check, error

# Drawn with each feature, and without, on several blocks.
SEEDS = (25, 28, 30, 31)
MORE_SEEDS = sorted({*range(40)} - {*SEEDS})
KEY = jax.random.key(7)
BATCH = 2
FEATURES = (
  *("bias", "table", "soft_cap", "scale", "dropout"),
  *("causal", "prefix", "window", "pattern", "segments", "groups"),
)


class Case:
  """Inputs drawn from a seed.

  Attributes:
    features: those of FEATURES that it has.
    arrays: float32 inputs with gradients, by name.
    where: arguments for masks, as NumPy.
    seen: bool [B T S].
    how: scale and soft cap.
    rate: of dropout.
    rule: (bidirectional, max_distance) of the relative bias, or None.
    blocks: queries and keys of a block, and less.
    cotangents: of the output and of the log-sum-exp, float32.
  """

  def __init__(self, seed, *features, shared=None):
    """Features drawn if none are named.

    Args:
      seed: of all that is drawn.
      *features: some of FEATURES.
      shared: which of the bias's axes are of size 1; None draws them.
    """
    self.rng = rng = np.random.default_rng(seed)
    self.features = {x for x in FEATURES if rng.random() < 0.5}
    if features:
      self.features = set(features)
    kv_heads = int(rng.choice([1, 2]))
    heads = kv_heads * (2 if "groups" in self.features else 1)
    t = int(rng.integers(2, 300))
    start = int(rng.choice([0, 128]))
    s = int(rng.choice([start + t, rng.integers(1, 300)]))
    self.shape = BATCH, heads, t, s
    q_block, k_block = (int(x) for x in rng.choice([128, 256], 2))
    self.blocks = tpu.Blocks(q_block, k_block, 128, 128)
    self.where = self._where(t, s, start)
    self.seen = plain_attention.mask((BATCH, t, s), **self.where)
    width, v_width = (int(x) for x in rng.choice([4, 16, 20], 2))
    normal = rng.standard_normal
    self.arrays = {
      "q": normal((BATCH, t, heads, width)),
      "k": normal((BATCH, s, kv_heads, width)),
      "v": normal((BATCH, s, kv_heads, v_width)),
    }
    if "bias" in self.features:
      shared = rng.random(4) < 0.5 if shared is None else shared
      sides = zip(self.shape, shared, strict=True)
      self.arrays["bias"] = normal([1 if one else x for x, one in sides])
    self.rule = None
    if "table" in self.features:
      # Of one near block and of several.
      self.rule = bool(rng.random() < 0.5), int(rng.choice([100, 300]))
      self.arrays["table"] = normal((8, heads))
    self.how = {
      "scale": 0.3 if "scale" in self.features else 1.0,
      "soft_cap": 3.0 if "soft_cap" in self.features else None,
    }
    self.rate = 0.3 if "dropout" in self.features else 0.0
    dlse = normal((BATCH, t, heads)) * self.seen.any(-1)[..., None]
    self.cotangents = normal((BATCH, t, heads, v_width)), dlse
    # Numbers that bfloat16 has: what is measured is not their rounding.
    self.arrays, self.cotangents = jax.tree.map(
      lambda x: np.asarray(jnp.asarray(x, jnp.bfloat16), np.float32),
      (self.arrays, self.cotangents),
    )

  def _where(self, t, s, start):
    rng, where = self.rng, {"q_start": start}
    if "causal" in self.features:
      where["causal"] = True
      if "prefix" in self.features:
        where["k_prefix"] = rng.random((BATCH, s)) < 0.3
    if "window" in self.features:
      left, right = rng.integers(0, 150, 2)
      where["window"] = (int(left), int(right) if rng.random() < 0.5 else None)
    if "pattern" in self.features:
      where["pattern"] = (
        pallas_kernels.longformer(60, 5)
        if rng.random() < 0.5
        else pallas_kernels.bigbird(start + t, size=16, random_blocks=1)
      )
    if "segments" in self.features:
      where["q_segments"] = np.sort(rng.integers(0, 4, (BATCH, t)))
      where["k_segments"] = np.sort(rng.integers(0, 4, (BATCH, s)))
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

  def mask(self):
    where = {
      name: jnp.asarray(x) if isinstance(x, np.ndarray) else x
      for name, x in self.where.items()
    }
    if "window" in where:
      where["window"] = Window(*where["window"])
    return Mask(**where)

  def found(self, dtype=jnp.float32):
    """As `expected`."""
    mask, dropout = self.mask(), Dropout.of(self.rate, KEY)

    @jax.jit
    def run(arrays, dy, dlse):
      def attend(arrays):
        relative = None
        if self.rule is not None:
          relative = pallas_kernels.RelativeBias(arrays["table"], *self.rule)
        return tpu.attention(
          arrays["q"],
          arrays["k"],
          arrays["v"],
          mask=mask,
          bias=arrays.get("bias"),
          relative_bias=relative,
          dropout=dropout,
          **self.how,
          blocks=self.blocks,
          interpret=True,
        )

      outputs, pull = jax.vjp(attend, arrays)
      return outputs, pull((dy.astype(dtype), dlse))[0]

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


def test_the_cases_have_everything():
  cases = [drawn(seed)[0] for seed in SEEDS]
  for name in FEATURES:
    assert 0 < sum(name in case.features for case in cases) < len(cases), name
  assert any(not case.seen.any(-1).all() for case in cases)
  assert any(max(case.shape[2:]) > case.blocks.q for case in cases)
  assert any(case.shape[2] != case.shape[3] for case in cases)


def test_bfloat16():
  case, (outputs, gradients) = drawn(25)
  expected = outputs, dict(gradients)
  found = case.found(jnp.bfloat16)
  assert {x.dtype for x in found[1].values()} == {jnp.dtype(jnp.bfloat16)}
  check(found, expected, 1e-2)


def test_a_row_too_long_for_vmem(monkeypatch):
  """One head and one block of queries at a time."""
  monkeypatch.setattr(tpu, "_vmem", lambda: 0)
  # On three blocks, so that some are far from one another.
  case = Case(31, "groups", "table")
  assert case.shape[2] > 2 * case.blocks.q
  assert case.rule[1] <= case.blocks.q
  check(case.found(), case.expected(), 2e-6)


@pytest.mark.parametrize(
  "shared",
  [
    (True, False, False, False),
    pytest.param((False, True, True, False), id="of keys"),
    pytest.param((True, False, False, True), marks=pytest.mark.slow),
    pytest.param((False, False, True, False), marks=pytest.mark.slow),
    pytest.param((True, True, True, True), marks=pytest.mark.slow),
  ],
)
def test_bias(shared):
  """Rows, heads, queries and keys may share one."""
  case = Case(12, "bias", "segments", "groups", shared=shared)
  check(case.found(), case.expected(), 2e-6)


def test_what_a_blind_query_is_given_does_not_matter():
  """A gradient of its output, or of its log-sum-exp of -inf, goes nowhere."""
  case = Case(6, "segments", "bias", shared=(True, True, False, True))
  blind = ~case.seen.any(-1)
  assert blind.any()
  case.cotangents[1][blind] = 5.0
  found = case.found()[1]
  case.cotangents[0][blind] = 0.0
  case.cotangents[1][blind] = 0.0
  expected = case.expected()[1]
  for name, gradient in found.items():
    assert error(gradient, expected[name]) < 2e-6, name
  assert np.abs(found["q"][blind]).max() == 0.0
