"""What is counted in a traced program besides plain products."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas
from jax.sharding import Mesh, PartitionSpec

from t5x_lite import flops, traced_flops, utilization
from tests import tiny

X = jax.ShapeDtypeStruct((8, 4), jnp.float32)


def test_what_is_mapped_over_devices_counts_on_each():
  mesh = Mesh(np.array(jax.devices()[:8]).reshape(4, 2), ("data", "model"))
  rows = PartitionSpec("data")
  both = jax.shard_map(
    lambda x: x @ x.T, mesh=mesh, in_specs=rows, out_specs=rows, check_vma=False
  )
  # 2 rows by 2 on each of four devices, and again on the other four.
  assert traced_flops.of_program(both, X) == 8 * 2 * (2 * 2 * 4)


def test_a_kernel_counts_what_it_says_of_itself():
  def body(x_ref, y_ref):
    y_ref[...] = x_ref[...] @ jnp.ones((4, 4))

  cost = pallas.CostEstimate(flops=77, transcendentals=0, bytes_accessed=0)
  kernel = pallas.pallas_call(body, out_shape=X, cost_estimate=cost)
  assert traced_flops.of_program(lambda x: kernel(x) @ x.T, X) == 77 + 512
  silent = pallas.pallas_call(body, out_shape=X)
  with pytest.raises(NotImplementedError, match="pallas_call"):
    traced_flops.of_program(silent, X)


def test_a_program_that_cannot_be_counted_has_unknown_hfu(caplog):
  def loop(x):
    return jax.lax.while_loop(lambda x: x[0, 0] > 0, lambda x: x @ x, x)

  program = jax.make_jaxpr(loop)(jax.ShapeDtypeStruct((4, 4), jnp.float32))
  model = jax.eval_shape(lambda: tiny.fill(tiny.t5()))
  found = utilization.of_all_devices(model, tiny.batch(), program)
  assert set(found(1.0)) == {"teraflops_per_device"}
  assert "HFU is unknown: a product in while" in caplog.text


def test_executed_flops_of_a_step_without_remat_are_the_models():
  model = jax.eval_shape(lambda: tiny.fill(tiny.t5()))
  batch = tiny.batch()

  def loss(model, batch):
    return jnp.sum(jnp.exp(model(batch)))

  program = jax.make_jaxpr(jax.grad(loss))(model, batch)
  found = utilization.of_all_devices(model, batch, program)
  wanted = flops.of_training_step(model, batch).total_full
  # T5's relative bias is made by a product, of two to the table of buckets.
  assert 1 <= found.hardware / wanted < 1.1
