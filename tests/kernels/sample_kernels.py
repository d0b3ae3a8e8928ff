"""Small kernels and functions to compile for chips that are absent."""

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec


def shape(*sizes, dtype=jnp.float32):
  return jax.ShapeDtypeStruct(sizes, dtype)


def tpu_scratch(megabytes):
  """A TPU kernel that wants so much of the vector memory."""
  from jax.experimental import pallas as pl
  from jax.experimental.pallas import tpu as pltpu

  def kernel(x_ref, y_ref, scratch):
    scratch[:8] = x_ref[...]
    y_ref[...] = scratch[:8]

  rows = megabytes * 2**20 // (128 * 4)
  x = shape(8, 128)
  call = pl.pallas_call(
    kernel, out_shape=x, scratch_shapes=[pltpu.VMEM((rows, 128), jnp.float32)]
  )
  return call, [x]


def tpu_loops(turns):
  """A TPU kernel with a loop in its grid's loop, and a cost of its own."""
  from jax.experimental import pallas as pl

  def kernel(x_ref, y_ref, z_ref):
    def turn(_, z):
      return jnp.exp(z + jnp.dot(x_ref[...], y_ref[...]))

    z_ref[...] = jax.lax.fori_loop(0, turns, turn, jnp.zeros((128, 128)))

  block = pl.BlockSpec((128, 128), lambda i: (i, 0))
  call = pl.pallas_call(
    kernel,
    grid=4,
    in_specs=[block, pl.BlockSpec((128, 128), lambda i: (0, 0))],
    out_specs=block,
    out_shape=shape(512, 128),
    name="loops",
    cost_estimate=pl.CostEstimate(
      flops=12345, bytes_accessed=678, transcendentals=9
    ),
  )
  return call, [shape(512, 128), shape(128, 128)]


def hopper_store():
  """A Mosaic kernel that stores as only Hopper and Blackwell can."""
  from jax.experimental.pallas import mosaic_gpu as plgpu

  def kernel(y_ref, scratch):
    scratch[...] = jnp.zeros((64, 64), jnp.bfloat16)
    plgpu.commit_smem()
    plgpu.copy_smem_to_gmem(scratch, y_ref)
    plgpu.wait_smem_to_gmem(0)

  call = plgpu.kernel(
    kernel,
    out_type=shape(64, 64, dtype=jnp.bfloat16),
    scratch_types=[plgpu.SMEM((64, 64), jnp.bfloat16)],
  )
  return call, []


def hopper_product():
  """A Mosaic kernel with Hopper's copies and matrix products."""
  from jax.experimental import pallas as pl
  from jax.experimental.pallas import mosaic_gpu as plgpu

  def kernel(x_ref, y_ref, z_ref, x, y, barrier):
    plgpu.copy_gmem_to_smem(x_ref, x, barrier)
    plgpu.copy_gmem_to_smem(y_ref, y, barrier)
    plgpu.barrier_wait(barrier)

    def multiply(sums):
      plgpu.wgmma(sums, x, y)
      return sums[...]

    z_ref[...] = pl.run_scoped(multiply, plgpu.ACC((64, 128), jnp.float32))

  tiles = (plgpu.TilingTransform((8, 64)), plgpu.SwizzleTransform(128))
  sizes = (64, 64), (64, 128)
  call = plgpu.kernel(
    kernel,
    out_type=shape(64, 128),
    scratch_types=[
      *(plgpu.SMEM(s, jnp.bfloat16, transforms=tiles) for s in sizes),
      plgpu.Barrier(num_arrivals=2),
    ],
  )
  return call, [shape(*s, dtype=jnp.bfloat16) for s in sizes]


def sharded_product(mesh):
  """A product whose sums cross the axis "model"."""

  def placed(*sizes, spec):
    sharding = NamedSharding(mesh, PartitionSpec(*spec))
    return jax.ShapeDtypeStruct(sizes, jnp.float32, sharding=sharding)

  x = placed(1024, 512, spec=("data", "model"))
  return jnp.dot, [x, placed(512, 256, spec=("model", None))]
