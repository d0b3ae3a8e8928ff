"""One page about a run: what was run, what came of it, where the time went.

`write` reads what lies in the model directory (metrics.jsonl, predictions/,
the newest config.gin and environment.json) and writes loss.png and a
report.html that needs nothing beside it.  Whatever is absent is left out.
"""

import html
import itertools
import json
import os
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from t5x_lite import history, loss_plot, stopwatch
from t5x_lite import report_html as page

PICTURE = "loss.png"
PAGE = "report.html"
_FACTS = "report.json"

# Prefixes of metrics that tell what needs no model: a metric "rouge1" stands
# beside "lead_rouge1".
BASELINES = ("majority", "lead", "baseline")

# Groups of metrics that say how training went; all others are held out.
_TRAINING = ("train", "speed", "time", "memory")

# Of these, less is better.
_LOSSES = ("loss", "perplexity", "error", "bits_per_byte")

_SAMPLES = 3  # predictions shown of a file
_FIRST = ("inputs", "input", "prompt", "prediction", "output", "targets")


def write(
  workdir: str | os.PathLike[str],
  facts: Mapping[str, Any] | None = None,
  seconds: Mapping[str, float] | None = None,
) -> pathlib.Path:
  """Writes loss.png and report.html, and returns the path of the latter.

  Args:
    workdir: the model directory.
    facts: what was run, shown as a table: {"mixture": ..., "model": ...,
      "parameters": ...}.  Strings and numbers.
    seconds: the parts of the run, from `Stopwatch.seconds`.
      Both are kept in report.json for when the page is written again, by
      another command, without them.
  """
  workdir = pathlib.Path(workdir)
  kept = _keep(workdir / _FACTS, facts, seconds)
  rows = history.read(workdir / history.FILENAME)
  environment = _read_json(_newest(workdir, "environment", ".json"))
  lines = loss_plot.series(rows)
  light, dark = loss_plot.draw(lines), loss_plot.draw(lines, "dark")
  if light is not None:
    _write(workdir / PICTURE, light)
  last = f"{rows[-1]['step']:,} steps" if rows else "nothing logged yet"
  when = environment.get("time", "")
  sections = [
    page.section("What was run", page.facts(_what(kept["facts"], environment))),
    page.section("Loss", _loss(light, dark)),
    page.section("Held-out metrics", _held_out(rows)),
    page.section("Predictions", *_predictions(workdir / "predictions")),
    page.section("Training, last values", _training(rows)),
    page.section("Time", _times(kept["seconds"])),
    page.section(
      "Configuration", page.verbatim(_text(_newest(workdir, "config", ".gin")))
    ),
    page.section("Environment", page.facts(_environment(environment))),
  ]
  subtitle = " · ".join(filter(None, [last, when]))
  document = page.page(workdir.resolve().name, subtitle, sections)
  _write(workdir / PAGE, document.encode())
  return workdir / PAGE


def final_metrics(
  rows: Sequence[Mapping[str, Any]],
) -> dict[str, tuple[int, float | None]]:
  """The last value of everything in a history, and its step."""
  found = {}
  for row in rows:
    for name, value in row.items():
      if name != "step":
        found[name] = (row["step"], value)
  return found


def pairs(names: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
  """Metrics of one group, each with the names of its trivial baselines."""
  baselines = {
    f"{prefix}_{name}": name
    for name in names
    for prefix in BASELINES
    if f"{prefix}_{name}" in names
  }
  for name in names:
    if name not in baselines:
      yield name, [b for b, of in baselines.items() if of == name]


def _what(
  facts: Mapping[str, Any], environment: Mapping[str, Any]
) -> dict[str, Any]:
  return {**facts, "command": environment.get("command")}


def _loss(light: bytes | None, dark: bytes | None) -> str:
  if light is None or dark is None:
    return ""
  return page.picture(light, dark, "Training and held-out loss against steps")


def _held_out(rows: Sequence[Mapping[str, Any]]) -> str:
  """A table with each metric beside its trivial baseline."""
  final = final_metrics(rows)
  groups: dict[str, list[str]] = {}
  for name in final:
    group, _, metric = name.rpartition("/")
    if group not in _TRAINING:
      groups.setdefault(group, []).append(metric)
  cells = []
  for group, names in sorted(groups.items()):
    prefix = f"{group}/" if group else ""
    for metric, baselines in pairs(names):
      step, value = final[prefix + metric]
      shown = [final[prefix + name][1] for name in baselines]
      cells.append(
        (
          html.escape(prefix + metric),
          page.number(value),
          "<br>".join(
            f"{page.number(base)} ({html.escape(_kind(name, metric))})"
            for name, base in zip(baselines, shown, strict=True)
          ),
          "<br>".join(_difference(metric, value, base) for base in shown),
          f"{step:,}",
        )
      )
  headings = ("metric", "value", "trivial baseline", "difference", "step")
  return page.table(headings, cells) if cells else ""


def _kind(name: str, metric: str) -> str:
  return name.removesuffix(f"_{metric}")


def _difference(name: str, value: float | None, base: float | None) -> str:
  if value is None or base is None:
    return ""
  wins = value < base if name.endswith(_LOSSES) else value > base
  kind = "better" if wins else "worse"
  return f'<span class="{kind}">{value - base:+.4g}</span>'


def _training(rows: Sequence[Mapping[str, Any]]) -> str:
  final = final_metrics(rows)
  return page.facts(
    {
      name.partition("/")[2].replace("_", " "): page.number(value)
      for name, (_, value) in final.items()
      if name.partition("/")[0] in _TRAINING
    }
  )


def _predictions(directory: pathlib.Path) -> Iterator[str]:
  """Samples from the newest file of each task: <task>-<step>.jsonl."""
  newest = {}
  for path in sorted(directory.glob("*.jsonl"), key=_natural):
    newest[re.sub(r"[-_.]?\d+$", "", path.stem)] = path
  for path in newest.values():
    yield page.heading(path.stem)
    with open(path, encoding="utf-8", errors="replace") as f:
      for line in itertools.islice(f, _SAMPLES):
        try:
          row = json.loads(line)
        except ValueError:  # a line that a crash left incomplete
          continue
        if isinstance(row, dict):
          yield page.sample(_readable(row))


def _readable(row: Mapping[str, Any]) -> dict[str, Any]:
  """Fields for people, inputs first; without lists of ids."""
  order = {name: i for i, name in enumerate(_FIRST)}
  names = sorted(row, key=lambda name: order.get(name, len(order)))
  return {
    name: row[name]
    for name in names
    if isinstance(row[name], (str, int, float)) or _of_text(row[name])
  }


def _of_text(value: Any) -> bool:
  return isinstance(value, list) and all(isinstance(x, str) for x in value)


def _times(seconds: Mapping[str, float]) -> str:
  if not seconds:
    return ""
  total = stopwatch.duration(sum(seconds.values()))
  share = stopwatch.goodput(seconds)
  return page.times(seconds) + page.paragraph(
    f"{total} since the last start, of which {share:.0%} went into training"
    " steps. Speeds leave out"
    f" {', '.join(stopwatch.EXCLUDED)}."
  )


def _environment(found: Mapping[str, Any]) -> dict[str, Any]:
  """The parts of environment.json, one line each."""
  shown = {}
  for name, value in found.items():
    if name in ("command", "time") or value in (None, [], {}):
      continue
    if isinstance(value, Mapping):
      known = {k: v for k, v in value.items() if v is not None}
      value = ", ".join(f"{k} {v}" for k, v in known.items())
    elif isinstance(value, list):
      count = f" ({len(value)} in all)" if len(value) > 4 else ""
      value = ", ".join(map(str, value[:4])) + count
    shown[name.replace("_", " ")] = value
  return shown


def _keep(
  path: pathlib.Path,
  facts: Mapping[str, Any] | None,
  seconds: Mapping[str, float] | None,
) -> dict[str, Any]:
  """What is given, else what an earlier call was given."""
  kept = {"facts": {}, "seconds": {}, **_read_json(path)}
  given = {"facts": facts, "seconds": seconds}
  new = {name: dict(v) for name, v in given.items() if v is not None}
  if new:
    kept |= new
    _write(path, (json.dumps(kept, indent=2) + "\n").encode())
  return kept


def _newest(directory: pathlib.Path, stem: str, suffix: str) -> pathlib.Path:
  """config.gin, or the config-<n>.gin of the latest start."""
  found = directory.glob(f"{stem}*{suffix}")
  exact = re.compile(rf"{stem}(-(\d+))?{re.escape(suffix)}")
  numbered = [(m, p) for p in found if (m := exact.fullmatch(p.name))]
  newest = max(numbered, key=lambda mp: int(mp[0][2] or 1), default=None)
  return newest[1] if newest else directory / (stem + suffix)


def _natural(path: pathlib.Path) -> list[Any]:
  """Sorts numbers in names by value: step-900 before step-1000."""
  parts = re.split(r"(\d+)", path.name)
  return [int(part) if part.isdigit() else part for part in parts]


def _text(path: pathlib.Path) -> str:
  return path.read_text(encoding="utf-8") if path.exists() else ""


def _read_json(path: pathlib.Path) -> dict[str, Any]:
  try:
    found = json.loads(_text(path) or "{}")
  except ValueError:  # not worth losing the report for
    return {}
  return found if isinstance(found, dict) else {}


def _write(path: pathlib.Path, data: bytes) -> None:
  """All of a file or nothing."""
  temporary = path.with_name(f".{path.name}.new")
  temporary.write_bytes(data)
  temporary.replace(path)
