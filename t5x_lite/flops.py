"""How much a training step computes, and how well the devices are used.

Model FLOPs are those of the matrix products that the mathematics asks for: of
activations with parameters, and the two of attention (query with key,
probability with value).  A backward pass has two such products for each of
the forward pass, so a step is three forward passes; what rematerialization
computes again does not count (Chowdhery et al. 2022, appendix B).  Embedding
lookups are no products; logits are.  Padding counts: the devices compute it.

MFU is model FLOPs a second over the devices' peak, by two conventions:

  mfu                 causal attention counts half, since half of it is masked
  mfu_full_attention  all attention counts in full, as in older publications

HFU counts what is really computed, rematerialization included; see
`traced_flops`.

A new layer or model joins by a rule beside the ones below (or in a file of
the user), `@of_layer.register` or `@of_model.register`.
"""

import collections
import dataclasses
import functools
import logging
import math
import re
from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx

from t5x_lite import compat, layers, models

_log = logging.getLogger(__name__)

Shapes = Mapping[str, Any]  # model features: arrays or ShapeDtypeStructs


@dataclasses.dataclass(frozen=True)
class Flops:
  """Floating-point operations by kind; a multiplication and addition are two.

  Attributes:
    matmul: products of activations with parameters.
    attention: the products of attention, causal ones counted half.
    attention_full: the same, all in full.
  """

  matmul: float = 0.0
  attention: float = 0.0
  attention_full: float = 0.0

  def __add__(self, other: "Flops") -> "Flops":
    return Flops(
      self.matmul + other.matmul,
      self.attention + other.attention,
      self.attention_full + other.attention_full,
    )

  def __mul__(self, times: float) -> "Flops":
    return Flops(
      self.matmul * times,
      self.attention * times,
      self.attention_full * times,
    )

  @property
  def total(self) -> float:
    """With causal attention counted half."""
    return self.matmul + self.attention

  @property
  def total_full(self) -> float:
    """With all attention counted in full."""
    return self.matmul + self.attention_full


@dataclasses.dataclass(frozen=True)
class Tokens:
  """What a layer works on: B rows of T tokens, S tokens of memory each."""

  rows: int
  length: int
  memory_length: int = 0


@functools.singledispatch
def of_layer(layer: nnx.Module, tokens: Tokens) -> Flops:
  """FLOPs of a layer's forward pass; by default those of its parts.

  Raises:
    NotImplementedError: for a layer that has a matrix of its own and no rule,
      rather than to count too little.
  """
  total = Flops()
  for name, part in vars(layer).items():
    if compat.is_variable(part) and len(compat.axes_of(part)) > 1:
      raise NotImplementedError(
        f"no FLOPs rule for {type(layer).__name__}, which has the matrix"
        f" {name!r}: give it one with flops.of_layer.register"
      )
    if isinstance(part, nnx.Module):
      total += of_layer(part, tokens)
  return total


@of_layer.register
def _(layer: layers.Einsum, tokens: Tokens) -> Flops:
  return _product(layer.kernel, tokens.rows * tokens.length)


@of_layer.register
def _(layer: layers.LogitsHead, tokens: Tokens) -> Flops:
  return _product(layer.kernel, tokens.rows * tokens.length)


@of_layer.register
def _(layer: layers.RelativeBias, tokens: Tokens) -> Flops:
  return Flops()  # a lookup; shared by all rows


@of_layer.register
def _(layer: layers.Embedding, tokens: Tokens) -> Flops:
  return Flops()  # a lookup; the model counts logits tied to it


@of_layer.register
def _(layer: layers.Attention, tokens: Tokens) -> Flops:
  projections = (layer.query, layer.key, layer.value, layer.out)
  total = _scores(layer, tokens, tokens.length, causal=layer.causal)
  for projection in projections:
    total += of_layer(projection, tokens)
  return total


@of_layer.register
def _(layer: layers.CrossAttention, tokens: Tokens) -> Flops:
  memory = Tokens(tokens.rows, tokens.memory_length)
  return (
    of_layer(layer.query, tokens)
    + of_layer(layer.key, memory)
    + of_layer(layer.value, memory)
    + _scores(layer, tokens, tokens.memory_length, causal=False)
    + of_layer(layer.out, tokens)
  )


@of_layer.register
def _(layer: layers.Stack, tokens: Tokens) -> Flops:
  # The parameters are stacked, but every rule counts those of one layer.
  return of_layer(layer.layers, tokens) * layer.num_layers


@functools.singledispatch
def of_model(model: nnx.Module, batch: Shapes) -> Flops:
  """FLOPs of a forward pass over a batch of model features [B ...]."""
  raise NotImplementedError(
    f"no FLOPs rule for {type(model).__name__}: give it one with"
    " flops.of_model.register"
  )


@of_model.register
def _(model: models.EncoderDecoder, batch: Shapes) -> Flops:
  rows, source = batch["encoder_input_tokens"].shape
  _, target = batch["decoder_input_tokens"].shape
  decoded = Tokens(rows, target, memory_length=source)
  if model.head is None:
    logits = _product(model.embedding.tokens, rows * target)
  else:
    logits = of_layer(model.head, decoded)
  encoded = of_layer(model.encoder, Tokens(rows, source))
  return encoded + of_layer(model.decoder, decoded) + logits


def of_training_step(model: nnx.Module, batch: Shapes) -> Flops:
  """FLOPs of a forward and backward pass over a whole batch.

  Args:
    model: real or abstract.
    batch: model features of all hosts; only shapes are read.
  """
  return of_model(model, batch) * 3


def num_parameters(model: Any) -> int:
  """All parameters of a real or abstract model."""
  return sum(math.prod(x.shape) for x in jax.tree.leaves(model))


def num_matmul_parameters(model: nnx.Module) -> int:
  """Parameters that every token is multiplied with: the N of 6 N a token.

  Without embedding tables, norms and biases; with those of the logits.
  """
  one = jax.ShapeDtypeStruct((1, 1), "int32")
  any_feature: Shapes = collections.defaultdict(lambda: one)
  return round(of_model(model, any_feature).matmul / 2)


def _product(kernel: Any, positions: int) -> Flops:
  """Each position times a kernel; without its stacked dimensions."""
  axes = len(compat.axes_of(kernel))
  size = math.prod(kernel.shape[-axes:])
  return Flops(matmul=2.0 * positions * size)


def _scores(
  layer: layers.Attention, tokens: Tokens, keys: int, *, causal: bool
) -> Flops:
  width = layer.heads * layer.head_dim
  full = 2 * 2.0 * tokens.rows * tokens.length * keys * width
  return Flops(attention=full / 2 if causal else full, attention_full=full)


# Devices.

# bfloat16 without sparsity, FLOP/s of what JAX calls one device: a chip, or a
# core where a chip appears as two.  TPUs: cloud.google.com/tpu/docs, page of
# each version (peak compute per chip).  GPUs: data sheets at nvidia.com of
# A100, H100, H200, HGX B200 and GB200 NVL72, halved where given with sparsity.
_PEAKS = (
  (r"TPU v2", 45e12 / 2),
  (r"TPU v3", 123e12 / 2),
  (r"TPU v4", 275e12),
  (r"TPU v5( lite|e)", 197e12),
  (r"TPU v5p?", 459e12),
  (r"TPU v6( lite|e)", 918e12),
  (r"TPU7x", 2307e12 / 2),
  (r"NVIDIA A100-(SXM4|PCIE)-(40|80)GB|NVIDIA A100 80GB PCIe", 312e12),
  (r"NVIDIA H100( 80GB HBM3)?", 989.5e12),
  (r"NVIDIA H100 PCIe", 756.5e12),
  (r"NVIDIA H(100|200) NVL", 835.5e12),
  (r"NVIDIA H200|NVIDIA GH200 .*", 989.5e12),
  (r"NVIDIA B200", 2250e12),
  (r"NVIDIA GB200", 2500e12),
)


def peak(device_kind: str) -> float | None:
  """Peak FLOP/s of a `jax.Device.device_kind`; None for an unknown one."""
  for pattern, flops in _PEAKS:
    if re.fullmatch(pattern, device_kind):
      return flops
  return None


def mfu(
  flops: float, seconds: float, device_kind: str, num_devices: int
) -> float | None:
  """Model FLOPs of a step over what the devices could do in its time."""
  limit = peak(device_kind)
  return limit and flops / (seconds * limit * num_devices)


@dataclasses.dataclass(frozen=True)
class Utilization:
  """From the time of a step to what is reported of it.

  Attributes:
    step: model FLOPs of a training step; None if they are not known.
    device_kind: of the devices, all of one kind.
    num_devices: of all hosts.
    hardware: FLOPs that are really computed in a step, for HFU.
  """

  step: Flops | None
  device_kind: str
  num_devices: int
  hardware: float | None = None

  def __call__(self, seconds: float) -> dict[str, float]:
    """What is known of: mfu, mfu_full_attention, hfu, teraflops_per_device."""
    if self.step is None:
      return {}
    devices = (seconds, self.device_kind, self.num_devices)
    shares = {
      "mfu": mfu(self.step.total, *devices),
      "mfu_full_attention": mfu(self.step.total_full, *devices),
      "hfu": self.hardware and mfu(self.hardware, *devices),
    }
    known = {name: share for name, share in shares.items() if share is not None}
    rate = self.step.total / (seconds * self.num_devices * 1e12)
    return known | {"teraflops_per_device": rate}


def utilization(
  model: nnx.Module, batch: Shapes, hardware: float | None = None
) -> Utilization:
  """Utilization of all devices; says so if the model's FLOPs are unknown."""
  try:
    step = of_training_step(model, batch)
  except NotImplementedError as error:
    _log.warning("MFU is unknown: %s", error)
    step = None
  device = jax.devices()[0]
  return Utilization(step, device.device_kind, jax.device_count(), hardware)
