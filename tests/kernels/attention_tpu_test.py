"""Attention on a TPU, interpreted: values, and what it promises beside them.

attention_tpu_gradients_test.py draws combinations of all features, forward and
backward; here is what each of them alone could get wrong, on several blocks.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pallas_kernels
from pallas_kernels.attention import reference, tpu
from pallas_kernels.attention.dropout import Dropout
from pallas_kernels.attention.masks import Mask
from pallas_kernels.attention.tiles import Window
from tests.kernels.attention_values_test import error

SMALL = tpu.Blocks(128, 128, 128, 128)
PARTS = tpu.Blocks(256, 256, 128, 128)
NOTHING = {
  "bias": None,
  "relative_bias": None,
  "dropout": None,
  "scale": 1.0,
  "soft_cap": None,
}
RNG = np.random.default_rng(5)


def drawn(*shape):
  return jnp.asarray(RNG.standard_normal(shape), jnp.float32)


def inputs(t=300, s=300, heads=2, kv_heads=1, width=16, v_width=24):
  return (
    drawn(2, t, heads, width),
    drawn(2, s, kv_heads, width),
    drawn(2, s, kv_heads, v_width),
  )


def segments(length):
  return jnp.asarray(np.sort(RNG.integers(0, 4, (2, length))), jnp.int32)


def relative(heads, *rule, buckets=16):
  return pallas_kernels.RelativeBias(drawn(buckets, heads), *rule)


def attend(q, k, v, mask=None, blocks=SMALL, **how):
  return tpu.attention(
    q,
    k,
    v,
    mask=mask or Mask(),
    blocks=blocks,
    interpret=True,
    **{**NOTHING, **how},
  )


def expected(arrays, mask=None, **how):
  """The definition in float64, which attention_values_test.py checks."""

  def exactly(x):
    single = getattr(x, "dtype", None) == jnp.float32
    return x.astype("float64") if single else x

  with jax.enable_x64(True):
    arrays, how = jax.tree.map(exactly, (arrays, how))
    run = functools.partial(
      reference.attention, mask=mask or Mask(), **{**NOTHING, **how}
    )
    return jax.device_get(run(*arrays))


def check(arrays, tolerance=2e-6, blocks=SMALL, **how):
  found = jax.jit(functools.partial(attend, blocks=blocks, **how))(*arrays)
  for x, y in zip(found, expected(arrays, **how), strict=True):
    assert error(x, y) < tolerance


MASKS = {
  "causal": Mask(causal=True),
  "start": Mask(causal=True, q_start=70),
  "prefix": Mask(causal=True, k_prefix=jnp.asarray(RNG.random((2, 300)) < 0.1)),
  "window": Mask(window=Window(40, 170)),
  "one-sided": Mask(window=Window(None, 10), q_start=9),
  "longformer": Mask(pattern=pallas_kernels.longformer(60, 3)),
  "bigbird": Mask(pattern=pallas_kernels.bigbird(400, size=24), q_start=90),
  "segments": Mask(q_segments=segments(300), k_segments=segments(300)),
  "packed": Mask(
    causal=True,
    q_segments=jnp.asarray(np.arange(600).reshape(2, 300) // 140),
    k_segments=jnp.asarray(np.arange(600).reshape(2, 300) // 140),
  ),
}


@pytest.mark.parametrize("name", MASKS)
def test_masks(name):
  check(inputs(), mask=MASKS[name])


@pytest.mark.parametrize("name", ["causal", "start", "window", "one-sided"])
def test_skips_keys_within_a_block(name):
  check(inputs(), mask=MASKS[name], blocks=tpu.Blocks(256, 384, 128, 128))


@pytest.mark.parametrize(
  ("rule", "start", "blocks"),
  [
    ((True, 40), 0, SMALL),
    ((False, 129), 128, PARTS),
    ((True, 500), 256, SMALL),
    ((False, 9), 0, PARTS),
  ],
)
def test_relative_bias(rule, start, blocks):
  """With blocks that are near, far and both; exact for any distance."""
  arrays = inputs(t=400, s=600, heads=2, kv_heads=2)
  check(
    arrays,
    mask=Mask(q_start=start),
    relative_bias=relative(2, *rule),
    blocks=blocks,
  )


@pytest.mark.parametrize("sides", ["bnts", "bn1s", "1nt1", "1111"])
def test_bias(sides):
  whole = dict(zip("bnts", (2, 2, 300, 200), strict=True))
  bias = drawn(*(whole.get(side, 1) for side in sides))
  check(inputs(s=200), bias=bias, soft_cap=4.0, scale=0.5)


@pytest.mark.parametrize(
  ("heads", "kv_heads", "width", "v_width"),
  [(6, 2, 32, 64), (4, 4, 64, 40), (2, 1, 256, 128), (1, 1, 3, 5)],
)
def test_heads(heads, kv_heads, width, v_width):
  """Sizes that fill registers and sizes that do not, groups and none."""
  arrays = inputs(130, 260, heads, kv_heads, width, v_width)
  check(arrays, blocks=PARTS, scale=width**-0.5)


@pytest.mark.parametrize(
  ("growth", "rule", "tolerance"),
  [(12.0, None, 2e-5), (200.0, (True, 30), 1e-3)],
)
def test_logits_that_grow(growth, rule, tolerance):
  """Whether or not the maximum of the first block may stand.

  Great logits have great errors in float32.
  """
  q, k, v = inputs(s=800, width=8)
  q = q.at[:, :100].multiply(0.01)
  k = k.at[:, 500:].multiply(growth)
  bias = None if rule is None else relative(2, *rule)
  check((q, k, v), relative_bias=bias, blocks=PARTS, tolerance=tolerance)


def test_soft_cap_and_scale():
  check(inputs(), soft_cap=2.0, scale=-0.7)


def test_queries_that_see_nothing_give_zeros():
  """Whole rows, whole blocks, and by a bias of -inf; no gradient is NaN."""
  q_segments = jnp.ones((2, 300), jnp.int32).at[0, 3:290].set(9).at[1].set(9)
  bias = jnp.zeros((1, 1, 300, 1)).at[:, :, 1].set(-jnp.inf)
  ones = jnp.ones((2, 300), jnp.int32)
  mask = Mask(q_segments=q_segments, k_segments=ones)
  blind = np.array(q_segments == 9)
  blind[:, 1] = True

  def total(q, k, v):
    y, lse = attend(q, k, v, mask, bias=bias)
    seen = jnp.sum(jnp.where(blind[..., None], 0, lse))
    return jnp.sum(jnp.sin(y)) + seen, (y, lse)

  run = jax.jit(jax.grad(total, (0, 1, 2), has_aux=True))
  gradients, (y, lse) = jax.device_get(run(*inputs()))
  np.testing.assert_array_equal(y[blind], 0)
  assert (y[~blind] != 0).all()
  np.testing.assert_array_equal(np.isneginf(lse), blind[..., None] & [True] * 2)
  for gradient in gradients:
    assert np.isfinite(gradient).all()
  np.testing.assert_array_equal(gradients[0][blind], 0)
  for gradient in gradients[1:]:
    np.testing.assert_array_equal(gradient[1], 0)


def test_padding_has_no_influence():
  """However large it is; in blocks that are skipped not even NaN has one."""
  q, k, v = inputs()
  ids = jnp.ones((2, 300), jnp.int32).at[0, 250:].set(2).at[1, 128:].set(2)
  mask = Mask(q_segments=ids, k_segments=ids)
  run = jax.jit(functools.partial(attend, mask=mask))
  y, _ = run(q, k, v)
  padding = ids[..., None, None] == 2
  loud = [jnp.where(padding, 1e4, x) for x in (q, k, v)]
  loud[1:] = (x.at[1, 256:].set(jnp.nan) for x in loud[1:])
  loud[0] = loud[0].at[1, 256:].set(jnp.nan)
  found, _ = run(*loud)
  np.testing.assert_array_equal(y[ids == 1], found[ids == 1])


@pytest.mark.parametrize("blocks", [SMALL, PARTS])
def test_drops_what_the_definition_drops(blocks):
  q = jnp.zeros((2, 140, 2, 8))
  v = jnp.broadcast_to(jnp.eye(140)[None, :, None], (2, 140, 2, 140))
  dropout = Dropout.of(0.3, jax.random.key(3), (5, 1, 4))
  run = functools.partial(attend, dropout=dropout, blocks=blocks)
  found, _ = jax.jit(run)(q, q, v)
  true, _ = reference.attention(
    q, q, v, **{**NOTHING, "dropout": dropout}, mask=Mask()
  )
  np.testing.assert_array_equal(found == 0, true == 0)
  np.testing.assert_allclose(found, true, rtol=1e-6)


def test_bfloat16():
  arrays = [x.astype(jnp.bfloat16) for x in inputs(s=500, width=64)]
  bias = relative(2, True, 50)
  run = functools.partial(attend, relative_bias=bias, scale=0.125)
  y, lse = jax.jit(run)(*arrays)
  assert (y.dtype, lse.dtype) == (jnp.bfloat16, jnp.float32)
  exact = [x.astype(jnp.float32) for x in arrays]
  true, true_lse = expected(exact, relative_bias=bias, scale=0.125)
  assert error(y, true) < 1e-2
  assert error(lse, true_lse) < 1e-2


def test_by_the_public_function():
  """With the blocks of its own choice, and a gradient by the table."""
  q, k, v = inputs(heads=1, width=8, v_width=8)
  table = drawn(8, 1)

  def total(implementation, q, table):
    y, lse = pallas_kernels.attention(
      q,
      k,
      v,
      causal=True,
      relative_bias=pallas_kernels.RelativeBias(table, False),
      return_lse=True,
      implementation=implementation,
      interpret=implementation == "mosaic_tpu",
    )
    return jnp.sum(jnp.sin(y)) + jnp.sum(lse)

  found, true = (
    jax.jit(jax.value_and_grad(functools.partial(total, name), (0, 1)))(
      q, table
    )
    for name in ("mosaic_tpu", "reference")
  )
  for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(true), strict=True):
    assert error(x, np.asarray(y)) < 1e-5


def test_refuses_in_words():
  q, k, v = inputs()
  refuse = functools.partial(tpu.refusal, **NOTHING)
  assert refuse(q, k, v, mask=Mask(causal=True, q_start=5)) is None
  half = q.astype(jnp.float16)
  for words, arrays, how in (
    ("q of float16", (half, k, v), {}),
    ("one query", (q[:, :1], k, v), {}),
    ("known only when", (q, k, v), {"mask": Mask(q_start=jnp.asarray(3))}),
    ("bias of float16", (q, k, v), {"bias": half[:1, :1]}),
    (
      "no multiple of 128",
      (q, k, v),
      {"mask": Mask(q_start=5), "relative_bias": relative(2)},
    ),
    (
      "max_distance beyond",
      (q, k, v),
      {"relative_bias": relative(2, True, 5000)},
    ),
    (
      "blocks of 3",
      (q, k, v),
      {"mask": Mask(pattern=pallas_kernels.bigbird(300, size=3))},
    ),
    ("heads of 600", (jnp.zeros((1, 8, 1, 600)),) * 3, {}),
    (
      "scalar memory",
      (jax.ShapeDtypeStruct((1, 2**20, 1, 8), jnp.float32),) * 3,
      {},
    ),
  ):
    how = {"mask": Mask(), **how}
    assert words in tpu.refusal(*arrays, **{**NOTHING, **how})
  with pytest.raises(ValueError, match="one query"):
    pallas_kernels.attention(q[:, :1], k, v, implementation="mosaic_tpu")


def test_blocks_must_fit():
  for sizes in ((100, 128), (128, 0), (256, 256, 384, 128)):
    with pytest.raises(ValueError, match="multiples|divide"):
      tpu.Blocks(*sizes)
  assert tpu.Blocks(512, 1024).cut(300, 200) == tpu.Blocks(384, 256, 384, 256)
