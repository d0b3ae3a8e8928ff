"""Compiles for TPUs with libtpu, which needs no TPU to do so."""

import importlib.util
import pathlib
import re
from typing import Any

from pallas_kernels.testing import chips, llo, report

# libtpu asks the machine for these; without them it looks for a TPU host.
_NO_HOST = {
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_WORKER_HOSTNAMES": "localhost",
  "TPU_ACCELERATOR_TYPE": "v5litepod-16",
  # Else a second process on the machine aborts at a lock file.
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
# The last stage alone: all stages are hundreds of files and take seconds.
_DUMPED_STAGE = "final.*"

_TABLE = re.compile(r"(?P<stem>\d+-(?P<name>.+))-\d+-final_hlo-static.*\.txt")
_PALLAS_CALL = re.compile(
  r"%?([\w.-]+) = [^\n]*custom_call_target=\"tpu_custom_call\""
)


def missing(chip: chips.Chip) -> str | None:
  """Says what to install before `chip` can be compiled for."""
  if importlib.util.find_spec("libtpu") is None:
    return f"compiling for {chip.name} needs libtpu: pip install libtpu"
  return None


def needed() -> dict[str, str]:
  """Returns variables without which libtpu does not compile here."""
  return dict(_NO_HOST)


def environment(chip: chips.Chip, dumps: pathlib.Path) -> dict[str, str]:
  """Returns variables that must be set before jax is imported."""
  flags = (
    f"--xla_jf_dump_to={dumps} --xla_jf_dump_llo_text=true "
    f"--xla_jf_dump_llo_pass_label_regex={_DUMPED_STAGE}"
  )
  return {**_NO_HOST, "LIBTPU_INIT_ARGS": flags}


def topology(chip: chips.Chip, name: str) -> Any:
  """Returns jax's description of the machine called `name`."""
  from jax.experimental import topologies

  return topologies.get_topology_desc(platform="tpu", topology_name=name)


def kernels(
  chip: chips.Chip, dumps: pathlib.Path, hlo: str
) -> tuple[report.TpuKernel, ...]:
  """Reads the dumps of the Pallas kernels that the program `hlo` calls."""
  called = set(_PALLAS_CALL.findall(hlo))
  found = {}
  for path in sorted(dumps.iterdir()):
    table = _TABLE.fullmatch(path.name)
    if table is None or table["name"] not in called:
      continue
    (listing,) = dumps.glob(f"{table['stem']}-*-final_bundles.txt")
    found[table["name"]] = llo.kernel(
      table["name"],
      llo.slot_table(path.read_text()),
      llo.loop_spans(listing.read_text()),
      chip.flops_per_cycle,
    )
  return tuple(found.values())
