"""Optimizers: recipes of optax transformations over Params."""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import optax

from t5x_lite import compat, errors, schedules

# Dimensions that T5 keeps joined in one: a projection is a matrix.
_JOINED = {"heads", "kv_heads", "head_dim"}


@dataclasses.dataclass(frozen=True)
class Optimizer:
  """What the trainer needs.

  Attributes:
    transform: an optax transformation, learning rate and sign included.
    schedule: the learning rate at a step, for the log.
  """

  transform: optax.GradientTransformation
  schedule: schedules.Schedule


def adafactor(
  learning_rate: Callable[..., Any] | float = 1e-3,
  *,
  factored: bool = True,
  decay_rate: float = 0.8,
  step_offset: int = 0,
  min_dim_size_to_factor: int = 128,
  multiply_by_parameter_scale: bool = True,
  clipping_threshold: float | None = 1.0,
  momentum: float | None = None,
  weight_decay: float | None = None,
  epsilon: float = 1e-30,
  clip_norm: float | None = None,
) -> Optimizer:
  """Adafactor (Shazeer and Stern 2018) with T5's defaults.

  The statistics, the clipping and the parameter scale are of one layer's
  matrix at a time, [embed, heads * head_dim] for a projection, although our
  parameters are stacked over layers and have more dimensions.

  Args:
    learning_rate: a schedule or a constant.
    factored: keep row and column sums instead of all second moments.
    decay_rate: c in the second moment's decay 1 - (t + 1)^-c.
    step_offset: subtracted from t, to fine-tune with a restored state; t
      must not be less.
    min_dim_size_to_factor: smaller matrices keep all second moments.
    multiply_by_parameter_scale: updates relative to the parameter's RMS.
    clipping_threshold: greatest RMS of an update.
    momentum: of updates, or None.
    weight_decay: rate, or None.
    epsilon: added to squared gradients.
    clip_norm: greatest global norm of the gradients, or None.
  """
  schedule = _schedule(learning_rate)
  transform = per_layer(
    optax.adafactor(
      schedule,
      min_dim_size_to_factor=min_dim_size_to_factor,
      decay_rate=decay_rate,
      decay_offset=step_offset,
      multiply_by_parameter_scale=multiply_by_parameter_scale,
      clipping_threshold=clipping_threshold,
      momentum=momentum,
      weight_decay_rate=weight_decay,
      eps=epsilon,
      factored=factored,
    )
  )
  return Optimizer(_clipped(transform, clip_norm), schedule)


def adamw(
  learning_rate: Callable[..., Any] | float = 1e-4,
  *,
  b1: float = 0.9,
  b2: float = 0.999,
  epsilon: float = 1e-8,
  weight_decay: float = 0.01,
  no_decay: Sequence[str] = ("norm", "bias", "a_log", "skip"),
  clip_norm: float | None = 1.0,
) -> Optimizer:
  """AdamW (Loshchilov and Hutter 2019) of optax.

  Args:
    learning_rate: a schedule or a constant.
    b1: decay of the first moment.
    b2: decay of the second moment.
    epsilon: added to the root of the second moment.
    weight_decay: rate, decoupled.
    no_decay: regular expressions; parameters whose path one of them matches
      anywhere do not decay.  "a_log" and "skip" are Mamba's A and D.
    clip_norm: greatest global norm of the gradients, or None.
  """
  schedule = _schedule(learning_rate)

  def decays(params: Any) -> Any:
    def one(path: Any, _: Any) -> bool:
      name = jax.tree_util.keystr(path)
      return not any(re.search(pattern, name) for pattern in no_decay)

    return jax.tree_util.tree_map_with_path(one, params)

  transform = optax.adamw(
    schedule,
    b1=b1,
    b2=b2,
    eps=epsilon,
    weight_decay=weight_decay,
    mask=decays,
  )
  return Optimizer(_clipped(transform, clip_norm), schedule)


def grouped(optimizer: Optimizer, *, rates: Mapping[str, float]) -> Optimizer:
  """Another optimizer, with learning rates of their own for some parameters.

  Args:
    optimizer: for all parameters.
    rates: regular expression -> factor of the learning rate, and so of a
      decoupled weight decay, of parameters whose path it matches anywhere;
      0 keeps them as they are.  Of several that match, the first counts.  The
      log shows the rate of the others.

  Raises:
    ConfigError: a factor is negative, or no parameter matches an expression;
      the latter when the optimizer's state is made.
  """
  for pattern, factor in rates.items():
    if factor < 0:
      raise errors.ConfigError(
        f"grouped: the factor {factor} of {pattern!r} must not be negative"
      )

  def init(params: Any) -> optax.EmptyState:
    flat, _ = jax.tree_util.tree_flatten_with_path(params)
    names = [jax.tree_util.keystr(path) for path, _ in flat]
    for pattern in rates:
      if not any(re.search(pattern, name) for name in names):
        raise errors.ConfigError(
          f"grouped: no parameter's path matches {pattern!r}; some of them:"
          f" {', '.join(names[:: len(names) // 5 + 1])}"
        )
    return optax.EmptyState()

  def scale(path: Any, update: Any) -> Any:
    name = jax.tree_util.keystr(path)
    factors = [f for pattern, f in rates.items() if re.search(pattern, name)]
    return update * (factors or [1.0])[0]

  def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
    del params
    return jax.tree_util.tree_map_with_path(scale, updates), state

  scaled = optax.GradientTransformation(init, update)
  return Optimizer(optax.chain(optimizer.transform, scaled), optimizer.schedule)


def from_optax(
  transform: optax.GradientTransformation,
  learning_rate: Callable[..., Any] | float,
) -> Optimizer:
  """Any optax transformation; `learning_rate` is only what the log shows."""
  return Optimizer(transform, _schedule(learning_rate))


def per_layer(
  transform: optax.GradientTransformation,
) -> optax.GradientTransformation:
  """Applies a transformation to one layer's matrix at a time.

  Only for transformations that treat every array by itself, as Adafactor's.
  The state of a parameter stands at its place in the tree; what is as large
  as the parameter keeps its shape and axes, and is sharded like it.
  """

  def init_one(param: Any) -> Any:
    state = _over_layers(transform.init, param)(_matrix(param, param))
    return _dress(state, param)

  def update_one(grad: Any, state: Any, param: Any) -> tuple[Any, Any]:
    state = jax.tree.map(
      lambda s: _matrix(s, param) if compat.is_variable(s) else s,
      state,
      is_leaf=compat.is_variable,
    )
    update, state = _over_layers(transform.update, param, state)(
      _matrix(grad, param), state, _matrix(param, param)
    )
    update = param.replace(update.reshape(param.shape))
    return update, _dress(state, param)

  def init(params: Any) -> Any:
    return jax.tree.map(init_one, params, is_leaf=compat.is_variable)

  def update(grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
    leaves: Any
    treedef: Any
    leaves, treedef = jax.tree.flatten(params, is_leaf=compat.is_variable)
    results = [
      update_one(grad, one, param)
      for grad, one, param in zip(
        treedef.flatten_up_to(grads),
        treedef.flatten_up_to(state),
        leaves,
        strict=True,
      )
    ]
    updates, states = zip(*results, strict=True)
    return treedef.unflatten(updates), treedef.unflatten(states)

  return optax.GradientTransformation(init, update)


def _num_stacked(param: Any) -> int:
  return len(param.shape) - len(compat.axes_of(param))


def _matrix(variable: Any, param: Any) -> jax.Array:
  """The array with neighbouring joined dimensions merged into one."""
  stacked = _num_stacked(param)
  shape = list(param.shape[:stacked])
  previous = None
  for name, size in zip(
    compat.axes_of(param), param.shape[stacked:], strict=True
  ):
    if name in _JOINED and previous in _JOINED:
      shape[-1] *= size
    else:
      shape.append(size)
    previous = name
  return variable[...].reshape(shape)


def _over_layers(
  function: Callable[..., Any], param: Any, state: Any = None
) -> Callable[..., Any]:
  """`function` mapped over the stacked dimensions, if the parameter has any.

  Step counts don't depend on the layer and stay scalars.
  """
  if not _num_stacked(param):
    return function

  def axes(tree: Any) -> Any:
    return jax.tree.map(lambda x: 0 if x.ndim else None, tree)

  if state is None:
    one = jax.tree.map(lambda x: x[0], _matrix(param, param))
    out = jax.eval_shape(function, one)
    stacked = jax.tree.map(lambda x: 0 if x.ndim else None, out)
    return jax.vmap(function, in_axes=0, out_axes=stacked)
  return jax.vmap(
    function, in_axes=(0, axes(state), 0), out_axes=(0, axes(state))
  )


def _dress(state: Any, param: Any) -> Any:
  """Gives arrays as large as the parameter its shape, class and axes."""
  size = math.prod(param.shape)

  def one(x: jax.Array) -> Any:
    if x.ndim and x.size == size:
      return param.replace(x.reshape(param.shape))
    return x

  return jax.tree.map(one, state)


def _schedule(learning_rate: Callable[..., Any] | float) -> schedules.Schedule:
  if callable(learning_rate):
    return learning_rate
  return optax.constant_schedule(learning_rate)


def _clipped(
  transform: optax.GradientTransformation, clip_norm: float | None
) -> optax.GradientTransformation:
  if clip_norm is None:
    return transform
  return optax.chain(optax.clip_by_global_norm(clip_norm), transform)
