"""Reads the text of a compiled program: computations of instructions.

The text is what `jax.stages.Compiled.as_text` gives.  Only what reckoning
needs is read: shapes, operands, attributes as text.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Mapping

_BYTES = {
  "pred": 1.0,
  "s4": 0.5,
  "u4": 0.5,
  "s8": 1.0,
  "u8": 1.0,
  "s16": 2.0,
  "u16": 2.0,
  "bf16": 2.0,
  "f16": 2.0,
  "s32": 4.0,
  "u32": 4.0,
  "f32": 4.0,
  "s64": 8.0,
  "u64": 8.0,
  "f64": 8.0,
  "c64": 8.0,
  "c128": 16.0,
}
_SHAPE = re.compile(r"\b([a-z]\w*)\[([\d,]*)\](?:\{([^}]*)\})?")
_SPACE = re.compile(r"S\((\d+)\)")
_COMMENT = re.compile(r"/\*.*?\*/")
_HEAD = re.compile(r"^(ENTRY )?%?([\w.$-]+) (?:\(.*)?->.*\{$")
_NAME = re.compile(r"^\s+(ROOT )?%?([\w.$-]+) = ")
_OPERAND = re.compile(r"%([\w.$-]+)")
_CALLED = re.compile(
  r"\b(?:calls|body|condition|to_apply|called_computations|branch_computations"
  r"|true_computation|false_computation)=(\{[^}]*\}|%[\w.$-]+)"
)
_TRIPS = re.compile(r'known_trip_count"?:\{"?n"?:"?(\d+)')


@dataclasses.dataclass(frozen=True)
class Shape:
  """An array; `space` 0 is the device's main memory (HBM)."""

  dtype: str
  dims: tuple[int, ...]
  space: int = 0

  @property
  def size(self) -> float:
    """Bytes, without the padding of tiles."""
    width = 1.0 if self.dtype.startswith("f8") else _BYTES.get(self.dtype, 0.0)
    return math.prod(self.dims) * width


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One line of a computation.

  Attributes:
    name: unique in the program.
    opcode: such as "fusion".
    shapes: of the output; several if it is a tuple.
    operands: names of instructions of the same computation.
    literal: what stands between the parentheses.
    attributes: what follows them, as text.
    is_root: whether it is the computation's result.
  """

  name: str
  opcode: str
  shapes: tuple[Shape, ...]
  operands: tuple[str, ...]
  literal: str
  attributes: str
  is_root: bool

  @functools.cached_property
  def called(self) -> tuple[str, ...]:
    """Names of the computations that it calls."""
    found = _CALLED.findall(self.attributes)
    return tuple(n for one in found for n in _OPERAND.findall(one))

  def attribute(self, pattern: str) -> str | None:
    """The first group of a pattern, searched for in the attributes."""
    found = re.search(pattern, self.attributes)
    return found and found[1]


@dataclasses.dataclass(frozen=True)
class Computation:
  """Instructions by name, in their order."""

  name: str
  instructions: Mapping[str, Instruction]

  @functools.cached_property
  def users(self) -> Mapping[str, tuple[Instruction, ...]]:
    """Who reads an instruction."""
    found: dict[str, list[Instruction]] = {}
    for one in self.instructions.values():
      for name in dict.fromkeys(one.operands):
        found.setdefault(name, []).append(one)
    return {name: tuple(users) for name, users in found.items()}

  @functools.cached_property
  def parameters(self) -> Mapping[int, Instruction]:
    """By their number."""
    return {
      int(one.literal): one
      for one in self.instructions.values()
      if one.opcode == "parameter"
    }

  @functools.cached_property
  def root(self) -> Instruction:
    """The result."""
    return next(x for x in self.instructions.values() if x.is_root)

  def shape_of(self, name: str) -> Shape | None:
    """Of an operand that is one array."""
    found = self.instructions.get(name)
    return found.shapes[0] if found and len(found.shapes) == 1 else None


@dataclasses.dataclass(frozen=True)
class Program:
  """All computations, and the name of the one that is the program."""

  computations: Mapping[str, Computation]
  entry: str

  def trips(self, loop: Instruction) -> int | None:
    """How often the body of a `while` runs; None if that is not known.

    Stated by the compiler, or read off a condition that compares a counter
    from zero, as `jax.lax.scan` makes it, with a constant.
    """
    stated = _TRIPS.search(loop.attributes)
    if stated:
      return int(stated[1])
    name = loop.attribute(r"\bcondition=%?([\w.$-]+)")
    condition = self.computations[name] if name else None
    if condition is None or not self._compares(condition):
      return None
    limits = self._integers(condition)
    return limits[0] if len(limits) == 1 else None

  def _compares(self, condition: Computation) -> bool:
    root = condition.root
    if root.opcode == "fusion" and root.called:
      root = self.computations[root.called[0]].root
    return root.opcode == "compare" and "direction=LT" in root.attributes

  def _integers(self, computation: Computation) -> list[int]:
    found = []
    for one in computation.instructions.values():
      if one.opcode == "constant" and one.literal.isdigit():
        found.append(int(one.literal))
      for name in one.called:
        found += self._integers(self.computations[name])
    return found


def read(text: str) -> Program:
  """Reads a program."""
  computations: dict[str, Computation] = {}
  entry, name = "", ""
  instructions: dict[str, Instruction] = {}
  for line in text.splitlines():
    if not line.startswith((" ", "}")):
      head = _HEAD.match(line)
      if head:
        name, instructions = head[2], {}
        entry = name if head[1] else entry
    elif line.startswith("}"):
      computations[name] = Computation(name, instructions)
    elif (begin := _NAME.match(line)) is not None:
      one = _instruction(line, begin)
      instructions[one.name] = one
  if not entry:
    raise ValueError("the text holds no ENTRY computation")
  return Program(computations, entry)


def _instruction(line: str, begin: re.Match[str]) -> Instruction:
  rest = line[begin.end() :]
  if "/*" in rest:
    rest = _COMMENT.sub("", rest)
  if rest.startswith("("):
    end = _closing(rest, 0) + 1
  else:
    end = rest.index(" ")
  kind, rest = rest[:end], rest[end + 1 :]
  open_ = rest.index("(")
  close = _closing(rest, open_)
  inside = rest[open_ + 1 : close]
  return Instruction(
    name=begin[2],
    opcode=rest[:open_],
    shapes=tuple(_shapes(kind)),
    operands=tuple(_OPERAND.findall(inside)),
    literal=inside,
    attributes=rest[close + 1 :],
    is_root=bool(begin[1]),
  )


def _shapes(kind: str) -> list[Shape]:
  found = []
  for dtype, dims, layout in _SHAPE.findall(kind):
    space = _SPACE.search(layout)
    sizes = tuple(int(n) for n in dims.split(",") if n)
    found.append(Shape(dtype, sizes, int(space[1]) if space else 0))
  return found


def _closing(text: str, start: int) -> int:
  """Place of the parenthesis that closes the one at `start`."""
  depth = 0
  for place in range(start, len(text)):
    if text[place] == "(":
      depth += 1
    elif text[place] == ")":
      depth -= 1
      if not depth:
        return place
  raise ValueError(f"no end of the parenthesis in {text[:80]!r}")
