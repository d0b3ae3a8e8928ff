"""The training step as a pure function, and the trainer that compiles it."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from t5x_lite import metrics
from t5x_lite.auto_mesh import Automatic
from t5x_lite.compilation import Compilation
from t5x_lite.metrics import Metrics
from t5x_lite.objectives import Objective, Recurrent
from t5x_lite.optimizers import Optimizer
from t5x_lite.partitioning import Partitioner
from t5x_lite.rules import constrain
from t5x_lite.train_state import TrainState

Batch = Mapping[str, jax.Array]


def gradients(
  model: Any,
  batch: Batch,
  key: jax.Array,
  *,
  objective: Objective,
  num_microbatches: int = 1,
  carried: Any = (),
) -> tuple[Any, Metrics, Any]:
  """Gradients of the normalized loss, in float32, metrics, what is carried.

  The normalizer is of the whole batch, so that the number of microbatches
  changes nothing but the memory.
  """
  normalizer = objective.normalizer(batch)

  def loss(model: Any, batch: Batch, key: jax.Array, carried: Any) -> Any:
    if isinstance(objective, Recurrent) and carried:
      total, values, carried = objective.carry(model, batch, key, carried)
    else:
      total, values = objective.loss(model, batch, key)
    return jnp.sum(total / normalizer), (values, carried)

  grad = jax.grad(loss, has_aux=True)
  if num_microbatches == 1:
    grads, (values, carried) = grad(model, batch, key, carried)
    return grads, values, carried

  def split(x: jax.Array, axis: int = 0) -> jax.Array:
    # Strided, so that every device has rows of every microbatch.
    before, after = x.shape[:axis], x.shape[axis + 1 :]
    x = x.reshape(*before, -1, num_microbatches, *after)
    x = jnp.moveaxis(x, axis + 1, 0)
    rest = (None,) * len(after)
    return constrain(x, *(None,) * (axis + 1), "batch", *rest)

  def join(x: jax.Array) -> jax.Array:
    x = jnp.moveaxis(x, 0, 2)  # [L B/M M ...]
    x = x.reshape(x.shape[0], -1, *x.shape[3:])
    return constrain(x, None, "batch", *(None,) * (x.ndim - 2))

  def add(total: Any, inputs: Any) -> tuple[Any, Any]:
    grads, (values, carried) = grad(model, *inputs)
    return jax.tree.map(jnp.add, total, (grads, values)), carried

  keys = jax.random.split(key, num_microbatches)
  parts = jax.tree.map(functools.partial(split, axis=1), carried)
  inputs = (jax.tree.map(split, dict(batch)), keys, parts)
  first = jax.tree.map(lambda x: x[0], inputs)
  grads, (values, _) = jax.eval_shape(grad, model, *first)
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (grads, values))
  (grads, values), parts = jax.lax.scan(add, zeros, inputs)
  return grads, values, jax.tree.map(join, parts)


def train_step(
  state: TrainState,
  batch: Batch,
  key: jax.Array,
  *,
  objective: Objective,
  optimizer: Optimizer,
  num_microbatches: int = 1,
  shardings: Any = None,
  fetched: Any = None,
) -> tuple[TrainState, Metrics]:
  """One update; the dropout key is folded with the step.

  Args:
    state: to be updated.
    batch: of model features.
    key: for dropout.
    objective: from batch to loss.
    optimizer: from gradients to updates.
    num_microbatches: see `gradients`.
    shardings: of the gradients where the optimizer reads them, if not those
      of the parameters.
    fetched: shardings of the optimizer's state during the update, if it lies
      elsewhere between them.
  """
  grads, values, carried = gradients(
    state.model,
    batch,
    jax.random.fold_in(key, state.step),
    objective=objective,
    num_microbatches=num_microbatches,
    carried=state.carried,
  )
  if shardings is not None:
    grads = jax.lax.with_sharding_constraint(grads, shardings)
  opt_state = state.opt_state
  if fetched is not None:
    opt_state = jax.device_put(opt_state, fetched)
  updates, opt_state = optimizer.transform.update(grads, opt_state, state.model)
  model = optax.apply_updates(state.model, updates)
  values |= {
    "gradient_norm": metrics.scalar(optax.global_norm(grads)),
    "learning_rate": metrics.scalar(optimizer.schedule(state.step)),
  }
  return TrainState(state.step + 1, model, opt_state, carried), values


class Trainer:
  """Compiles a run's functions, each once, with the shardings of its mesh.

  Attributes:
    model: constructor of the model, called with rngs=...; a constructor,
      because parameters are born sharded, under jit.
    objective: from batch to loss.
    optimizer: from gradients to updates.
    partitioner: mesh and rules, those that were chosen if it was `Automatic`.
    num_microbatches: how often the gradient is summed up for an update.
    seed: of parameters and dropout.
    batch_size: rows of a batch, of each of which an objective may carry
      something to the next step; 0 where there is no training.
    program: the training step as traced, once it is compiled.
    compilation: how the training step is compiled.
  """

  def __init__(
    self,
    model: Callable[..., Any],
    objective: Objective,
    optimizer: Optimizer,
    partitioner: Partitioner | Automatic,
    *,
    num_microbatches: int = 1,
    seed: int = 0,
    batch_size: int = 0,
    compilation: Compilation = Compilation(),  # noqa: B008 (frozen)
  ):
    if isinstance(partitioner, Automatic):
      partitioner = partitioner.for_run(
        model,
        optimizer.transform,
        batch_size=batch_size,
        num_microbatches=num_microbatches,
      )
    self.batch_size = batch_size
    self.model, self.objective, self.optimizer = model, objective, optimizer
    self.partitioner, self.num_microbatches = partitioner, num_microbatches
    self.program: Any = None
    self.compilation = compilation
    self._compiled: Any = None  # the training step
    self._init_key, self._step_key = jax.random.split(jax.random.key(seed))

  def _create(self, key: jax.Array) -> TrainState:
    model = self.model(rngs=nnx.Rngs(key))
    carried: Any = ()
    if isinstance(self.objective, Recurrent) and self.batch_size:
      carried = self.objective.init_carried(model, self.batch_size)
    return TrainState.create(model, self.optimizer.transform, carried)

  @functools.cached_property
  def abstract(self) -> TrainState:
    """Shapes, dtypes and shardings of the state; nothing is allocated."""
    with self.partitioner.activate():
      state = self.partitioner.abstract(self._create, self._init_key)
    return dataclasses.replace(
      state,
      opt_state=self.partitioner.kept(state.opt_state),
      carried=self.partitioner.by_rows(state.carried, axis=1),
    )

  @functools.cached_property
  def shardings(self) -> TrainState:
    """Shardings of the state."""
    return jax.tree.map(lambda x: x.sharding, self.abstract)

  def check(self) -> None:
    """Raises ConfigError where model, objective and mesh don't fit."""
    self.objective.check(self.abstract.model)
    self.partitioner.check(self.abstract.model)

  def init(self) -> TrainState:
    """A fresh state, created sharded."""
    with self.partitioner.activate():
      init = jax.jit(self._create, out_shardings=self.shardings)
      return init(self._init_key)

  def put(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """Model features on the devices, from this host's task features."""
    return self.partitioner.put(self.objective.convert(batch))

  @functools.cached_property
  def _gradient_shardings(self) -> Any:
    optimizer = self.partitioner.optimizer
    if optimizer is self.partitioner:
      return None
    return jax.tree.map(
      lambda x: x.sharding, optimizer.laid_out(self.abstract.model)
    )

  @functools.cached_property
  def _fetched(self) -> Any:
    if self.partitioner.optimizer_memory == "device":
      return None
    return jax.tree.map(
      lambda x: x.sharding.with_memory_kind("device"), self.abstract.opt_state
    )

  @functools.cached_property
  def _train_step(self) -> Any:
    return jax.jit(
      functools.partial(
        train_step,
        objective=self.objective,
        optimizer=self.optimizer,
        num_microbatches=self.num_microbatches,
        shardings=self._gradient_shardings,
        fetched=self._fetched,
      ),
      donate_argnums=0,
      out_shardings=(self.shardings, None),
    )

  def lower(
    self, state: TrainState, batch: Mapping[str, Any]
  ) -> jax.stages.Lowered:
    """The training step for arrays like these, which may be abstract."""
    with self.partitioner.activate():
      traced = self._train_step.trace(state, batch, self._step_key)
      self.program = traced.jaxpr
      return traced.lower()

  def lower_eval(
    self, model: Any, batch: Mapping[str, Any]
  ) -> jax.stages.Lowered:
    """Likewise the step of `eval_step`."""
    with self.partitioner.activate():
      return self._eval_step.lower(model, batch)

  def compile(self, state: TrainState, batch: Batch) -> Any:
    """Compiles the training step for arrays like these, and remembers it."""
    with self.partitioner.activate():
      self._compiled = self.compilation(self.lower(state, batch))
    return self._compiled

  def step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    """One update; donates `state`.  Compiles at the first call."""
    if self._compiled is None:
      self.compile(state, batch)
    with self.partitioner.activate():
      return self._compiled(state, batch, self._step_key)

  @functools.cached_property
  def _eval_step(self) -> Any:
    def evaluate(model: Any, batch: Batch) -> Metrics:
      return self.objective.loss(model, batch, None)[1]

    return jax.jit(evaluate)

  def eval_step(self, model: Any, batch: Batch) -> Metrics:
    """Metrics of a batch without dropout."""
    with self.partitioner.activate():
      return self._eval_step(model, batch)
