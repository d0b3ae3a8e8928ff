"""Compiling for chips that are absent."""

import os
import pathlib
import signal
import subprocess
import sys

import jax
import pytest
from packaging import requirements

from pallas_kernels import testing
from pallas_kernels.testing import gpu, launch, tpu
from tests.kernels import compiled, sample_kernels

ROOT = pathlib.Path(__file__).resolve().parents[2]
FLASH = "benchmarks.kernel_targets:jax_flash"
TRITON = "benchmarks.kernel_targets:jax_triton"


def without_a_chip():
  """Says what the compiling process sees, as its error."""
  flags = os.environ.get("XLA_FLAGS")  # conftest.py sets some
  raise ValueError(f"jax on {jax.default_backend()} with {flags}")


def with_an_end(how):
  """Ends the process as a compiler would."""
  print("many words before", flush=True)
  print("LLVM ERROR: Cannot select: intrinsic %llvm.x", flush=True)
  print("and a stack after", flush=True)
  if how == "abort":
    os.abort()
  os._exit(int(how))


def slow():
  signal.pause()


@pytest.fixture
def no_compiler_needed(monkeypatch):
  """Lets the process start where no compiler is installed."""
  for platform in (tpu, gpu):
    monkeypatch.setattr(platform, "missing", lambda chip: None)


def test_importing_needs_jax_alone():
  program = (
    "import sys, pallas_kernels.testing; "
    "print(sorted({'libtpu', 'jax_plugins', 'pytest'} & set(sys.modules)))"
  )
  done = subprocess.run(
    [sys.executable, "-c", program],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert done.stdout.strip() == "[]", done.stderr


def test_an_unknown_chip_is_told_the_known_ones():
  for ask in (testing.missing, lambda chip: testing.compile_for(chip, FLASH)):
    with pytest.raises(ValueError, match="v5e, v5p, .*RTX PRO 6000"):
      ask("TPU v5")


def test_both_lists_of_requirements_name_the_same_versions():
  def pins(name):
    lines = ROOT.joinpath("requirements", name).read_text().splitlines()
    found = (line.partition("#")[0].strip() for line in lines)
    return [requirements.Requirement(line) for line in found if line]

  python = {"python_version": "3.12", "python_full_version": "3.12.1"}
  lock = {
    pin.name: str(pin.specifier)
    for pin in pins("lock.txt")
    if not pin.marker or pin.marker.evaluate(python)
  }
  ours = {pin.name: str(pin.specifier) for pin in pins("kernels.txt")}
  assert {"jax", "jaxlib", "libtpu"} <= set(ours)
  assert {name: lock.get(name, ours[name]) for name in ours} == ours


@pytest.mark.parametrize(
  "chip, package", [("v5e", "libtpu"), ("H200", "jax-cuda")]
)
def test_says_what_to_install(monkeypatch, chip, package):
  monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
  assert "pip install" in testing.missing(chip)
  assert package in testing.missing(chip)
  with pytest.raises(testing.MissingCompiler, match=package):
    testing.compile_for(chip, FLASH)


def test_a_target_must_be_importable():
  for target in (lambda: None, jax.jit(without_a_chip), type("C", (), {})):
    with pytest.raises(ValueError, match="top of a module"):
      launch._importable(target)
  assert launch._importable(slow) == f"{__name__}:slow"
  assert launch._importable("file.py:f") == "file.py:f"


@pytest.mark.parametrize(
  "target", [without_a_chip, f"{__file__}:without_a_chip"]
)
def test_an_error_is_told_with_its_type(no_compiler_needed, target):
  with pytest.raises(testing.CompileError) as caught:
    testing.compile_for("v5e", target)
  assert "without_a_chip for v5e: ValueError: jax on cpu with None" in str(
    caught.value
  )
  assert "Traceback" in caught.value.log


@pytest.mark.parametrize(
  "how, told", [("abort", "SIGABRT"), ("3", "exit code 3")]
)
def test_the_end_of_the_process_is_an_exception(
  no_compiler_needed, tmp_path, how, told
):
  with pytest.raises(testing.CompileError) as caught:
    testing.compile_for("H200", with_an_end, {"how": how}, keep=tmp_path)
  message = str(caught.value)
  assert told in message and "LLVM ERROR: Cannot select" in message
  assert "words before" not in message and "words before" in caught.value.log
  assert caught.value.log == tmp_path.joinpath("log.txt").read_text()


def test_time_is_limited(no_compiler_needed):
  with pytest.raises(testing.CompileError, match=r"not compiled in 0\.1 s"):
    testing.compile_for("v5e", slow, timeout=0.1)


@pytest.mark.compiled
@pytest.mark.parametrize("chip", testing.CHIPS)
def test_every_chip_has_its_compiler(chip):
  assert testing.missing(chip) is None


@pytest.mark.compiled
@pytest.mark.parametrize("chip", compiled.TPUS)
def test_loops_of_a_tpu_kernel(chip):
  found = compiled.report(chip, sample_kernels.tpu_loops, turns=10)
  assert found.memory == testing.Memory(
    arguments=(512 + 128) * 128 * 4, outputs=512 * 128 * 4, temporaries=0
  )
  assert found.flops == 12345  # what the kernel's cost_estimate says
  kernel = found.tpu_kernel("loops")
  outer, inner = kernel.loops
  assert kernel.body == outer and kernel.innermost == inner
  assert inner.bundles < outer.bundles < kernel.bundles
  for part in kernel.loops:
    assert part.slots["EUP"].count == kernel.slots["EUP"].count > 0
    assert 0 < part.slots["MATMUL"].share <= 1


@pytest.mark.compiled
def test_jax_flash_attention_on_v5e():
  """The figures are libtpu 0.0.51's, of another program that read them."""
  known = {64: (1578, 576, 0.32), 128: (1631, 579, 0.63)}
  for width, (bundles, spills, share) in known.items():
    found = compiled.report("v5e", FLASH, width=width)
    kernel = found.tpu_kernel("flash_attention")
    assert kernel.bundles == pytest.approx(bundles, rel=0.03)
    assert kernel.spill_stores == pytest.approx(spills, rel=0.05)
    flops = 2 * 2 * 512 * 512 * width
    assert kernel.matrix_share(flops) == pytest.approx(share, abs=0.02)
    assert kernel.body.bundles < kernel.bundles


@pytest.mark.compiled
def test_too_much_memory_is_told_by_the_tpu_compiler():
  compiled.report("v5e", sample_kernels.tpu_scratch, megabytes=1)
  with pytest.raises(testing.CompileError, match="exceed memory.*scratch"):
    compiled.report("v5e", sample_kernels.tpu_scratch, megabytes=1000)


@pytest.mark.compiled
def test_sharded_over_four_devices(tmp_path):
  found = testing.compile_for(
    "v5e",
    sample_kernels.sharded_product,
    mesh={"data": 2, "model": 2},
    keep=tmp_path,
  )
  assert found.memory.arguments == (512 * 256 + 256 * 256) * 4
  assert "all-reduce" in found.hlo or "reduce-scatter" in found.hlo
  assert tmp_path.joinpath("compiled.hlo.txt").read_text() == found.hlo
  with pytest.raises(testing.CompileError, match="larger topology"):
    testing.compile_for(
      "v5e", sample_kernels.sharded_product, mesh={"data": 4, "model": 4}
    )


@pytest.mark.compiled
@pytest.mark.parametrize("chip", ["H100", "H200"])
def test_a_mosaic_kernel(chip):
  kernel = compiled.report(chip, sample_kernels.hopper_product).gpu_kernel()
  assert (kernel.source, kernel.architecture) == ("mosaic", "sm_90a")
  assert kernel.variants["HGMMA.64x128x16.F32.BF16"] == 64 // 16
  assert kernel.instructions["UTMALDG"] == 2
  assert 32 <= kernel.registers <= 168
  assert kernel.spill_stores == kernel.spill_loads == 0
  assert kernel.shared_memory >= (64 * 64 + 64 * 128) * 2


@pytest.mark.compiled
def test_what_another_gpu_lacks_is_an_exception():
  compiled.report("B200", sample_kernels.hopper_store)
  with pytest.raises(testing.CompileError, match=r"SIGABRT(.|\n)*LLVM ERROR"):
    compiled.report("A100", sample_kernels.hopper_store)
  for chip in ("A100", "B200"):
    with pytest.raises(testing.CompileError, match=r"only supported|wgmma"):
      compiled.report(chip, sample_kernels.hopper_product)


@pytest.mark.compiled
@pytest.mark.parametrize(
  "chip, product, spills",
  [
    ("A100", "HMMA", True),
    ("H200", "HGMMA", False),
    ("RTX PRO 6000", "HMMA", 1),
  ],
)
def test_a_triton_kernel(chip, product, spills):
  kernel = compiled.report(chip, TRITON, width=64).gpu_kernel("mha_forward")
  assert kernel.source == "triton" and kernel.registers == 255
  assert kernel.architecture.startswith("sm_")
  assert kernel.instructions[product] and kernel.instructions["MUFU"]
  assert kernel.innermost.instructions[product] == kernel.instructions[product]
  assert kernel.innermost.length < sum(kernel.instructions.values())
  assert bool(kernel.spill_stores) == bool(spills)
  assert bool(kernel.instructions["STL"]) == bool(spills)
  assert kernel.shared_memory > 2**15


@pytest.mark.compiled
def test_kernels_of_xla_are_not_pallas_kernels():
  found = compiled.report("H200", TRITON, width=64, backward=True)
  sources = {kernel.name: kernel.source for kernel in found.kernels}
  assert sources["mha_backward"] == sources["mha_forward"] == "triton"
  assert "xla" in sources.values()
  assert not found.gpu_kernel("mha_backward").instructions["HGMMA"]
