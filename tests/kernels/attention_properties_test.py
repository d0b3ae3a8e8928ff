"""What attention promises beside its values: zeros, dropout, memory, errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import pallas_kernels

IMPLEMENTATIONS = ("reference", "chunked")
each = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
TABLE = (32, 2)


def drawn(*shapes, seed=0):
  rng = np.random.default_rng(seed)
  return [jnp.asarray(rng.standard_normal(x), jnp.float32) for x in shapes]


def inputs(batch=2, length=20, heads=2, width=4):
  """q, k, v and the table of a relative bias."""
  return drawn(*3 * [(batch, length, heads, width)], (32, heads))


def attend(q, k, v, table=None, **how):
  if table is not None:
    how["relative_bias"] = pallas_kernels.RelativeBias(table)
  return pallas_kernels.attention(q, k, v, **{"chunk": 8, **how})


def gradients(how, *arrays):
  """Of a sum of sines of the output, beside the output."""

  def total(*arrays):
    y = attend(*arrays, **how)
    return jnp.sum(jnp.sin(y)), y

  argnums = tuple(range(len(arrays)))
  grad = jax.jit(jax.grad(total, argnums, has_aux=True))
  return jax.device_get(grad(*arrays))


@each
def test_queries_that_see_nothing_give_zeros(implementation):
  """Whole rows, whole blocks, and by a bias of -inf; no gradient is NaN."""
  arrays = inputs()
  q_segments = jnp.ones((2, 20), jnp.int32).at[0, 3:14].set(9).at[1].set(9)
  bias = jnp.zeros((1, 1, 20, 1)).at[:, :, 17].set(-jnp.inf)
  how = {
    "implementation": implementation,
    "q_segments": q_segments,
    "k_segments": jnp.ones((2, 20), jnp.int32),
    "bias": bias,
    "soft_cap": 2.0,
  }
  blind = np.array(q_segments == 9)
  blind[:, 17] = True
  grads, y = gradients(how, *arrays)
  np.testing.assert_array_equal(y[blind], 0)
  assert (y[~blind] != 0).all()
  for gradient in grads:
    assert np.isfinite(gradient).all()
  np.testing.assert_array_equal(grads[0][blind], 0)
  for gradient in grads[1:3]:
    np.testing.assert_array_equal(gradient[1], 0)
  _, lse = jax.jit(functools.partial(attend, **how, return_lse=True))(*arrays)
  np.testing.assert_array_equal(np.isneginf(lse).all(-1), blind)


@each
def test_padding_has_no_influence(implementation):
  """However large: not on an output, nor a gradient, nor has it one."""
  arrays = inputs()
  ids = jnp.ones((2, 20), jnp.int32).at[0, 15:].set(0).at[1, 6:].set(0)
  tokens = np.asarray(ids == 1)
  loud = [jnp.where(ids[..., None, None] == 0, 1e4, x) for x in arrays[:3]]

  def total(*arrays):
    y = attend(
      *arrays, q_segments=ids, k_segments=ids, implementation=implementation
    )
    return jnp.sum(jnp.where(ids[..., None, None] == 1, jnp.sin(y), 0)), y

  run = jax.jit(jax.grad(total, (0, 1, 2, 3), has_aux=True))
  expected, y = run(*arrays)
  found, other = run(*loud, arrays[3])
  np.testing.assert_array_equal(y[tokens], other[tokens])
  for one, two in zip(found[:3], expected[:3], strict=True):
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(one[~tokens], 0)
  np.testing.assert_array_equal(found[3], expected[3])


def weights(length=24, **how):
  """[B N T S], by values that are the keys' own names."""
  q = jnp.zeros((3, length, 2, 1))
  v = jnp.broadcast_to(jnp.eye(length)[None, :, None], (3, length, 2, length))
  run = jax.jit(functools.partial(attend, **how))
  return np.moveaxis(np.asarray(run(q, q, v)), 2, 1)


def test_all_implementations_drop_the_same():
  how = {"dropout": 0.25, "key": jax.random.key(3)}
  expected = weights(implementation="reference", **how)
  for chunk in (5, 8, 64):
    found = weights(implementation="chunked", chunk=chunk, **how)
    np.testing.assert_array_equal(found == 0, expected == 0)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
  # A longer row begins alike: where a weight stands decides alone.
  longer = weights(40, implementation="chunked", **how)
  np.testing.assert_array_equal(longer[..., :24, :24] == 0, expected == 0)


def test_dropout_is_random():
  """In its rate, and between rows, heads, queries, keys and keys' bits."""
  size, rate = 200, 0.25
  how = {"dropout": rate, "implementation": "reference"}
  drops = [
    weights(size, key=jax.random.key(seed), **how) == 0 for seed in (0, 1)
  ]
  deviation = np.sqrt(rate * (1 - rate))
  for drop in drops:
    noise = deviation / np.sqrt(drop.size)
    assert abs(drop.mean() - rate) < 5 * noise
    for axis in range(4):
      others = tuple(x for x in range(4) if x != axis)
      noise = deviation * np.sqrt(drop.shape[axis] / drop.size)
      assert np.abs(drop.mean(others) - rate).max() < 5 * noise
      ahead, back = (
        np.take(drop, range(*ends), axis) - rate
        for ends in ((1, drop.shape[axis]), (drop.shape[axis] - 1,))
      )
      noise = deviation**2 / np.sqrt(ahead.size)
      assert abs((ahead * back).mean()) < 5 * noise
  product = (drops[0] - rate) * (drops[1] - rate)
  assert abs(product.mean()) < 5 * deviation**2 / np.sqrt(product.size)


@each
def test_no_key_and_no_rate_are_no_dropout(implementation):
  expected = weights(implementation=implementation)
  key = jax.random.key(0)
  for how in ({"dropout": 0.5}, {"key": key}, {"dropout": 0.0, "key": key}):
    found = weights(implementation=implementation, **how)
    np.testing.assert_array_equal(found, expected)


def memory(length, implementation):
  """Bytes of a gradient step with T5's bias, beside inputs and outputs."""
  shapes = *3 * [(1, length, 2, 16)], TABLE
  shapes = [jax.ShapeDtypeStruct(x, jnp.float32) for x in shapes]

  def total(*arrays):
    how = {"chunk": 512, "implementation": implementation}
    return jnp.sum(attend(*arrays, **how) ** 2)

  compiled = jax.jit(jax.grad(total, (0, 1, 2, 3))).lower(*shapes).compile()
  return compiled.memory_analysis().temp_size_in_bytes


def test_memory_is_linear_in_the_length():
  """At 16,384 tokens, where the definition needs gigabytes."""
  length = 16_384
  small, large = (memory(x, "chunked") for x in (length, 2 * length))
  assert large / small < 2.2
  small, large = (memory(x, "reference") for x in (length // 2, length))
  assert large / small > 3.8
  logits = 4 * 2 * length**2
  assert large > logits
  assert memory(length, "chunked") < logits / 20


def test_a_mesh_divides_batch_and_heads():
  """No device is sent another's rows or heads, forward or backward."""
  mesh = jax.make_mesh(
    (4, 2), ("data", "model"), axis_types=2 * (jax.sharding.AxisType.Auto,)
  )
  arrays = drawn(*3 * [(4, 24, 2, 4)], (32, 2))
  how = {"causal": True, "implementation": "chunked"}
  expected, y = gradients(how, *arrays)

  def total(*arrays):
    y = attend(*arrays, **how)
    return jnp.sum(jnp.sin(y)), y

  specs = *3 * [PartitionSpec("data", None, "model")], PartitionSpec(None)
  specs = [NamedSharding(mesh, spec) for spec in specs]
  grad = jax.grad(total, (0, 1, 2, 3), has_aux=True)
  compiled = (
    jax.jit(grad, in_shardings=specs, out_shardings=(tuple(specs), specs[0]))
    .lower(*arrays)
    .compile()
  )
  placed = [jax.device_put(x, s) for x, s in zip(arrays, specs, strict=True)]
  found, other = compiled(*placed)
  np.testing.assert_allclose(other, y, atol=1e-6)
  for one, two in zip(found, expected, strict=True):
    np.testing.assert_allclose(one, two, atol=1e-5)
  text = compiled.as_text()
  assert "all-to-all" not in text
  gathers = [x for x in text.splitlines() if " = " in x and "all-gather(" in x]
  # The gradient of the table alone, whose heads every device is to have.
  assert all("32" in line.split("all-gather(")[0] for line in gathers), gathers


def test_what_is_picked_is_run():
  for t, s, name in (
    (512, 512, "reference"),
    (1, 100_000, "reference"),
    (2048, 2048, "chunked"),
    (1024, 4096, "chunked"),
  ):
    q, k = (jax.ShapeDtypeStruct((8, x, 4, 64), jnp.bfloat16) for x in (t, s))
    assert pallas_kernels.pick_attention(q, k) == name
    text = str(jax.make_jaxpr(pallas_kernels.attention)(q, k, k))
    assert ("scan" in text) is (name == "chunked")


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"implementation": "fast"}, "'fast' is not one of chunked, mosaic_gpu"),
    ({"chunk": 0}, "a chunk of at least 1, not 0"),
    ({"dropout": 1.0}, r"a dropout in \[0, 1\), not 1.0"),
    ({"window": (-1, None)}, r"a window of sides >= 0, not \(-1, None\)"),
    ({"bias": jnp.zeros((2, 3))}, r"broadcasts to \(2, 2, 20, 20\), not \(2"),
    ({"bias": jnp.zeros((1, 1, 19, 1))}, "a bias that broadcasts to"),
    ({"table": jnp.zeros((32, 3))}, r"shape \[buckets, 2\], not \(32, 3\)"),
    ({"k_prefix": jnp.zeros((2, 3), bool)}, r"k_prefix of shape \(2, 20\): "),
    (
      {"pattern": pallas_kernels.bigbird(10, size=5), "q_start": 4},
      "2 blocks of 5 cover 10 queries of 24: make it for rows of that length",
    ),
  ],
)
def test_wrong_options(options, message):
  q, k, v, _ = inputs()
  with pytest.raises(ValueError, match=message):
    attend(q, k, v, **options)


def test_wrong_shapes():
  q, k, v, _ = inputs()
  for arrays, message in (
    ((q, k, v[:, 1:]), r"v of shape \(2, 20, 2, 4\): \(2, 19, 2, 4\)"),
    ((q, k[..., 1:], v), r"k of shape \(2, 20, 2, 4\): \(2, 20, 2, 3\)"),
    ((q[:1], k, v), r"k of shape \(1, 20, 2, 4\): \(2, 20, 2, 4\)"),
  ):
    with pytest.raises(ValueError, match=message):
      attend(*arrays)
