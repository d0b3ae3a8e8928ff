"""Pictures of figures that are measured at several lengths."""

import io
import pathlib
from collections.abc import Mapping, Sequence

# Okabe and Ito's colours, told apart with any colour vision.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")
_MARKERS = "osD^v"
_TEXT, _GRID = "#24292f", "#d8dee4"

Lines = Mapping[str, Sequence[tuple[float, float]]]  # (length, value) by name


def draw(
  path: pathlib.Path,
  panels: Mapping[str, Lines],
  *,
  logarithmic: bool = False,
  marked: tuple[float, str] | None = None,
  lines: Mapping[str, float] | None = None,
) -> None:
  """Writes a PNG with a panel beside the other for each label of values.

  Args:
    path: of the PNG.
    panels: lines by the label of their values.
    logarithmic: the axis of values, as that of lengths is.
    marked: a length, and what is there.
    lines: values that are the same at all lengths, by name.
  """
  from matplotlib import figure, ticker

  size = (8 if len(panels) == 1 else 10, 4.5)
  image = figure.Figure(figsize=size, dpi=150, layout="constrained")
  for i, (label, found) in enumerate(panels.items()):
    axes = image.add_subplot(1, len(panels), i + 1)
    for j, (name, points) in enumerate(found.items()):
      axes.plot(
        *zip(*points, strict=True),
        color=_COLOURS[j % len(_COLOURS)],
        marker=_MARKERS[j % len(_MARKERS)],
        markersize=4,
        linewidth=1.8,
        label=name if i == 0 else None,
      )
    axes.set_xscale("log", base=2)
    if logarithmic:
      axes.set_yscale("log")
    else:
      axes.set_ylim(-3, 103)
    for name, value in (lines or {}).items():
      axes.axhline(value, color=_TEXT, linewidth=0.8, linestyle=":", label=name)
    if marked is not None:
      axes.axvline(marked[0], color=_TEXT, linewidth=0.8, linestyle="--")
      axes.annotate(
        f" {marked[1]}", (marked[0], 1), color=_TEXT, fontsize="small"
      )
    axes.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,.0f}"))
    axes.tick_params(colors=_TEXT, which="both")
    axes.set_xlabel("tokens of a row", color=_TEXT)
    axes.set_ylabel(label, color=_TEXT)
    axes.grid(color=_GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
      spine.set_visible(side in ("left", "bottom"))
      spine.set_color(_GRID)
  image.legend(
    frameon=False, labelcolor=_TEXT, loc="outside upper left", ncols=5
  )
  buffer = io.BytesIO()
  image.savefig(buffer, format="png", metadata={"Software": None})
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(buffer.getvalue())
