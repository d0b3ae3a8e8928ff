"""Gradients and steps of AdamW, ours against those of PyTorch."""

import jax
import numpy as np
import optax
import torch

from t5x_lite import optimizers
from t5x_lite.interop import huggingface


def assert_gradients(theirs, grads):
  """Ours are near those of every parameter of theirs, which are not zero."""
  for name, parameter in theirs.named_parameters():
    wanted = parameter.grad.numpy()
    size = np.abs(wanted).max()
    error = np.abs(grads[name] - wanted).max()
    assert error < 1e-4, name
    if name.endswith(("key.bias", "k_proj.bias")):
      assert size < 1e-5, name  # it adds the same to all logits of a query
    else:
      assert size > 1e-4, name
      assert error < 1e-3 * size, name
  theirs.zero_grad()


def check(pair, their_loss, batch, loss, rate=1e-2):
  """Five steps of AdamW of both: losses, and the weights after them.

  Args:
    pair: of models.
    their_loss: (model of theirs, number of a step) -> loss.
    batch: number of a step -> a batch of ours.
    loss: of a model of ours and a batch.
    rate: of learning; over kinks such as relu's, rounding takes other ways
      soon if it is great.
  """
  # Epsilon is above the noise in the gradient of a bias of keys, which is 0.
  decay, epsilon = 0.1, 1e-4
  theirs = type(pair.theirs)(pair.theirs.config)
  theirs.load_state_dict(pair.theirs.state_dict())
  theirs.eval()  # no dropout
  groups = {True: [], False: []}
  for name, parameter in theirs.named_parameters():
    parts = ("norm", "ln_", "bias", "a_log")
    plain = any(part in name.lower() for part in parts) or name.endswith(".D")
    groups[plain].append(parameter)
  optimizer = torch.optim.AdamW(
    [
      {"params": groups[False], "weight_decay": decay},
      {"params": groups[True], "weight_decay": 0.0},
    ],
    lr=rate,
    eps=epsilon,
  )
  transform = optimizers.adamw(
    rate, epsilon=epsilon, weight_decay=decay, clip_norm=None
  ).transform

  @jax.jit
  def step(model, state, batch):
    value, grads = jax.value_and_grad(loss)(model, batch)
    updates, state = transform.update(grads, state, model)
    return optax.apply_updates(model, updates), state, value

  model, state = pair.ours, transform.init(pair.ours)
  trace, expected = [], []
  for number in range(5):
    optimizer.zero_grad()
    wanted = their_loss(theirs, number)
    wanted.backward()
    optimizer.step()
    expected.append(wanted.item())
    model, state, value = step(model, state, batch(number))
    trace.append(float(value))
  assert np.abs(np.subtract(trace, expected)).max() < 1e-4
  assert expected[4] < expected[0] - 10 * rate
  found = huggingface.to_state_dict(model)
  for name, parameter in theirs.named_parameters():
    error = np.abs(found[name] - parameter.detach().numpy()).max()
    assert error < 1e-4, name
