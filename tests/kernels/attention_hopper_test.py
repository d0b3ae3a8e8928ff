"""Hopper's attention, interpreted with race detection, against float64."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pallas_kernels
from tests.kernels import plain_attention
from tests.kernels.attention_values_test import error

pytestmark = pytest.mark.interpreted
KEY = jax.random.key(7)
# Smaller than any block: all of a dimension is in one, which is filled up.
SMALL = {"t": 40, "s": 72}


def segments(*lengths):
  return np.repeat(np.arange(len(lengths)), lengths)[None]


# Shapes, features, then masks.
CASES: dict[str, dict[str, Any]] = {
  "grouped heads, lengths of no whole blocks": {
    "t": 70,
    "s": 150,
    "heads": (2, 1),
  },
  "three blocks of keys, far ones before": {
    "t": 64,
    "s": 320,
    "rule": (False, 128),
    "where": {"causal": True, "q_start": 256},
  },
  "far ones after, two blocks of queries": {
    "t": 200,
    "s": 512,
    "rule": (True, 128),
    "soft_cap": 3.0,
  },
  "a short relative bias": {**SMALL, "heads": (2, 2), "rule": (True, 30)},
  "head dimensions": {**SMALL, "width": 20, "v_width": 130},
  "wide": {**SMALL, "width": 256, "v_width": 192},
  "soft cap": {**SMALL, "soft_cap": 2.0, "scale": 0.7},
  "dropout": {**SMALL, "rate": 0.3, "heads": (2, 1), "size": 2},
  "bias": {**SMALL, "heads": (2, 2), "bias": (1, 2, 40, 72)},
  "bias of keys": {**SMALL, "size": 2, "bias": (2, 1, 1, 72)},
  "bias of queries": {**SMALL, "bias": (1, 1, 40, 1)},
  "bias of heads": {**SMALL, "heads": (2, 2), "bias": (1, 2, 1, 1)},
  "window": {"t": 130, "s": 260, "where": {"window": (20, 9)}},
  "prefix": {
    "t": 130,
    "s": 130,
    "where": {"causal": True, "k_prefix": (np.arange(130) < 70)[None]},
  },
  "segments, of which the last is no key's": {
    "t": 130,
    "s": 140,
    "where": {
      "q_segments": segments(30, 60, 40) + 1,
      "k_segments": segments(20, 50, 70),
      "causal": True,
    },
  },
  "longformer": {
    "t": 130,
    "s": 130,
    "where": {"pattern": pallas_kernels.longformer(32, 3)},
  },
  "bigbird": {
    "t": 256,
    "s": 256,
    "where": {"pattern": pallas_kernels.bigbird(256, random_blocks=1)},
  },
}
# What takes long, or is of no other kind than the rest.
SLOW = ("bigbird", "longformer", "far ones after, two blocks of queries")


def drawn(
  *,
  t,
  s,
  size=1,
  heads=(1, 1),
  width=64,
  v_width=64,
  bias=None,
  rule=None,
  **_,
):
  """Inputs that bfloat16 has: what is measured is not their rounding."""
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
  return {name: rounded(x) for name, x in arrays.items()}


def rounded(x):
  return np.asarray(jnp.asarray(x, jnp.bfloat16), np.float64)


def expected(arrays, case):
  """Output and log-sum-exp."""
  (b, t, n, _), s = arrays["q"].shape, arrays["k"].shape[1]
  where, keep, rule = case.get("where", {}), None, case.get("rule")
  if rate := case.get("rate", 0.0):
    seed = jax.device_get(jax.random.bits(KEY, (2,), "uint32"))
    keep = plain_attention.kept(seed, rate, (b, n, t, s))
  with jax.enable_x64(True):
    return jax.device_get(
      plain_attention.attention(
        {name: jnp.asarray(x) for name, x in arrays.items()},
        plain_attention.mask((b, t, s), **where),
        keep=keep,
        rate=rate,
        rule=rule and (*rule, where.get("q_start", 0)),
        **how(case),
      )
    )


def how(case):
  width = case.get("width", 64)
  default = 1.0 if "rule" in case else width**-0.5
  return {
    "scale": case.get("scale", default),
    "soft_cap": case.get("soft_cap"),
  }


def found(arrays, case, dtype):
  where: dict[str, Any] = {
    name: jnp.asarray(x) if isinstance(x, np.ndarray) else x
    for name, x in case.get("where", {}).items()
  }
  relative = None
  if rule := case.get("rule"):
    table = jnp.asarray(arrays["table"], jnp.float32)
    relative = pallas_kernels.RelativeBias(table, *rule)
  bias = arrays.get("bias")
  run = functools.partial(
    pallas_kernels.attention,
    **where,
    **how(case),
    bias=None if bias is None else jnp.asarray(bias, jnp.float32),
    relative_bias=relative,
    dropout=case.get("rate", 0.0),
    key=KEY if "rate" in case else None,
    return_lse=True,
    implementation="mosaic_gpu",
    interpret=True,
  )
  return jax.device_get(run(*(jnp.asarray(arrays[x], dtype) for x in "qkv")))


def check(name, dtype, tolerance):
  case = CASES[name]
  arrays = drawn(**case)
  (y, lse), (true_y, true_lse) = (
    found(arrays, case, dtype),
    expected(arrays, case),
  )
  assert y.dtype == dtype and lse.dtype == jnp.float32
  assert error(y, true_y) < tolerance
  # Products and sums are in float32; only the weights are rounded.
  assert error(lse, true_lse) < 2e-6
  return y, lse


@pytest.mark.parametrize(
  "name",
  [
    pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name
    for name in CASES
  ],
)
def test_bfloat16(name):
  check(name, jnp.bfloat16, 1e-2)


@pytest.mark.parametrize("name", ["three blocks of keys, far ones before"])
def test_float16(name):
  check(name, jnp.float16, 1e-3)


def test_rows_that_see_nothing():
  y, lse = check("segments, of which the last is no key's", jnp.bfloat16, 1e-2)
  assert np.isneginf(lse[0, 90:]).all() and not y[0, 90:].any()


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
  "float32": ({"dtype": jnp.float32}, "bfloat16"),
  "wide heads": ({"width": 264}, "256"),
  "scale": ({"scale": -1.0}, "positive"),
  "start": ({"q_start": jnp.int32(3)}, "q_start"),
  "blocks": (
    {"pattern": pallas_kernels.bigbird(128, size=16)},
    "multiples of 64",
  ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name):
  arguments, word = REFUSED[name]
  arguments = dict(arguments)
  width = arguments.pop("width", 64)
  x = jnp.zeros((1, 128, 1, width), arguments.pop("dtype", jnp.bfloat16))
  with pytest.raises(ValueError, match=word):
    pallas_kernels.attention(
      x, x, x, implementation="mosaic_gpu", interpret=True, **arguments
    )
