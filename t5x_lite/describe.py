"""What `--dry_run` shows of a run that has not started.

Each function takes plain objects (abstract trees, dicts, arrays) and returns a
table; `show` prints them, 100 columns wide where there is no terminal.
"""

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from rich import box, table, text
from rich import console as rich_console

from t5x_lite import compat, flops, sizes
from t5x_lite.datasets import Dataset
from t5x_lite.trainer import Trainer

_WIDTH = 100  # columns of a file or pipe
_LONGEST = 600  # characters of decoded text that are shown
_UNITS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def print_run(
  trainer: Trainer,
  dataset: Dataset,
  *,
  num_steps: int,
  workdir: str | os.PathLike[str],
) -> None:
  """Prints all there is to know of a run; reads data but writes nothing."""
  state = trainer.abstract
  trees = {"parameters": state.model, "optimizer": state.opt_state}
  trees |= {"carried": state.carried} if state.carried else {}
  general = {
    "workdir": workdir,
    "mixture": dataset.provider.name,
    "split": dataset.split,
    "model": type(state.model).__name__,
    "objective": type(trainer.objective).__name__,
    "steps": num_steps,
    "batch size": dataset.batch_size,
    "microbatches": trainer.num_microbatches,
  }
  show(
    [
      facts("Run", general),
      parameters(state.model),
      memory(trees),
      mesh(trainer.partitioner.mesh),
      schedule(trainer.optimizer.schedule, num_steps),
    ]
  )
  rows = next(dataset.iterator())
  decoders = {  # ours show special tokens too
    name: getattr(feature.vocabulary, "show", feature.vocabulary.decode)
    for name, feature in dataset.provider.output_features.items()
    if name in dataset.feature_lengths
  }
  batch = trainer.objective.convert(rows)
  show(
    [
      features(batch),
      sample(rows, decoders),
      _work(state.model, batch, trainer.objective),
    ]
  )


def show(
  tables: Iterable[Any], console: rich_console.Console | None = None
) -> None:
  """Prints tables, one after the other, to standard output."""
  if console is None:
    console = rich_console.Console()
    if not console.is_terminal:
      console = rich_console.Console(width=_WIDTH)
  for one in tables:
    console.print(one)
    console.print()


def facts(title: str, values: Mapping[str, Any]) -> table.Table:
  """Names and values."""
  made = _table(title, "", "")
  made.show_header, made.box, made.padding = False, None, (0, 2, 0, 0)
  for name, value in values.items():
    made.add_row(text.Text(name, style="dim"), _cell(value))
  return made


def parameters(model: Any) -> table.Table:
  """One row a parameter, or a stack of the same parameter of all layers.

  Axes that are sharded stand with their mesh axis, "embed:data".  Names are
  those of a checkpoint, under a heading with the sum for each part.

  Args:
    model: tree of Params, whose leaves have shapes and, if they are laid out
      on a mesh, shardings.
  """
  made = _table("Parameters", "name", "shape", "axes", "count")
  for column in (made.columns[0], made.columns[1], made.columns[3]):
    column.no_wrap = True
  made.columns[3].justify = "right"
  parts: dict[str, list[list[str]]] = {}
  counts: dict[str, int] = {}
  for name, axes, leaf in _named(model):
    part, _, rest = name.partition("/")
    count = math.prod(leaf.shape)
    counts[part] = counts.get(part, 0) + count
    shape = "x".join(map(str, leaf.shape))
    row = [f"  {rest or part}", shape, _axes(axes, leaf), f"{count:,}"]
    parts.setdefault(part, []).append(row)
  for part, rows in parts.items():
    total = text.Text(f"{counts[part]:,}", style="bold")
    made.add_row(text.Text(f"{part}/", style="bold"), "", "", total)
    for row in rows:
      made.add_row(*map(_cell, row))
  made.add_section()
  made.add_row("all", "", "", _cell(sum(counts.values())), style="bold")
  return made


def memory(trees: Mapping[str, Any]) -> table.Table:
  """Bytes of arrays, on one device and on all; activations come on top.

  Args:
    trees: {"parameters": abstract tree, "optimizer": ...}.
  """
  made = _table("Memory", "arrays", "per device", "on all devices", "type")
  made.caption = "activations and gradients not counted"
  for column in made.columns[1:3]:
    column.justify = "right"
  sums = [0, 0]
  for name, tree in trees.items():
    leaves = jax.tree.leaves(tree)
    types = sorted({str(np.dtype(x.dtype)) for x in leaves if x.ndim})
    here, there = sizes.on_device(tree), sizes.at_host(tree)
    whole = sizes.together(tree)
    cells = [_human(here), _human(whole), ", ".join(types)]
    if there:
      cells[0] = f"{cells[0]} + {_human(there)} with the host"
    made.add_row(_cell(name), *cells)
    sums = [sums[0] + here, sums[1] + whole]
  made.add_section()
  made.add_row("together", *map(_human, sums), "")
  return made


def mesh(mesh: jax.sharding.Mesh) -> table.Table:
  """Axes of a mesh and their sizes, and the devices."""
  device = mesh.devices.flat[0]
  made = _table("Mesh", "axis", "devices")
  made.columns[1].justify = "right"
  for axis, size in mesh.shape.items():
    made.add_row(_cell(axis), str(size))
  made.add_section()
  made.add_row(_cell(f"all ({device.device_kind})"), str(mesh.devices.size))
  return made


def schedule(
  learning_rate: Callable[[Any], Any], num_steps: int
) -> table.Table:
  """The learning rate at the start, the end, the peak and between."""
  made = _table("Learning rate", "step", "rate", "")
  for column in made.columns[:2]:
    column.justify = "right"
  last = max(num_steps - 1, 0)
  shares = (0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1)
  rates = {
    step: float(learning_rate(step))
    for step in {round(share * last) for share in shares}
  }
  grid = np.unique(np.linspace(0, last, 200).astype(int)).tolist()
  peak, step = max((float(learning_rate(step)), step) for step in grid)
  if peak > 1.01 * max(rates.values()):
    rates[step] = peak
  for step, rate in sorted(rates.items()):
    bar = "█" * round(30 * rate / (peak or 1.0))
    made.add_row(f"{step:,}", f"{rate:.3g}", bar)
  return made


def features(batch: Mapping[str, Any]) -> table.Table:
  """Shapes and types of a batch of arrays or ShapeDtypeStructs."""
  made = _table("Batch", "feature", "shape", "type")
  for name, array in batch.items():
    shape = "x".join(map(str, array.shape))
    made.add_row(_cell(name), shape, str(np.dtype(array.dtype)))
  return made


def sample(
  batch: Mapping[str, np.ndarray],
  decoders: Mapping[str, Callable[[list[int]], Any]],
) -> table.Table:
  """The first example of a batch, as text and as ids.

  Args:
    batch: task features [B L] with `<feature>_segment_ids`.
    decoders: from ids to text, by feature.
  """
  made = _table("First example of a batch", "feature", "text", "ids", "row")
  for name, decode in decoders.items():
    segments = batch[f"{name}_segment_ids"][0]
    example = [int(i) for i in batch[name][0][segments == 1]]
    shown = ", ".join(map(str, example[:16]))
    more = f", … {len(example)} in all" if len(example) > 16 else ""
    decoded = decode(example)
    padding = np.mean(segments == 0)
    made.add_row(
      _cell(name),
      # Labels are no text: their vocabulary gives the ids themselves.
      _cell(_shorten(decoded) if isinstance(decoded, str) else ""),
      _cell(shown + more),
      f"{segments.max()} examples, {padding:.0%} padding",
    )
  return made


def _work(model: Any, batch: Mapping[str, Any], objective: Any) -> table.Table:
  """What a step computes, or why that is unknown."""
  try:
    step = flops.of_training_step(model, batch, objective)
  except NotImplementedError as error:
    return facts("Work of a step", {"model FLOPs": f"unknown: {error}"})
  known = {
    "parameters in products": flops.num_matmul_parameters(model),
    "model FLOPs": f"{step.total:.4g}, causal attention counted half",
    "of which attention": f"{step.attention / step.total:.1%}",
    "with full attention": f"{step.total_full:.4g}",
  }
  return facts("Work of a step", known)


def _table(title: str, *headings: str) -> table.Table:
  made = table.Table(
    title=title,
    title_justify="left",
    title_style="bold",
    caption_justify="left",
    box=box.SIMPLE_HEAD,
    show_edge=False,
    padding=(0, 1, 0, 0),
    pad_edge=False,
  )
  for heading in headings:
    made.add_column(heading, overflow="fold")
  return made


def _cell(value: Any) -> text.Text:
  """Text as it is: brackets in it are no markup."""
  if isinstance(value, int) and not isinstance(value, bool):
    return text.Text(f"{value:,}")
  return text.Text(str(value))


def _named(model: Any) -> list[tuple[str, tuple[str | None, ...], Any]]:
  """Name, logical axes and array of every parameter."""
  found = []
  flat = jax.tree.leaves_with_path(model, is_leaf=compat.is_variable)
  for path, leaf in flat:
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    axes: tuple[str | None, ...] = (None,) * len(leaf.shape)
    if compat.is_variable(leaf):
      own = compat.axes_of(leaf)
      axes = ("layers",) * (len(leaf.shape) - len(own)) + own
      leaf = jax.tree.leaves(leaf)[0]
    found.append((name, axes, leaf))
  return found


def _axes(axes: Sequence[str | None], leaf: Any) -> str:
  """Logical axes, each with its mesh axes: "layers embed:data"."""
  spec = tuple(getattr(getattr(leaf, "sharding", None), "spec", ()))
  spec += (None,) * (len(axes) - len(spec))
  shown = []
  for axis, entry in zip(axes, spec, strict=True):
    entry = (entry,) if isinstance(entry, str) else tuple(entry or ())
    shown.append(":".join([axis or "-", "+".join(entry)]).rstrip(":"))
  return " ".join(shown)


def _human(size: float) -> str:
  for unit, name in _UNITS:
    if size >= unit:
      return f"{size / unit:.3g} {name}"
  return f"{size:.0f} bytes"


def _shorten(decoded: str) -> str:
  if len(decoded) <= _LONGEST:
    return decoded
  return f"{decoded[:_LONGEST]} …"
