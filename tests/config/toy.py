"""A small training program for gin to configure, made anew for each test.

Gin's registry outlives a test, so each test has a module of its own name; in
texts, `TOY` stands for it.
"""

import itertools
import pathlib
import sys
import textwrap

import gin

from t5x_lite import config
from t5x_lite.config import loader

_COUNT = itertools.count()

MODULE = """
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

CALLS = []

class Norm:
  def __init__(self, dim: int, *, epsilon: float = 1e-6):
    self.epsilon = epsilon

class Attention:
  def __init__(self, dim: int, *, heads: int, causal: bool = False):
    self.heads, self.causal = heads, causal

class Stack:
  def __init__(self, dim: int, *, num_layers: int,
               block: Callable[..., Any] = Attention,
               norm: Callable[..., Any] = Norm):
    self.num_layers, self.block, self.norm = num_layers, block(dim), norm(dim)

class Model:
  def __init__(self, *, dim: int, encoder: Callable[..., Any],
               decoder: Callable[..., Any]):
    self.encoder, self.decoder = encoder(dim), decoder(dim)

@dataclasses.dataclass(frozen=True)
class Optimizer:
  name: str
  learning_rate: float

def adamw(learning_rate: float, *, decay: float = 0.0) -> Optimizer:
  return Optimizer("adamw", learning_rate)

def adafactor(learning_rate: float, *, clip: float = 1.0) -> Optimizer:
  return Optimizer("adafactor", learning_rate)

@dataclasses.dataclass(frozen=True)
class Dataset:
  mixture: str
  feature_lengths: Mapping[str, int]
  batch_size: int
  task_modules: Sequence[str] = ()

def train(*, workdir: str, model: Callable[..., Any], dataset: Dataset,
          optimizer: Optimizer, num_steps: int, seed: int | None = 0,
          dry_run: bool = False):
  CALLS.append(dict(model=model(), dataset=dataset, optimizer=optimizer,
                    num_steps=num_steps, seed=seed, workdir=workdir,
                    dry_run=dry_run))

def evaluate(*, workdir: str, model: Callable[..., Any], dataset: Dataset):
  CALLS.append(dict(model=model(), dataset=dataset))
"""

MODEL = """
from __gin__ import dynamic_registration
import TOY

DIM = 8
HEADS = 2
MODEL = @TOY.Model
TOY.Model:
  dim = %DIM
  encoder = @encoder/TOY.Stack
  decoder = @decoder/TOY.Stack
TOY.Stack:
  block = @TOY.Attention
  norm = @TOY.Norm
encoder/TOY.Stack.num_layers = 3
decoder/TOY.Stack.num_layers = 4
TOY.Attention.heads = %HEADS
decoder/TOY.Attention.causal = True
"""

ADAFACTOR = """
from __gin__ import dynamic_registration
import TOY

CLIP = 1.0
OPTIMIZER = @TOY.adafactor()
TOY.adafactor:
  learning_rate = %LEARNING_RATE
  clip = %CLIP
"""

ADAMW = """
from __gin__ import dynamic_registration
import TOY

OPTIMIZER = @TOY.adamw()
TOY.adamw.learning_rate = %LEARNING_RATE
"""

RUN = """
from __gin__ import dynamic_registration
import TOY
include 'adafactor.gin'

# The task to train on,
# by its name.
MIXTURE = %gin.REQUIRED
TRAIN_STEPS = %gin.REQUIRED  # how long to train
BATCH_SIZE = 16
LEARNING_RATE = 1e-3
FEATURE_LENGTHS = {'inputs': 512, 'targets': 114}

TOY.train:
  model = %MODEL
  dataset = @TOY.Dataset()
  optimizer = %OPTIMIZER
  num_steps = %TRAIN_STEPS
TOY.Dataset:
  mixture = %MIXTURE
  feature_lengths = %FEATURE_LENGTHS
  batch_size = %BATCH_SIZE
"""

EVALUATE = """
from __gin__ import dynamic_registration
import TOY

MIXTURE = 'dev'
TOY.evaluate.model = %MODEL
TOY.evaluate.dataset = @TOY.Dataset()
TOY.Dataset:
  mixture = %MIXTURE
  feature_lengths = {'inputs': 8}
  batch_size = 2
"""

# What a complete command line of the toy has.
FILES = ("model.gin", "run.gin")
SETTINGS = ("MIXTURE=docs", "TRAIN_STEPS=5")


def session(directory, monkeypatch):
  """Yields a `Toy` in the working directory; what a fixture does."""
  monkeypatch.chdir(directory)
  monkeypatch.setattr(sys, "path", [*sys.path])
  monkeypatch.setattr(loader, "current", None)
  yield Toy(directory)
  gin.clear_config()


class Toy:
  """The module and its gin files in a directory."""

  def __init__(self, directory: pathlib.Path):
    self.directory = directory
    self.name = f"toy_{next(_COUNT)}"
    (directory / f"{self.name}.py").write_text(MODULE)
    self.write("model.gin", MODEL)
    self.write("adafactor.gin", ADAFACTOR)
    self.write("adamw.gin", ADAMW)
    self.write("run.gin", RUN)
    self.write("evaluate.gin", EVALUATE)

  def write(self, name: str, text: str) -> None:
    """Writes a file, with the name of the module for TOY."""
    text = textwrap.dedent(text).replace("TOY", self.name).lstrip("\n")
    (self.directory / name).write_text(text)

  def gin(self, text: str, name: str = "mine.gin") -> str:
    """Writes a gin file that imports the module; returns its name."""
    head = "from __gin__ import dynamic_registration\nimport TOY\n"
    self.write(name, head + textwrap.dedent(text))
    return name

  def load(self, *settings, files=FILES, root="train", workdir="w"):
    """Loads files and settings such as "BATCH_SIZE=8"."""
    flags = [tuple(s.replace("TOY", self.name).split("=", 1)) for s in settings]
    arguments = {"workdir": workdir} if workdir else {}
    roots = [f"{self.name}.{n}" for n in ("train", "evaluate")]
    root = f"{self.name}.{root}"
    return config.load(root, files, flags, arguments, roots)

  def run(self, *settings, **kwargs):
    """Loads and calls; returns what the root function was called with."""
    self.load(*settings, **kwargs).call()
    return sys.modules[self.name].CALLS[-1]
