"""Blocks give what the products give that they stand for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from t5x_lite.layers import linear, step_kernels

# Equation, shape of the kernel, shape of x behind its rows.
PRODUCTS = {
  "matrix": ("btd,df->btf", (12, 64), (12,)),
  "columns that fill no block": ("btd,df->btf", (12, 33), (12,)),
  "heads": ("btd,dnh->btnh", (12, 3, 5), (12,)),
  "from heads": ("btNh,Nhd->btd", (3, 5, 40), (3, 5)),
}


def einsum(equation, shape, use_bias=True):
  axes = (None,) * len(shape)
  made = linear.Einsum(
    equation,
    shape,
    axes,
    init=linear.fan_in(0),
    use_bias=use_bias,
    rngs=nnx.Rngs(0),
  )
  if use_bias:
    made.bias[...] = jax.random.normal(jax.random.key(1), made.bias.shape)
  return made


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("rows", [(1, 1), (2, 1), (8, 1), (3, 5)])
@pytest.mark.parametrize("name", PRODUCTS)
def test_equals_the_product(name, rows, use_bias):
  equation, shape, inputs = PRODUCTS[name]
  whole = einsum(equation, shape, use_bias)
  blocks = step_kernels.for_steps(whole)
  assert isinstance(blocks, step_kernels.Blocks)
  x = jax.random.normal(jax.random.key(2), rows + inputs)
  found = jax.jit(lambda b, x: b(x))(blocks, x)
  np.testing.assert_allclose(found, whole(x), atol=1e-5)


def test_siblings_of_one_input_in_a_loop():
  first, second = (einsum("btd,df->btf", (40, 40)) for _ in range(2))

  def run(modules, x):
    def body(_, x):
      return jnp.tanh(modules[0](x) * modules[1](x))

    return jax.lax.fori_loop(0, 4, body, x)

  x = jax.random.normal(jax.random.key(2), (4, 1, 40))
  found = jax.jit(run)(step_kernels.for_steps((first, second)), x)
  np.testing.assert_allclose(found, run((first, second), x), atol=1e-5)


def test_bfloat16_activations_see_the_same_kernel():
  whole = einsum("btd,df->btf", (64, 32))
  x = jax.random.normal(jax.random.key(2), (8, 1, 64), jnp.bfloat16)
  found = step_kernels.for_steps(whole)(x)
  assert found.dtype == jnp.bfloat16
  difference = np.abs(np.asarray(found - whole(x), np.float32))
  assert difference.max() <= 2**-7 * np.abs(np.asarray(found)).max()


def test_a_kernel_of_another_order_stays_as_it_is():
  other = einsum("btd,fd->btf", (6, 12), use_bias=False)
  assert step_kernels.for_steps(other) is other
