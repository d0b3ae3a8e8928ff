"""Which tensors of another library hold our parameters, and in what layout.

A family says for each parameter of ours where it lies among theirs, as a
`Counterpart`; everything else, in both directions, follows from that table.
Ours are stacked over the layers and have heads as dimensions of their own;
theirs have a tensor for each layer, matrices [out, in] or [in, out].

  ours, 4 layers                    theirs
  ....query.kernel [L D N H]        encoder.block.3.layer.0.SelfAttention
                                      .q.weight [N*H, D]
  ....key.kernel [L D N H]          h.3.attn.c_attn.weight [D, 3*N*H], the
                                      second third of its columns
"""

import collections
import dataclasses
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from t5x_lite import compat, errors

Path = tuple[str, ...]
_LAYER = "{layer}"


@dataclasses.dataclass(frozen=True)
class Counterpart:
  """Where one parameter lies; made by `same`, `vector`, `linear`, ...

  Attributes:
    name: of their tensor, with "{layer}" if ours is stacked.
    layout: the function that made it.
    inputs: number of leading dimensions of ours that are the input.
    start: the first of their outputs that is ours.
    of: number of their outputs; None if all are ours.
  """

  name: str
  layout: str
  inputs: int = 0
  start: int = 0
  of: int | None = None


def same(name: str) -> Counterpart:
  """Their tensor has our shape: embeddings, norms, tables."""
  return Counterpart(name, "same")


def vector(name: str, *, start: int = 0, of: int | None = None) -> Counterpart:
  """Ours is flattened: biases, [N H] -> [N*H]."""
  return Counterpart(name, "vector", 0, start, of)


def linear(
  name: str, *, inputs: int = 1, start: int = 0, of: int | None = None
) -> Counterpart:
  """A matrix [out, in], as PyTorch's Linear has it."""
  return Counterpart(name, "linear", inputs, start, of)


def conv1d(
  name: str, *, inputs: int = 1, start: int = 0, of: int | None = None
) -> Counterpart:
  """A matrix [in, out], as GPT-2's Conv1D has it."""
  return Counterpart(name, "conv1d", inputs, start, of)


def depthwise(
  name: str, *, start: int = 0, of: int | None = None
) -> Counterpart:
  """Taps [channels, 1, taps] of a convolution by channel; ours lead."""
  return Counterpart(name, "depthwise", 1, start, of)


def _nothing(model: Any) -> dict[str, Any]:
  return {}


def _itself(name: str) -> str:
  return name


@dataclasses.dataclass(frozen=True)
class Names:
  """What tensors a model is, in the names of another library.

  Attributes:
    counterpart: (model, path) -> the place of a parameter; None if there is
      none.
    tied: (model) -> {copy: original}.  A copy may be absent, else it must
      equal its original.
    copied: (model) -> those copies that are written all the same.
    constants: (model) -> {name: array} of what theirs has and ours is without
      by its wiring.  It may be absent, else it must equal the array.
    ignored: {regular expression of a name: why nobody needs the tensor}.
    rename: from a name in a file to the one that the others here use.
    remedy: what to do where tied tensors differ.
  """

  counterpart: Callable[[Any, Path], Counterpart | None]
  tied: Callable[[Any], Mapping[str, str]] = _nothing
  copied: Callable[[Any], Collection[str]] = _nothing
  constants: Callable[[Any], Mapping[str, np.ndarray]] = _nothing
  ignored: Mapping[str, str] = dataclasses.field(default_factory=dict)
  rename: Callable[[str], str] = _itself
  remedy: str = ""


@dataclasses.dataclass(frozen=True)
class Parameter:
  """A parameter of ours with its counterpart.

  Attributes:
    path: attribute names in our model.
    shape: of one layer.
    dtype: of ours.
    layers: how many are stacked; None if it is not in a stack.
    counterpart: its place among theirs.
  """

  path: Path
  shape: tuple[int, ...]
  dtype: Any
  layers: int | None
  counterpart: Counterpart

  @property
  def inputs(self) -> int:
    return math.prod(self.shape[: self.counterpart.inputs])

  @property
  def outputs(self) -> int:
    return math.prod(self.shape[self.counterpart.inputs :])

  @property
  def their_shape(self) -> tuple[int, ...]:
    total = self.counterpart.of or self.outputs
    return {
      "same": self.shape,
      "vector": (total,),
      "linear": (total, self.inputs),
      "conv1d": (self.inputs, total),
      "depthwise": (total, 1, self.inputs),
    }[self.counterpart.layout]

  def numbers(self) -> range | tuple[None]:
    """Numbers of its layers; (None,) if it is not stacked."""
    return (None,) if self.layers is None else range(self.layers)

  def name(self, layer: int | None) -> str:
    """Their name of a layer's tensor."""
    return self.counterpart.name.format(layer=layer)

  def place(self, tensor: np.ndarray) -> np.ndarray:
    """The part of theirs that is ours, [in, out] if it is a matrix."""
    found = self.counterpart
    part = slice(found.start, found.start + self.outputs)
    if found.layout == "same":
      return tensor
    if found.layout == "linear":
      return tensor[part].T
    if found.layout == "depthwise":
      return tensor[part, 0].T
    return tensor[..., part]

  def to_ours(self, tensor: np.ndarray) -> np.ndarray:
    """One layer of ours, of their tensor."""
    return self.place(tensor).reshape(self.shape)

  def to_theirs(self, layer: np.ndarray) -> np.ndarray:
    """Their tensor, of one layer of ours that is all of it."""
    found = self.counterpart
    if found.layout == "linear":
      return layer.reshape(self.inputs, self.outputs).T
    if found.layout == "depthwise":
      return layer.reshape(self.inputs, self.outputs).T[:, None]
    return layer.reshape(self.their_shape)

  def put(self, layer: np.ndarray, tensor: np.ndarray) -> None:
    """Writes one layer of ours into their tensor."""
    place = self.place(tensor)
    place[...] = layer.reshape(place.shape)


@dataclasses.dataclass(frozen=True)
class Tensor:
  """One tensor of theirs, with the layers of our parameters in it."""

  name: str
  shape: tuple[int, ...]
  parts: tuple[tuple[Parameter, int | None], ...]


class Table:
  """All parameters of a model with all tensors of theirs.

  Args:
    model: of arrays or of shapes (`jax.eval_shape`).
    names: of the other library.
    library: how to call it in messages, such as "T5 of transformers".

  Attributes:
    parameters: in the order of the model's leaves.
    tensors: by name; the layers of a parameter follow each other, and what is
      fused into one tensor stands together.
    tied, copied, constants: as in `Names`.

  Raises:
    ConfigError: a parameter has no counterpart.
  """

  def __init__(self, model: Any, names: Names, library: str):
    self.names, self.library = names, library
    self.parameters = tuple(_parameters(model, names, library))
    self.tied = dict(names.tied(model))
    self.copied = tuple(names.copied(model))
    self.constants = dict(names.constants(model))
    parts: dict[str, list[tuple[Parameter, int | None]]] = (
      collections.defaultdict(list)
    )
    for parameter in self.parameters:
      for layer in parameter.numbers():
        parts[parameter.name(layer)].append((parameter, layer))
    self.tensors = {
      name: Tensor(name, _shape(name, found), tuple(found))
      for name, found in parts.items()
    }


def variables(model: Any) -> Iterator[tuple[Path, Any]]:
  """Paths and Flax variables of a model's parameters."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(
    model, is_leaf=compat.is_variable
  )
  for path, variable in leaves:
    yield tuple(key.name for key in path), variable


def _parameters(model: Any, names: Names, library: str) -> Iterator[Parameter]:
  for path, variable in variables(model):
    found = names.counterpart(model, path)
    if found is None:
      raise errors.ConfigError(
        f"{'.'.join(path)} has no counterpart in the {library}"
      )
    shape, axes = tuple(variable.shape), compat.axes_of(variable)
    stacked = len(shape) > len(axes)
    if stacked != (_LAYER in found.name):
      raise ValueError(f"{path} is{'' if stacked else ' not'} stacked: {found}")
    yield Parameter(
      path=path,
      shape=shape[len(shape) - len(axes) :],
      dtype=variable.dtype,
      layers=shape[0] if stacked else None,
      counterpart=found,
    )


def _shape(
  name: str, parts: list[tuple[Parameter, int | None]]
) -> tuple[int, ...]:
  """The shape that all parts agree on, which they fill without overlap."""
  shapes = {parameter.their_shape for parameter, _ in parts}
  spans = sorted((p.counterpart.start, p.outputs) for p, _ in parts)
  ends = [0, *(start + size for start, size in spans)]
  first = parts[0][0]
  total = first.counterpart.of or first.outputs
  starts = [start for start, _ in spans]
  if len(shapes) > 1 or ends != [*starts, total]:
    raise ValueError(f"{name} is not filled by its parts: {spans} of {shapes}")
  return shapes.pop()
