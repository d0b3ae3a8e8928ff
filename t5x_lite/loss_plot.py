"""The picture of a run: training loss and held-out losses against steps."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

TRAINING = "train/loss"

_LONG = 5000  # steps from which the axis is logarithmic
_MANY = 100  # points from which a line is smoothed

# Okabe and Ito's colours, told apart with any colour vision; dashes help too.
_COLOURS = {
  "light": ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00"),
  "dark": ("#56B4E9", "#E69F00", "#2FBF8F", "#E39BC3", "#F0E442"),
}
_PAPER = {
  "light": {"back": "#ffffff", "text": "#24292f", "grid": "#d8dee4"},
  "dark": {"back": "#16191d", "text": "#d5dae0", "grid": "#32383f"},
}
_DASHES = ("-", (0, (5, 2)), (0, (2, 1.5)), (0, (7, 2, 2, 2)))

Points = tuple[np.ndarray, np.ndarray]  # steps, losses


def series(rows: Sequence[Mapping[str, Any]]) -> dict[str, Points]:
  """Losses in a history by name, the training loss first.

  A loss is what is called "loss" in any group: "train/loss", "eval/c4/loss".
  Values that are null (not finite) are left out.
  """
  names = {
    name for row in rows for name in row if name.rpartition("/")[2] == "loss"
  }
  found = {}
  for name in sorted(names, key=lambda name: (name != TRAINING, name)):
    points = [
      (row["step"], row[name]) for row in rows if row.get(name) is not None
    ]
    if points:
      steps, losses = zip(*points, strict=True)
      found[name] = np.array(steps), np.array(losses, np.float64)
  return found


def smooth(losses: np.ndarray) -> np.ndarray:
  """Means over about a fiftieth of the points around each, fewer at the start.

  There the loss falls steeply, and a logarithmic axis spreads it out.
  """
  count, at = len(losses), np.arange(len(losses))
  reach = np.minimum(max(2, count // 100), at // 4)
  sums = np.concatenate([[0.0], np.cumsum(losses)])
  first, end = at - reach, np.minimum(at + reach + 1, count)
  return (sums[end] - sums[first]) / (end - first)


def draw(lines: Mapping[str, Points], mode: str = "light") -> bytes | None:
  """A PNG of 1200 x 675 pixels; None if there is nothing to draw.

  Args:
    lines: what `series` returns.
    mode: "light" or "dark", the page around it.
  """
  if not lines:
    return None
  from matplotlib import figure, ticker

  paper = _PAPER[mode]
  image = figure.Figure(figsize=(8, 4.5), dpi=150, layout="constrained")
  image.set_facecolor(paper["back"])
  axes = image.add_subplot(facecolor=paper["back"])
  for i, (name, points) in enumerate(lines.items()):
    colour = _COLOURS[mode][i % len(_COLOURS[mode])]
    _draw_line(axes, name, points, colour, _DASHES[i % len(_DASHES)])
  last = max(int(steps[-1]) for steps, _ in lines.values())
  if last >= _LONG:
    axes.set_xscale("log")
    axes.set_xlim(last / 1000, last * 1.1)
  else:
    axes.set_xlim(-0.01 * last, 1.02 * last + 1)
    axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    axes.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,.0f}"))
  axes.set_ylim(*_limits([losses for _, losses in lines.values()]))
  axes.set_xlabel("training step", color=paper["text"])
  axes.set_ylabel("loss per token (nats)", color=paper["text"])
  axes.tick_params(colors=paper["text"], which="both")
  axes.grid(color=paper["grid"], linewidth=0.7)
  axes.set_axisbelow(True)
  for side, spine in axes.spines.items():
    spine.set_visible(side in ("left", "bottom"))
    spine.set_color(paper["grid"])
  image.legend(  # outside, where it hides no curve
    frameon=False,
    labelcolor=paper["text"],
    loc="outside upper left",
    ncols=2,
    handlelength=3,
  )
  buffer = io.BytesIO()
  image.savefig(buffer, format="png", metadata={"Software": None})
  return buffer.getvalue()


def _draw_line(
  axes: Any, name: str, points: Points, colour: str, dashes: Any
) -> None:
  steps, losses = points
  label = "training" if name == TRAINING else name.rpartition("/")[0]
  if len(steps) > _MANY:
    axes.plot(steps, losses, color=colour, linewidth=0.6, alpha=0.35)
    losses = smooth(losses)
  few = {"marker": "o", "markersize": 4} if len(steps) <= 30 else {}
  axes.plot(
    steps,
    losses,
    color=colour,
    linestyle=dashes,
    linewidth=1.8,
    label=f"{label}: {losses[-1]:#.3g} at the end",
    **few,
  )


def _limits(losses: Sequence[np.ndarray]) -> tuple[float, float]:
  """Bounds of the vertical axis; lone spikes on the way are cut off."""
  everything = np.concatenate(losses)
  low, high = everything.min(), np.percentile(everything, 99.5)
  high = max(high, *(max(line[0], line[-1]) for line in losses))
  margin = max(0.05 * (high - low), 0.01 * max(abs(high), 1e-3))
  return low - margin, high + margin
