"""Compiles for NVIDIA GPUs with jax's CUDA plugin, which needs no GPU.

The tools that read the code are NVIDIA's, from wheels that hold little else.
"""

import dataclasses
import importlib
import importlib.util
import os
import pathlib
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

from pallas_kernels.testing import chips, report, sass, target_configs

_PLUGINS = ("xla_cuda13", "xla_cuda12")
_TOOLS = {
  "ptxas": "nvidia-cuda-nvcc",
  "cuobjdump": "nvidia-cuda-cuobjdump",
  "nvdisasm": "nvidia-cuda-nvdisasm",
}

_TARGET = re.compile(r"^\.target (\w+)", re.M)
# "001: kCustomKernel [...] name grid: [...] ... shared_memory: 81920 bytes"
_LAUNCH = re.compile(
  r"\] (?P<name>\S+) grid: .*shared_memory: (?P<bytes>\d+) bytes"
)
_TRITON_CALL = re.compile(r'__gpu\$xla\.gpu\.triton"[^\n]* name = "([^"]+)"')
_MOSAIC_SHARED = re.compile(r"smem_scratch_bytes=(\d+)")


def missing(chip: chips.Chip) -> str | None:
  """Says what to install before `chip` can be compiled for."""
  plugin = _plugin()
  wanted = [] if plugin else ["jax-cuda13-plugin", "jax-cuda13-pjrt"]
  path = os.pathsep.join(_search_path())
  for tool, wheel in _TOOLS.items():
    if shutil.which(tool, path=path) is None:
      wanted.append(wheel)
  for wheel, pattern in (
    ("nvidia-nvvm", "nvvm/libdevice/*.bc"),
    ("nvidia-nvjitlink", "lib/libnvJitLink.so*"),
  ):
    if not any(any(f.glob(pattern)) for f in _cuda_folders()):
      wanted.append(wheel)
  if wanted:
    names = " ".join(wanted)
    return f"compiling for {chip.name} needs: pip install --no-deps {names}"
  if plugin and chip.device not in target_configs.read(plugin):
    return (
      f"{plugin.name} does not describe {chip.device!r}: take the plugin of "
      "jax 0.12"
    )
  return None


def needed() -> dict[str, str]:
  """Returns variables by which the plugin finds its tools."""
  return {"PATH": os.pathsep.join(_search_path())}


def environment(chip: chips.Chip, dumps: pathlib.Path) -> dict[str, str]:
  """Returns variables that must be set before jax is imported."""
  _mosaic(dumps).mkdir()  # Mosaic does not make it
  return {
    **needed(),
    "XLA_FLAGS": f"--xla_dump_to={dumps} --xla_dump_emitter_re=ptx",
    "MOSAIC_GPU_DUMP_PTX": "1",
    "MOSAIC_GPU_DUMP_RESOURCES": "1",
    "MOSAIC_GPU_DUMP_TO": str(_mosaic(dumps)),
  }


def topology(chip: chips.Chip, name: str) -> Any:
  """Returns jax's description of the machine called `name`."""
  from jax.experimental import topologies

  plugin = _plugin()
  assert plugin is not None, "missing() was not asked"
  _lower_mosaic_for(chip.capability)
  return topologies.get_topology_desc(
    "",
    platform="cuda",
    target_config=target_configs.read(plugin)[chip.device],
    topology=name,
  )


def kernels(
  chip: chips.Chip, dumps: pathlib.Path, hlo: str
) -> tuple[report.GpuKernel, ...]:
  """Assembles the PTX among the dumps and reads the code."""
  found = []
  for ptx, resources in _mosaic_dumps(_mosaic(dumps)):
    dynamic = _MOSAIC_SHARED.search(resources.read_text())
    # Without `--compile-only` ptxas would do what jax does not let it do:
    # divide registers among warpgroups (setmaxnreg).
    for kernel in _assembled(ptx, "mosaic", "--compile-only"):
      shared = (kernel.shared_memory or 0) + int(dynamic[1] if dynamic else 0)
      # Its file's name has a number: the entries may all be called alike.
      found.append(
        dataclasses.replace(kernel, name=ptx.stem, shared_memory=shared)
      )
  launches = {
    launch["name"]: int(launch["bytes"])
    for path in dumps.glob("*.thunk_sequence.txt")
    for launch in _LAUNCH.finditer(path.read_text())
  }
  triton = set(_TRITON_CALL.findall(hlo))
  for ptx in sorted(dumps.glob("*.ptx")):
    for kernel in _assembled(ptx, "xla"):
      source = "triton" if kernel.name in triton else "xla"
      shared_memory = launches.get(kernel.name)
      found.append(
        dataclasses.replace(kernel, source=source, shared_memory=shared_memory)
      )
  return tuple(found)


def _mosaic_dumps(
  folder: pathlib.Path,
) -> Iterator[tuple[pathlib.Path, pathlib.Path]]:
  """Code and resources of each kernel.

  Files are named NAME_0.ptx and NAME_3.resources.txt, by counters of their own:
  of one name, they belong together in their order.
  """

  def in_order(pattern: str) -> dict[str, list[pathlib.Path]]:
    by_name: dict[str, list[tuple[int, pathlib.Path]]] = {}
    for path in folder.glob(pattern):
      name, _, number = path.name.partition(".")[0].rpartition("_")
      by_name.setdefault(name, []).append((int(number), path))
    return {k: [path for _, path in sorted(v)] for k, v in by_name.items()}

  resources = in_order("*.resources.txt")
  for name, files in sorted(in_order("*.ptx").items()):
    yield from zip(files, resources[name], strict=True)


def _assembled(
  ptx: pathlib.Path, source: str, *flags: str
) -> list[report.GpuKernel]:
  """Returns the kernels of one file, with their static shared memory."""
  text = ptx.read_text()
  target = _TARGET.search(text)
  assert target is not None, f"{ptx.name} names no target"
  code = ptx.with_suffix(".cubin")
  told = _tool(
    "ptxas", "--verbose", f"--gpu-name={target[1]}", *flags,
    f"--output-file={code}", str(ptx),
  )  # fmt: skip
  listings = sass.listings(_tool("cuobjdump", "-sass", str(code)))
  return [
    report.GpuKernel(
      name=name,
      source=source,
      architecture=found.architecture,
      registers=found.registers,
      spill_stores=found.spill_stores,
      spill_loads=found.spill_loads,
      stack=found.stack,
      shared_memory=found.static_shared_memory,
      instructions=sass.opcodes(listings[name]),
      variants=sass.variants(listings[name]),
      loops=sass.loops(listings[name]),
      warnings=found.warnings,
    )
    for name, found in sass.resources(told).items()
  ]


def _tool(name: str, *arguments: str) -> str:
  path = os.pathsep.join(_search_path())
  found = shutil.which(name, path=path)
  assert found is not None, "missing() was not asked"
  done = subprocess.run(
    [found, *arguments],
    env={**os.environ, "PATH": path},
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )
  if done.returncode:
    raise RuntimeError(f"{name}: {done.stdout}")
  return done.stdout


def _mosaic(dumps: pathlib.Path) -> pathlib.Path:
  return dumps / "mosaic"


def _lower_mosaic_for(capability: tuple[int, int]) -> None:
  """Tells Mosaic the architecture.

  It asks the default device, which is the CPU here, and then takes Hopper's.
  """
  for module in ("utils", "core"):  # core: jax 0.10
    name = f"jax.experimental.mosaic.gpu.{module}"
    try:
      owner = importlib.import_module(name)
    except ImportError:
      return  # a jaxlib without Mosaic GPU
    if hasattr(owner, "_infer_arch"):
      owner._infer_arch = lambda: capability  # type: ignore[attr-defined]


def _plugin() -> pathlib.Path | None:
  """The shared object of the CUDA plugin."""
  spec = importlib.util.find_spec("jax_plugins")
  for folder in (spec and spec.submodule_search_locations) or ():
    for plugin in _PLUGINS:
      library = pathlib.Path(folder) / plugin / "xla_cuda_plugin.so"
      if library.exists():
        return library
  return None


def _cuda_folders() -> list[pathlib.Path]:
  """The folders of NVIDIA's wheels: one for all of CUDA 13, else many."""
  spec = importlib.util.find_spec("nvidia")
  places = (spec and spec.submodule_search_locations) or ()
  return sorted(f for place in places for f in pathlib.Path(place).iterdir())


def _search_path() -> list[str]:
  """The wheels' tools before the system's, which may be older."""
  wheels = [str(folder / "bin") for folder in _cuda_folders()]
  return [*wheels, *os.environ.get("PATH", "").split(os.pathsep)]
