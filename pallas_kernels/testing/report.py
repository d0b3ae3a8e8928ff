"""What is known of a compiled function and of each of its kernels."""

import dataclasses
from collections.abc import Mapping
from typing import TypeVar


@dataclasses.dataclass(frozen=True)
class Memory:
  """Device memory of a compiled function, in bytes a device."""

  arguments: int
  outputs: int
  temporaries: int


@dataclasses.dataclass(frozen=True)
class Slot:
  """How much of one kind of VLIW slot a stretch of code uses.

  Attributes:
    count: slots filled.
    share: of those there are; 1 is a unit that never rests.
  """

  count: int
  share: float


@dataclasses.dataclass(frozen=True)
class Schedule:
  """VLIW bundles of a stretch of TPU code.

  Attributes:
    bundles: how many.  One takes one cycle if nothing stalls, so that a loop's
      are a lower bound on the cycles of one turn: waiting for copies and for
      the matrix units' results is not in it.
    slots: use by kind of slot, such as "MATMUL", "VALU", "EUP", "XLU".
  """

  bundles: int
  slots: Mapping[str, Slot]

  @property
  def spill_stores(self) -> int:
    """Vector registers stored for want of registers."""
    return self._count("VSTORE:SPILL")

  @property
  def spill_loads(self) -> int:
    """Vector registers loaded again."""
    return self._count("VLOAD:FILL")

  def _count(self, slot: str) -> int:
    return self.slots[slot].count if slot in self.slots else 0


@dataclasses.dataclass(frozen=True)
class Loop(Schedule):
  """A loop of a TPU kernel, with the loops inside it.

  Attributes:
    first: number of its first bundle.
    depth: 1 for the outermost, which is the loop over the grid if it has more
      than one step.
    innermost: whether no loop is inside it.
  """

  first: int
  depth: int
  innermost: bool


@dataclasses.dataclass(frozen=True)
class TpuKernel(Schedule):
  """A Pallas kernel compiled for a TPU; `bundles` and `slots` are of it all.

  Attributes:
    name: as the compiled program calls it.
    loops: in the order of their first bundles.
    flops_per_cycle: what the chip's core reaches at most, in bfloat16.
  """

  name: str
  loops: tuple[Loop, ...]
  flops_per_cycle: int

  @property
  def body(self) -> Schedule:
    """One step of the grid: the outermost loop, else the whole kernel.

    A grid of one step has no loop of its own.
    """
    outermost = [loop for loop in self.loops if loop.depth == 1]
    return max(outermost, key=lambda loop: loop.bundles, default=self)

  @property
  def innermost(self) -> Schedule:
    """The largest loop without a loop inside, else the whole kernel."""
    innermost = [loop for loop in self.loops if loop.innermost]
    return max(innermost, key=lambda loop: loop.bundles, default=self)

  def matrix_share(
    self, flops: float, schedule: Schedule | None = None
  ) -> float:
    """The share of the matrix units' peak that the schedule allows.

    It is `flops / (bundles * flops_per_cycle)`: an upper bound, since a bundle
    takes one cycle or more.

    Args:
      flops: of the matrix products in one pass over `schedule`.
      schedule: a loop that holds no other (the number of turns of an inner
        loop is not known here); None for the whole kernel.
    """
    bundles = (schedule or self).bundles
    return flops / (bundles * self.flops_per_cycle)


@dataclasses.dataclass(frozen=True)
class GpuLoop:
  """A loop of a GPU kernel: what stands from a branch's target to the branch.

  Attributes:
    first: address of its first instruction.
    instructions: by opcode without modifiers, inner loops included.
    innermost: whether no loop is inside it.
  """

  first: int
  instructions: Mapping[str, int]
  innermost: bool

  @property
  def length(self) -> int:
    """How many instructions it has."""
    return sum(self.instructions.values())


@dataclasses.dataclass(frozen=True)
class GpuKernel:
  """A kernel compiled for a GPU.

  Attributes:
    name: of its entry function; of a Mosaic kernel, its name and a number.
    source: "mosaic", "triton", or "xla" for what XLA generated itself.
    architecture: such as "sm_90a".
    registers: a thread.
    spill_stores: bytes a thread stores for want of registers.
    spill_loads: bytes a thread loads again.
    stack: bytes a thread.
    shared_memory: bytes a block, static and dynamic; None where unknown.
    instructions: SASS instructions by opcode without modifiers ("HGMMA",
      "MUFU"), as they stand in the code: loops count once.
    variants: the same with the modifiers ("HGMMA.64x128x16.F32.BF16").
    loops: by address; waiting for a barrier is a loop too, a short one.
    warnings: what ptxas says of the code's speed.
  """

  name: str
  source: str
  architecture: str
  registers: int
  spill_stores: int
  spill_loads: int
  stack: int
  shared_memory: int | None
  instructions: Mapping[str, int]
  variants: Mapping[str, int]
  loops: tuple[GpuLoop, ...]
  warnings: tuple[str, ...]

  @property
  def innermost(self) -> GpuLoop | None:
    """The longest loop without a loop inside, None where there is none."""
    innermost = [loop for loop in self.loops if loop.innermost]
    return max(innermost, key=lambda loop: loop.length, default=None)


@dataclasses.dataclass(frozen=True)
class Report:
  """What `compile_for` found.

  Attributes:
    chip: its name.
    memory: of the whole function.
    flops: of the whole function on one device, by XLA's count and the kernels'
      `cost_estimate`; None where the compiler does not say (GPUs).
    bytes_accessed: main memory traffic, counted likewise.
    kernels: on TPUs those of Pallas, on GPUs XLA's too, each once.
    hlo: the compiled program as text, to look for collectives or copies.
  """

  chip: str
  memory: Memory
  flops: float | None
  bytes_accessed: float | None
  kernels: tuple[TpuKernel | GpuKernel, ...]
  hlo: str = dataclasses.field(repr=False)

  def tpu_kernel(self, name: str = "") -> TpuKernel:
    """Returns the one TPU kernel whose name contains `name`.

    Raises:
      LookupError: there is none, or more than one.
    """
    return _only(name, [k for k in self.kernels if isinstance(k, TpuKernel)])

  def gpu_kernel(self, name: str = "") -> GpuKernel:
    """Returns the one GPU kernel of Pallas whose name contains `name`.

    Raises:
      LookupError: there is none, or more than one.
    """
    found = [k for k in self.kernels if isinstance(k, GpuKernel)]
    return _only(name, [k for k in found if k.source != "xla"])


_Kernel = TypeVar("_Kernel", TpuKernel, GpuKernel)


def _only(name: str, kernels: list[_Kernel]) -> _Kernel:
  found = [kernel for kernel in kernels if name in kernel.name]
  if len(found) != 1:
    names = [kernel.name for kernel in kernels]
    raise LookupError(f"{len(found)} of {names} have {name!r} in their name")
  return found[0]
