"""Bytes of main memory that an instruction reads and writes.

As in XLA's own cost analysis: a slice reads what it gives, an update in place
writes what is new, and what a fusion keeps to itself costs nothing.  Unlike
there, arrays that the compiler placed in other memory than HBM don't count.
"""

from t5x_lite.ahead.hlo import Computation, Instruction, Program, Shape

# They move nothing: names for what is there, or control.
_FREE = frozenset(
  {
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "while",
    "call",
    "conditional",
    "after-all",
    "partition-id",
    "replica-id",
    "opt-barrier",
    "async-start",
    "async-update",
    "domain",
    "add-dependency",
  }
)
_SLICES = ("dynamic-slice", "slice", "gather")
_UPDATE = "dynamic-update-slice"
_RENAMES = ("bitcast", "get-tuple-element")
# Custom calls that name a place instead of making something.
_PLACES = ("AllocateBuffer", "ConcatBitcast", "AssumeGatherIndicesInBound")


def moved(
  program: Program, computation: Computation, one: Instruction
) -> float:
  """Bytes that the instruction itself moves to and from HBM."""
  code = one.opcode
  if code in _FREE or code.endswith(("-done", "-update")):
    return 0.0
  if code == "custom-call" and any(p in one.attributes for p in _PLACES):
    return 0.0
  if code == "fusion":
    return _of_fusion(program, computation, one)
  if code in _SLICES or code in ("slice-start", "dynamic-slice-start"):
    read = computation.shape_of(one.operands[0])
    written = one.shapes[-1] if code in _SLICES else _last_array(one)
    return _there(written) + written.size * _in_memory(read)
  if code == _UPDATE:
    return 2 * _size_of(computation, one.operands[1])
  if code == "copy-start":
    return _there(one.shapes[0]) + _size_of(computation, one.operands[0])
  reads = sum(_size_of(computation, name) for name in set(one.operands))
  return reads + sum(map(_there, one.shapes))


def _last_array(one: Instruction) -> Shape:
  """The result of an asynchronous slice, whose output is a tuple."""
  arrays = [shape for shape in one.shapes if shape.dims]
  return min(arrays, key=lambda shape: shape.size)


def _of_fusion(
  program: Program, computation: Computation, one: Instruction
) -> float:
  inside = program.computations[one.called[0]]
  total = 0.0
  for number, name in enumerate(one.operands):
    shape = computation.shape_of(name)
    if shape is None or not _in_memory(shape):
      continue
    parameter = inside.parameters.get(number)
    if parameter is not None:
      total += _read(program, inside, parameter, shape.size)
  root = inside.root
  if root.opcode == "tuple":
    parts = [inside.instructions[name] for name in root.operands]
  else:
    parts = [root]
  # The outputs stand in the order of the root's operands.
  for part, shape in zip(parts, one.shapes, strict=False):
    total += _written(program, inside, part, shape)
  return total


def _read(
  program: Program, inside: Computation, value: Instruction, whole: float
) -> float:
  """Bytes of a fusion's input that are read, of so many."""
  total = 0.0
  for user in inside.users.get(value.name, ()):
    if user.opcode in _SLICES and user.operands[0] == value.name:
      total += user.shapes[0].size
    elif user.opcode == _UPDATE and user.operands[0] == value.name:
      continue  # written in place
    elif user.opcode in _RENAMES:
      total += _read(program, inside, user, whole)
    elif user.opcode == "fusion":
      nested = program.computations[user.called[0]]
      for number, name in enumerate(user.operands):
        if name == value.name and number in nested.parameters:
          total += _read(program, nested, nested.parameters[number], whole)
    elif user.opcode == "tuple":
      continue  # handed on
    else:
      return whole
  return min(total, whole)


def _written(
  program: Program, inside: Computation, part: Instruction, shape: Shape
) -> float:
  while part.opcode in _RENAMES and part.operands:
    part = inside.instructions[part.operands[0]]
  if part.opcode == "parameter":
    return 0.0  # handed on
  if part.opcode == _UPDATE:
    new = inside.shape_of(part.operands[1])
    return new.size * _in_memory(shape) if new else 0.0
  if part.opcode == "fusion" and len(part.shapes) == 1:
    nested = program.computations[part.called[0]]
    return _written(program, nested, nested.root, shape)
  return _there(shape)


def _in_memory(shape: Shape | None) -> bool:
  return shape is not None and shape.space == 0


def _there(shape: Shape) -> float:
  return shape.size if shape.space == 0 else 0.0


def _size_of(computation: Computation, name: str) -> float:
  shape = computation.shape_of(name)
  return _there(shape) if shape else 0.0
