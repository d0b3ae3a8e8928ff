"""Weights between our T5 models and state dicts of `transformers`.

A state dict maps names to arrays: of NumPy, of JAX, or tensors of PyTorch,
which is not imported here.  Theirs has a matrix [out, in] for each layer; ours
is [layers, in, out], with heads as dimensions of their own.

  theirs                                                ours
  shared.weight                                         embedding.tokens
  encoder.block.3.layer.0.SelfAttention.q.weight        encoder.layers.attention
                                                          .sublayer.query.kernel
  encoder.block.3.layer.1.DenseReluDense.wi_0.weight    encoder.layers
                                                          .feed_forward.sublayer
                                                          .gate.kernel
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite import compat, errors

StateDict = Mapping[str, Any]

_SUBLAYERS = {
  "attention": "SelfAttention",
  "cross_attention": "EncDecAttention",
  "feed_forward": "DenseReluDense",
}
_KERNELS = {"query": "q", "key": "k", "value": "v", "out": "o", "wo": "wo"}
_BIAS = "relative_attention_bias.weight"
_SHARED = "shared.weight"
_HEAD = "lm_head.weight"
_COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
# Published T5 1.0 weights hold it, and no implementation reads it.
_IGNORED = f"decoder.block.0.layer.1.EncDecAttention.{_BIAS}"
_SHOWN = 5  # names of each kind in an error


@dataclasses.dataclass(frozen=True)
class _Parameter:
  """A parameter of ours and its counterparts.

  Attributes:
    path: attribute names in our model.
    names: of theirs, one for each layer if `stacked`, else one.
    shape: of one layer of ours.
    inputs: number of leading dimensions that are theirs' input; 0 if the
      layouts are the same.
  """

  path: tuple[str, ...]
  names: tuple[str, ...]
  shape: tuple[int, ...]
  stacked: bool
  inputs: int

  @property
  def their_shape(self) -> tuple[int, ...]:
    if not self.inputs:
      return self.shape
    size = math.prod(self.shape[: self.inputs])
    return math.prod(self.shape) // size, size

  def to_ours(self, arrays: list[np.ndarray]) -> np.ndarray:
    """Ours of theirs, all layers."""
    if self.inputs:
      arrays = [array.T.reshape(self.shape) for array in arrays]
    return np.stack(arrays) if self.stacked else arrays[0]

  def to_theirs(self, array: np.ndarray) -> list[np.ndarray]:
    """Theirs of ours, a list over layers."""
    layers = list(array) if self.stacked else [array]
    if self.inputs:
      size = self.their_shape[1]
      layers = [layer.reshape(size, -1).T for layer in layers]
    return [np.ascontiguousarray(layer) for layer in layers]


def from_state_dict(model: Any, state_dict: StateDict) -> Any:
  """The model with the weights of a state dict, in the model's dtypes.

  Args:
    model: an EncoderDecoder wired as a T5; arrays or, to spend no memory on
      them, shapes (of `jax.eval_shape`, or `Trainer.abstract` for shardings).
    state_dict: what `T5ForConditionalGeneration.state_dict()` gives.

  Returns:
    A model of jax.Arrays, with the shardings of `model` if it has any.

  Raises:
    CheckpointError: unless every tensor is used and every parameter is found
      in its shape; names those that are not.
  """
  parameters = list(_parameters(model))
  _check(parameters, state_dict, tied=getattr(model, "head", None) is None)
  values = {
    parameter.path: parameter.to_ours(
      [_numpy(state_dict[name]) for name in parameter.names]
    )
    for parameter in parameters
  }

  def fill(path: Any, variable: Any) -> Any:
    (old,) = jax.tree.leaves(variable)
    value = values.pop(_names(path)).astype(old.dtype)
    sharding = getattr(old, "sharding", None)
    placed = jax.device_put(value, sharding) if sharding else jnp.asarray(value)
    return variable.replace(placed)

  return jax.tree_util.tree_map_with_path(
    fill, model, is_leaf=compat.is_variable
  )


def to_state_dict(model: Any) -> dict[str, np.ndarray]:
  """The state dict that `T5ForConditionalGeneration.load_state_dict` takes.

  Args:
    model: an EncoderDecoder wired as a T5, or its gradients.

  Raises:
    ConfigError: a parameter that T5 does not have.
  """
  result: dict[str, np.ndarray] = {}
  variables = dict(_variables(model))
  for parameter in _parameters(model):
    (array,) = jax.tree.leaves(variables[parameter.path])
    arrays = parameter.to_theirs(np.asarray(array))
    result |= dict(zip(parameter.names, arrays, strict=True))
  result |= dict.fromkeys(_COPIES, result[_SHARED])
  result.setdefault(_HEAD, result[_SHARED])
  return result


def _names(path: Any) -> tuple[str, ...]:
  return tuple(key.name for key in path)


def _variables(model: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
  leaves, _ = jax.tree_util.tree_flatten_with_path(
    model, is_leaf=compat.is_variable
  )
  for path, variable in leaves:
    yield _names(path), variable


def _parameters(model: Any) -> Iterator[_Parameter]:
  """Every parameter of the model with its counterparts."""
  for path, variable in _variables(model):
    shape, axes = tuple(variable.shape), compat.axes_of(variable)
    stacked = len(shape) > len(axes)
    template, inputs = _counterpart(model, path)
    layers = range(shape[0]) if stacked else range(1)
    yield _Parameter(
      path=path,
      names=tuple(template.format(layer=layer) for layer in layers),
      shape=shape[len(shape) - len(axes) :],
      stacked=stacked,
      inputs=inputs,
    )


def _counterpart(model: Any, path: tuple[str, ...]) -> tuple[str, int]:
  """Their name of a parameter, with "{layer}", and `_Parameter.inputs`."""
  match path:
    case ("embedding", "tokens"):
      return _SHARED, 0
    case ("head", "kernel"):
      return _HEAD, 1
    case (("encoder" | "decoder") as side, "final_norm", "scale"):
      return f"{side}.final_layer_norm.weight", 0
    case (("encoder" | "decoder") as side, "bias", "table"):
      return f"{side}.block.0.layer.0.SelfAttention.{_BIAS}", 0
    case (("encoder" | "decoder") as side, "layers", name, *rest):
      block = getattr(model, side).layers
      index = block.names.index(name)
      prefix = f"{side}.block.{{layer}}.layer.{index}."
      if rest == ["norm", "scale"]:
        return f"{prefix}layer_norm.weight", 0
      if name in _SUBLAYERS and rest[0] == "sublayer":
        sublayer = getattr(block, name).sublayer
        found = _of_sublayer(sublayer, tuple(rest[1:]))
        if found is not None:
          return f"{prefix}{_SUBLAYERS[name]}.{found[0]}", found[1]
  raise errors.ConfigError(
    f"{'.'.join(path)} has no counterpart in the T5 of transformers: only T5"
    " models can be converted"
  )


def _of_sublayer(
  sublayer: Any, path: tuple[str, ...]
) -> tuple[str, int] | None:
  if path == ("bias", "table"):
    return _BIAS, 0
  kernels = dict(_KERNELS, wi="wi")
  if hasattr(sublayer, "gate"):
    kernels |= {"gate": "wi_0", "wi": "wi_1"}
  if len(path) == 2 and path[0] in kernels and path[1] == "kernel":
    return f"{kernels[path[0]]}.weight", 2 if path[0] == "out" else 1
  return None


def _check(
  parameters: list[_Parameter], state_dict: StateDict, tied: bool
) -> None:
  wanted = {name: p for p in parameters for name in p.names}
  copies = {*_COPIES, _HEAD} if tied else {*_COPIES}
  missing = [name for name in wanted if name not in state_dict]
  shapes = [
    f"{name} is {tuple(state_dict[name].shape)}, not {p.their_shape}, for"
    f" {'.'.join(p.path)}"
    for name, p in wanted.items()
    if name in state_dict and tuple(state_dict[name].shape) != p.their_shape
  ]
  unused = set(state_dict) - set(wanted) - copies - {_IGNORED}
  different = [
    f"{name} differs from {_SHARED}"
    for name in sorted(copies & set(state_dict))
    if _SHARED in state_dict and not _equal(state_dict, name, _SHARED)
  ]
  problems = [
    *_listed("missing tensors", missing),
    *_listed("tensors that the model has no place for", sorted(unused)),
    *_listed("tensors of other shapes", shapes),
    *_listed("tensors that the model ties", different),
  ]
  if problems:
    raise errors.CheckpointError(
      "the state dict does not fit the model:\n" + "\n".join(problems)
    )


def _listed(title: str, items: list[str]) -> list[str]:
  if not items:
    return []
  more = len(items) - _SHOWN
  rest = [f"  and {more} more"] if more > 0 else []
  return [f"{title}:", *(f"  {item}" for item in items[:_SHOWN]), *rest]


def _equal(state_dict: StateDict, first: str, second: str) -> bool:
  return np.array_equal(_numpy(state_dict[first]), _numpy(state_dict[second]))


def _numpy(tensor: Any) -> np.ndarray:
  if hasattr(tensor, "detach"):  # PyTorch; NumPy lacks some of its dtypes
    tensor = tensor.detach().cpu().float().numpy()
  return np.asarray(tensor)
