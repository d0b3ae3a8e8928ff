"""Machines that can be compiled for, by name: `v5e:16x16`, `H100:64`."""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

from pallas_kernels.testing import chips as compiled_chips
from pallas_kernels.testing import gpu, tpu
from t5x_lite import chips, errors

_COMPILERS: Mapping[str, Any] = {"tpu": tpu, "gpu": gpu}
_EXTRA = "pip install 't5x_lite[compile]'"
_GPUS = 256
# How libtpu calls it, and how many sides a slice has.
_TPUS = {
  "v4": ("v4", 3),
  "v5e": ("v5e", 2),
  "v5p": ("v5p", 3),
  "v6e": ("v6e", 2),
  "v7x": ("tpu7x", 3),
}
_EXAMPLES = "v5e:16x16, v5p:4x4x8 or H100:64"


@dataclasses.dataclass(frozen=True)
class Topology:
  """A number of chips and how they are joined.

  Attributes:
    name: as given, such as "v5e:16x16".
    chip: what it is made of.
    sides: chips along each side of a slice; for GPUs their number.
    num_slices: slices of a TPU that the data center's network joins.
  """

  name: str
  chip: chips.Chip
  sides: tuple[int, ...]
  num_slices: int = 1

  def __str__(self) -> str:
    many = f"{self.num_slices} x " if self.num_slices > 1 else ""
    return f"{many}{self.name}"

  @property
  def num_chips(self) -> int:
    """Of all slices."""
    return math.prod(self.sides) * self.num_slices

  def missing(self) -> str | None:
    """What to install before it can be compiled for; None if nothing."""
    found = _COMPILERS[self.chip.platform].missing(self._compiled_chip)
    return found and f"{found}, or {_EXTRA}"

  def environment(self) -> dict[str, str]:
    """Variables that must be set before jax is imported."""
    needed: dict[str, str] = _COMPILERS[self.chip.platform].needed()
    return {"JAX_PLATFORMS": "cpu", **needed}

  def devices(self) -> list[Any]:
    """jax's descriptions of the devices; for the process that compiles.

    Raises:
      ConfigError: the compiler knows no such slice.
    """
    from jax.experimental import topologies

    if self.chip.platform == "gpu":
      count = self.sides[0]
      hosts = max(1, count // self.chip.domain)
      shape = f"1x{hosts}x{count // hosts}"
      return list(gpu.topology(self._compiled_chip, shape).devices)
    name = f"{_TPUS[self.chip.name][0]}:{'x'.join(map(str, self.sides))}"
    options: dict[str, Any] = {}
    if self.num_slices > 1:
      options["num_slices"] = self.num_slices
    if self.chip.name == "v4":
      options["chip_config_name"] = "megacore"  # a device a chip, as in runs
    try:
      found = topologies.get_topology_desc(
        platform="tpu", topology_name=name, **options
      )
    except Exception as error:  # of several kinds, by version
      raise errors.ConfigError(
        f"libtpu knows no slice {self.name}: {str(error).splitlines()[0]};"
        " see cloud.google.com/tpu/docs for the shapes there are"
      ) from error
    return list(found.devices)

  @property
  def _compiled_chip(self) -> compiled_chips.Chip:
    return compiled_chips.chip_named(self.chip.name)


def named(name: str, num_slices: int = 1) -> Topology:
  """The topology of a name.

  Raises:
    ConfigError: there is none of this name.
  """
  kind, _, size = name.partition(":")
  by_lower = {known.lower(): known for known in chips.CHIPS}
  chip = chips.CHIPS.get(by_lower.get(kind.lower(), ""))
  if chip is None:
    raise errors.ConfigError(
      f"--topology {name!r}: there is no chip {kind!r} among"
      f" {', '.join(chips.CHIPS)} (write {_EXAMPLES})"
      f"{errors.suggest(kind, chips.CHIPS)}"
    )
  if num_slices < 1:
    raise errors.ConfigError(f"--num_slices is {num_slices}: use 1 or more")
  if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", size):
    raise errors.ConfigError(
      f"--topology {name!r} has no size: write it as in {_EXAMPLES}"
    )
  sides = tuple(int(n) for n in size.split("x"))
  if chip.platform == "gpu":
    _check_gpus(name, chip, sides, num_slices)
  elif len(sides) != _TPUS[chip.name][1]:
    dims = _TPUS[chip.name][1]
    raise errors.ConfigError(
      f"--topology {name!r}: a slice of {chip.name} has {dims} sides, as in"
      f" {chip.name}:{'x'.join(['4'] * dims)}"
    )
  return Topology(name, chip, sides, num_slices)


def _check_gpus(
  name: str, chip: chips.Chip, sides: tuple[int, ...], num_slices: int
) -> None:
  if len(sides) != 1 or sides[0] > _GPUS:
    raise errors.ConfigError(
      f"--topology {name!r}: GPUs have a number alone, 1 to {_GPUS}, as in"
      f" {chip.name}:64"
    )
  if sides[0] > chip.domain and sides[0] % chip.domain:
    raise errors.ConfigError(
      f"--topology {name!r}: hosts have {chip.domain} GPUs each, so use a"
      f" multiple of {chip.domain}"
    )
  if num_slices > 1:
    raise errors.ConfigError(
      f"--num_slices {num_slices} is for TPUs: give the number of GPUs, as in"
      f" {chip.name}:64"
    )
