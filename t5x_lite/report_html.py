"""Pieces of the report's page; all text that goes in is escaped here."""

import base64
import html
import importlib.resources
import string
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from t5x_lite import stopwatch

_LONGEST = 500  # characters of a text that are shown


def page(title: str, subtitle: str, sections: Iterable[str]) -> str:
  """The whole document."""
  source = importlib.resources.files("t5x_lite") / "report_template.html"
  return string.Template(source.read_text(encoding="utf-8")).substitute(
    title=html.escape(title),
    subtitle=html.escape(subtitle),
    sections="\n".join(section for section in sections if section),
  )


def section(title: str, *content: str) -> str:
  """A headed part of the page; nothing at all without content."""
  body = "\n".join(piece for piece in content if piece)
  heading = f"<h2>{html.escape(title)}</h2>"
  return f"<section>\n{heading}\n{body}\n</section>" if body else ""


def facts(values: Mapping[str, Any]) -> str:
  """A table of names and values; integers with separators."""
  rows = [
    f'<tr><th scope="row">{html.escape(str(name))}</th>'
    f"<td>{html.escape(_plain(value))}</td></tr>"
    for name, value in values.items()
    if value is not None
  ]
  return f'<table class="facts">{"".join(rows)}</table>' if rows else ""


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
  """A table of cells that are HTML already; all but the first are numbers."""
  classes = ["", *[' class="number"'] * (len(headings) - 1)]
  head = "".join(
    f'<th scope="col"{kind}>{html.escape(text)}</th>'
    for kind, text in zip(classes, headings, strict=True)
  )
  body = "\n".join(
    "<tr>"
    + "".join(
      f"<td{kind}>{cell}</td>" for kind, cell in zip(classes, row, strict=True)
    )
    + "</tr>"
    for row in rows
  )
  return (
    f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n'
    f"<tbody>\n{body}\n</tbody></table></div>"
  )


def picture(light: bytes, dark: bytes, description: str) -> str:
  """An image inlined twice, for light and dark pages."""
  inline = {
    mode: "data:image/png;base64," + base64.b64encode(data).decode()
    for mode, data in (("light", light), ("dark", dark))
  }
  return (
    '<picture><source media="screen and (prefers-color-scheme: dark)"'
    f' srcset="{inline["dark"]}">'
    f'<img src="{inline["light"]}" alt="{html.escape(description)}"></picture>'
  )


def sample(values: Mapping[str, Any]) -> str:
  """One prediction with its input and target."""
  pairs = "".join(
    f'<dt>{html.escape(str(name))}</dt><dd class="text">'
    f"{html.escape(shorten(_plain(value)))}</dd>"
    for name, value in values.items()
  )
  return f"<dl>{pairs}</dl>"


def times(seconds: Mapping[str, float]) -> str:
  """A table of parts of a run with a bar for each."""
  total = sum(seconds.values())
  if total <= 0:
    return ""
  rows = []
  for name, part in sorted(seconds.items(), key=lambda item: -item[1]):
    share = part / total
    rows.append(
      f'<tr><th scope="row">{html.escape(name)}</th>'
      f'<td class="number">{stopwatch.duration(part)}</td>'
      f'<td class="number">{share:.1%}</td>'
      f'<td class="bar"><div style="width:{share:.2%}"></div></td></tr>'
    )
  return f"<table>{''.join(rows)}</table>"


def verbatim(text: str) -> str:
  """A text as it is, in a box."""
  return f"<pre>{html.escape(text)}</pre>" if text.strip() else ""


def paragraph(text: str) -> str:
  """A quiet sentence."""
  return f'<p class="quiet">{html.escape(text)}</p>'


def heading(text: str) -> str:
  """A heading within a section."""
  return f"<h3>{html.escape(text)}</h3>"


def number(value: float | None) -> str:
  """Four significant digits, or a word for what is not a number."""
  if value is None:
    return "not finite"
  if abs(value) >= 10_000:
    return f"{value:,.0f}"
  return f"{value:.4g}"


def shorten(text: str) -> str:
  """The beginning of a long text."""
  if len(text) <= _LONGEST:
    return text
  return f"{text[:_LONGEST]} … ({len(text) - _LONGEST:,} characters more)"


def _plain(value: Any) -> str:
  if isinstance(value, bool) or not isinstance(value, int):
    return str(value)
  return f"{value:,}"
