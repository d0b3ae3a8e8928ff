"""Gradients of Hopper's attention, interpreted with race detection."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pallas_kernels
from pallas_kernels.attention.dropout import Dropout
from pallas_kernels.attention.masks import Mask
from pallas_kernels.attention.tiles import Window
from tests.kernels import plain_attention
from tests.kernels.attention_values_test import error

pytestmark = pytest.mark.interpreted
KEY = jax.random.key(5)


def segments(*lengths):
  return np.repeat(np.arange(len(lengths)), lengths)[None]


# Shapes, features, then masks.  Two warpgroups keep 128 positions.
CASES = {
  "all at once, lengths of no whole blocks": {
    "t": 70,
    "s": 150,
    "heads": (2, 1),
    "soft_cap": 2.0,
    "rate": 0.2,
    "rule": (True, 40),
    "where": {
      "causal": True,
      "q_start": 64,
      "q_segments": segments(30, 40) + 1,
      "k_segments": segments(20, 50, 80),
    },
  },
  "a relative bias, far keys on both sides": {
    "t": 384,
    "s": 384,
    "rule": (True, 30),
  },
  "a causal relative bias, from a later start": {
    "t": 190,
    "s": 390,
    "rule": (False, 30),
    "where": {"causal": True, "q_start": 256},
  },
  "two rows, grouped heads, dropout": {
    "size": 2,
    "t": 40,
    "s": 72,
    "heads": (4, 2),
    "rate": 0.3,
  },
  "head dimensions": {"t": 40, "s": 72, "width": 20, "v_width": 130},
  "wide": {"t": 40, "s": 72, "width": 192, "v_width": 256},
  "window": {"t": 130, "s": 260, "where": {"window": (20, 9)}},
  "prefix": {
    "t": 130,
    "s": 130,
    "where": {"causal": True, "k_prefix": (np.arange(130) < 70)[None]},
  },
  "bias": {"size": 2, "t": 70, "s": 150, "bias": (1, 1, 70, 150)},
  "bias of keys": {"size": 2, "t": 70, "s": 72, "bias": (2, 1, 1, 72)},
  "bias of queries": {
    "t": 150,
    "s": 70,
    "heads": (2, 2),
    "bias": (1, 2, 150, 1),
  },
  "bias of heads": {
    "size": 2,
    "t": 70,
    "s": 72,
    "heads": (2, 1),
    "bias": (1, 2, 1, 1),
    "where": {"causal": True},
  },
}
UNSEEN = "all at once, lengths of no whole blocks"
# What is of no other kind than the rest, or takes long.
SLOW = (
  "a relative bias, far keys on both sides",
  "bias of heads",
  "bias of queries",
  "head dimensions",
  "prefix",
  "window",
)


def drawn(
  *, t, s, size=1, heads=(1, 1), width=64, v_width=64, bias=None, rule=None, **_
):
  """Inputs and cotangents that bfloat16 has: their rounding is not measured."""
  normal = np.random.default_rng(3).standard_normal
  arrays = {
    "q": normal((size, t, heads[0], width)),
    "k": normal((size, s, heads[1], width)),
    "v": normal((size, s, heads[1], v_width)),
  }
  if bias:
    arrays["bias"] = normal(bias)
  if rule:
    arrays["table"] = normal((32, heads[0]))
  cotangents = normal((size, t, heads[0], v_width)), normal((size, t, heads[0]))
  return jax.tree.map(
    lambda x: np.asarray(jnp.asarray(x, jnp.bfloat16), np.float64),
    (arrays, cotangents),
  )


def how(case):
  default = 1.0 if "rule" in case else case.get("width", 64) ** -0.5
  return {"scale": default, "soft_cap": case.get("soft_cap")}


def seen(case):
  shape = case.get("size", 1), case["t"], case["s"]
  return plain_attention.mask(shape, **case.get("where", {}))


def expected(arrays, cotangents, case):
  """Gradients."""
  keep, rule, rate = None, case.get("rule"), case.get("rate", 0.0)
  if rate:
    seed = jax.device_get(jax.random.bits(KEY, (2,), "uint32"))
    shape = case.get("size", 1), case["heads"][0], case["t"], case["s"]
    keep = plain_attention.kept(seed, rate, shape)
  _, gradients = plain_attention.with_gradients(
    arrays,
    cotangents,
    seen(case),
    keep=keep,
    rate=rate,
    rule=rule and (*rule, case.get("where", {}).get("q_start", 0)),
    **how(case),
  )
  return gradients


def found(arrays, cotangents, case, dtype):
  """Gradients, by blocks of two warpgroups or fewer.

  As many threads as the interpreter has cores may wait at a time.
  """
  from pallas_kernels.attention import hopper
  from pallas_kernels.attention.hopper.inputs import Blocks, Walk

  where = {
    name: jnp.asarray(x) if isinstance(x, np.ndarray) else x
    for name, x in case.get("where", {}).items()
  }
  if "window" in where:
    where["window"] = Window(*where["window"])
  wide = max(case.get("width", 0), case.get("v_width", 0)) > 128
  pair = Walk(1 if wide else 2, 64)

  def attend(moving):
    relative = None
    if rule := case.get("rule"):
      relative = pallas_kernels.RelativeBias(moving["table"], *rule)
    return hopper.attention(
      *(moving[name] for name in "qkv"),
      mask=Mask(**where),
      bias=moving.get("bias"),
      relative_bias=relative,
      dropout=Dropout.of(case.get("rate", 0.0), KEY),
      interpret=True,
      blocks=Blocks(Walk(1, 64), pair, pair),
      **how(case),
    )

  moving = {
    name: jnp.asarray(x, dtype if name in "qkv" else jnp.float32)
    for name, x in arrays.items()
  }
  dy, dlse = cotangents
  _, pull = jax.vjp(attend, moving)
  (gradients,) = pull((jnp.asarray(dy, dtype), jnp.asarray(dlse, jnp.float32)))
  return jax.device_get(gradients)


def check(name, dtype, tolerance):
  case = CASES[name]
  arrays, (dy, dlse) = drawn(**case)
  # The log-sum-exp of a query that sees nothing is no function of anything.
  dlse = np.where(seen(case).any(-1)[..., None], dlse, 0.0)
  true = expected(arrays, (dy, dlse), case)
  gradients = found(arrays, (dy, dlse), case, dtype)
  assert gradients.keys() == true.keys()
  for x in true:
    assert gradients[x].dtype == (dtype if x in "qkv" else jnp.float32)
    assert error(gradients[x], true[x]) < tolerance, x
  return gradients


@pytest.mark.parametrize(
  "name",
  [
    pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name
    for name in CASES
    if name != UNSEEN
  ],
)
def test_bfloat16(name):
  check(name, jnp.bfloat16, 1e-2)


def test_float16():
  check("two rows, grouped heads, dropout", jnp.float16, 2e-3)


def test_what_is_not_seen_has_no_gradient():
  gradients = check(UNSEEN, jnp.bfloat16, 1e-2)
  # Queries of segment 2 and keys of segment 0 have no partners.
  alone = ~seen(CASES[UNSEEN])[0]
  assert alone.all(0).any()
  for x, axis in (("q", 1), ("k", 0), ("v", 0)):
    assert not gradients[x][0, alone.all(axis)].any()


def test_the_same_each_time():
  case = CASES["two rows, grouped heads, dropout"]
  again = functools.partial(found, *drawn(**case), case, jnp.bfloat16)
  first, second = again(), again()
  for name, x in first.items():
    np.testing.assert_array_equal(x, second[name])
