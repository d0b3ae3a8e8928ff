"""What `t5x_lite compile` prints."""

from collections.abc import Iterable, Mapping, Sequence

from t5x_lite.ahead import programs
from t5x_lite.ahead.launch import Answer, TooLarge
from t5x_lite.ahead.report import Memory, Step
from t5x_lite.ahead.topology import Topology

_BYTES = ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))
_SECONDS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"))
LIMITS = """\
Predicted, nothing was run.  Times are bounds: products and memory at the chip's
peak, instruction by instruction, collectives at the links' peak; what matrix
units waste on small tiles, vector work, latencies, input and hosts come on top,
so that a real step is slower and its MFU lower.  Memory is the compiler's own
plan, without what the runtime and other programs hold."""
_GPU_LIMITS = """\
For GPUs without one at hand XLA takes its default tiles for products, not the
fastest, and refuses nothing for its size: that is told by the sum alone."""
# From here on a share of memory is what to change first.
_MOST = 0.6


def describe(where: Topology, answer: Answer) -> str:
  """All that is known of the steps."""
  mesh = ", ".join(f"{name}={size}" for name, size in answer.mesh.items())
  chip = where.chip
  lines = [
    f"{where}: mesh {mesh}; a device of {chip.name} has"
    f" {size(chip.memory)} HBM at {chip.bandwidth / 1e9:,.0f} GB/s and"
    f" {chip.peak / 1e12:,.1f} TFLOP/s in bfloat16"
  ]
  for step in answer.steps:
    lines += ["", *_step(step)]
  for refused in answer.too_large:
    lines += ["", *_refused(refused)]
  lines += ["", LIMITS]
  if chip.platform == "gpu":
    lines.append(_GPU_LIMITS)
  return "\n".join(lines)


def _step(step: Step) -> list[str]:
  lines = [
    f"{step.name} step, per device (compiled in {step.compile_seconds:.0f} s)"
  ]
  lines += [f"  {row}" for row in _memory(step.memory)]
  lines += [f"  {name:<24}{value}" for name, value in _work(step)]
  lines += [f"  {row}" for row in _exchanges(step)]
  return lines


def _memory(memory: Memory) -> Iterable[str]:
  state = memory.parameters + memory.optimizer + memory.carried + memory.batch
  rows = {
    "parameters": memory.parameters,
    "optimizer": memory.optimizer,
    "carried states": memory.carried,
    "batch": memory.batch,
    # Tiles of rows and columns are filled up; a decode step has its prompts.
    "other arguments": max(0, memory.arguments - state),
    "outputs not in place": memory.outputs,
    "temporaries": memory.temporaries,
    "code": memory.code,
  }
  for name, value in rows.items():
    if value:
      yield f"{name:<24}{size(value):>12}{value / memory.available:>8.1%}"
  if memory.host:
    yield f"{'optimizer, with the host':<24}{size(memory.host):>12}"
  verdict = "free" if memory.free >= 0 else "TOO MUCH BY"
  share = memory.used / memory.available
  yield (
    f"{'HBM':<24}{size(memory.used):>12}{share:>8.1%} of"
    f" {size(memory.available)}, {verdict} {size(abs(memory.free))}"
  )


def _work(step: Step) -> Iterable[tuple[str, str]]:
  yield "FLOPs", _flops(step)
  yield "HBM traffic", size(step.bytes)
  if step.kernels:
    calls = (f"{name} x {n:g}" for name, n in sorted(step.kernels.items()))
    yield "Pallas kernels", ", ".join(calls)
  hidden, exposed = step.seconds_hidden, step.seconds_exposed
  yield "computing", f"{seconds(step.busy)} at least"
  if step.exchanging:
    yield "collectives", f"{seconds(step.exchanging)} at least"
  if exposed > 1.005 * hidden:
    times = f"{seconds(hidden)} if they are hidden, {seconds(exposed)} if not"
  else:
    times = f"{seconds(exposed)} at least"
  if step.name == programs.DECODE:
    times += "; all tokens, no row ending before"
  yield "predicted step time", times
  if step.model_flops:
    low, high = step.mfu(exposed), step.mfu(hidden)
    full = step.mfu(exposed, full=True), step.mfu(hidden, full=True)
    yield (
      "predicted MFU",
      f"{_range(low, high)} at most ({_range(*full)} with all of attention)",
    )


def _flops(step: Step) -> str:
  text = f"{step.flops / 1e12:,.4g} T"
  if step.model_flops:
    ratio = step.flops / step.model_flops
    text += f", {ratio:.2f} of the model's {step.model_flops / 1e12:,.4g} T"
  if step.unknown_kernels:
    text += "; those of kernels are the model's own"
  return text


def _range(low: float, high: float) -> str:
  if high - low < 5e-4:
    return f"{high:.1%}"
  return f"{low:.1%} to {high:.1%}"


def _exchanges(step: Step) -> Iterable[str]:
  for kind, one in sorted(step.collectives.items()):
    row = f"{kind:<24}{one.times:>6,.0f} x, {size(one.sent)} sent"
    if one.sent_far:
      row += f", {size(one.sent_far)} to other slices or hosts"
    yield f"{row}, {seconds(one.seconds)}"


def _refused(step: TooLarge) -> list[str]:
  needed = "" if step.needed is None else f", {size(step.needed)} wanted"
  return [
    f"{step.name} step: does NOT fit into {size(step.available)}{needed}",
    f"  {'parameters':<24}{size(step.parameters):>12}",
    f"  {'optimizer':<24}{size(step.optimizer):>12}",
    f"  the compiler says: {step.message}",
  ]


def remedies(answer: Answer, num_devices: int) -> str:
  """What to change in a run that does not fit, most promising first."""
  state, available = 0, 1
  for step in answer.too_large:
    state, available = step.parameters + step.optimizer, step.available
  for compiled in answer.steps:
    if compiled.memory.free < 0 and compiled.name == programs.TRAIN:
      memory = compiled.memory
      state, available = memory.parameters + memory.optimizer, memory.available
  found = []
  if state > _MOST * available:
    found.append(
      "parameters and optimizer fill the memory: cut them among more devices"
      " (--gin_file=meshes/fsdp.gin or meshes/two_d.gin), or take more chips"
    )
  else:
    found += [
      "recompute more: --gin.REMAT=full (or minimal)",
      "compute the batch in parts: --gin.NUM_MICROBATCHES=2 or more",
      "cut parameters and activations: --gin_file=meshes/fsdp.gin, or"
      " meshes/two_d.gin with a greater MODEL_PARALLEL",
    ]
  found.append("or let --search try these")
  return "; ".join(found)


def ranking(rows: Sequence[Mapping[str, str]]) -> str:
  """A table of trials, one line each."""
  columns = list(rows[0])
  widths = [max(len(c), *(len(r[c]) for r in rows)) for c in columns]
  lines = []
  for cells in (columns, *([row[c] for c in columns] for row in rows)):
    padded = (f"{x:<{w}}" for x, w in zip(cells, widths, strict=True))
    lines.append("  ".join(padded).rstrip())
  return "\n".join(lines)


def size(count: float) -> str:
  """Bytes in binary units."""
  for unit, name in _BYTES:
    if count >= unit:
      return f"{count / unit:,.2f} {name}"
  return f"{count:,.0f} B"


def seconds(value: float) -> str:
  """A time in the unit that suits it."""
  fitting = [pair for pair in _SECONDS if value >= pair[0]]
  unit, name = fitting[0] if fitting else _SECONDS[-1]
  return f"{value / unit:,.3g} {name}"
