"""XLA's options reach it, by platform, and its cache is used."""

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache

from t5x_lite import compilation, errors


def lowered():
  return jax.jit(lambda x: x + 1).lower(jnp.ones(3))


def test_options_are_those_of_the_platform():
  options = {"cpu": {"xla_cpu_enable_fast_math": True}, "tpu": {"xla_no": 1}}
  compiled = compilation.Compilation(options)(lowered())
  assert compiled(jnp.ones(3)).tolist() == [2.0, 2.0, 2.0]


@pytest.mark.parametrize(
  "options, message",
  [
    ({"cpu": {"xla_no": 1}}, "XLA refuses xla_no = 1 .*COMPILER_OPTIONS"),
    ({"cpu": {"xla_cpu_enable_fast_math": "maybe"}}, "= 'maybe' of"),
  ],
)
def test_options_that_xla_does_not_know_are_named(options, message):
  with pytest.raises(errors.ConfigError, match=message):
    compilation.Compilation(options)(lowered())


def test_platforms_are_named():
  with pytest.raises(errors.ConfigError, match="did you mean 'tpu'"):
    compilation.Compilation({"tpus": {}})


def test_programs_are_kept(tmp_path):
  names = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
  )
  before = {name: getattr(jax.config, name) for name in names}
  try:
    compilation.Compilation(cache=tmp_path / "cache").use_cache()
    compilation_cache.reset_cache()
    jax.jit(lambda x: 3 * x + 7)(jnp.ones(3)).block_until_ready()
  finally:
    for name, value in before.items():
      jax.config.update(name, value)
    compilation_cache.reset_cache()
  assert any("lambda" in path.name for path in (tmp_path / "cache").iterdir())
