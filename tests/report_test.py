"""The report of whole and of half-made runs."""

import base64
import html.parser
import json
import re
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from t5x_lite import errors, loss_plot, report

PNG = b"\x89PNG\r\n\x1a\n"


def write_rows(workdir, rows):
  lines = [json.dumps(row) for row in rows]
  (workdir / "metrics.jsonl").write_text("\n".join(lines) + "\n")


def write_predictions(workdir, name, rows):
  (workdir / "predictions").mkdir(exist_ok=True)
  text = "".join(json.dumps(row) + "\n" for row in rows)
  (workdir / "predictions" / f"{name}.jsonl").write_text(text)


class Checker(html.parser.HTMLParser):
  """Collects text and links; fails on tags that are not closed in order."""

  VOID = ("meta", "img", "source", "br")

  def __init__(self, document):
    super().__init__()
    self.open, self.text, self.links, self.headings = [], [], [], []
    self.feed(document)
    assert self.open == []

  def handle_starttag(self, tag, attributes):
    self.links += [v for k, v in attributes if k in ("src", "srcset", "href")]
    if tag not in self.VOID:
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    if data.strip() and "style" not in self.open:
      self.text.append(data.strip())
      if self.open[-1] == "h2":
        self.headings.append(data)


def read(workdir):
  return Checker((workdir / "report.html").read_text())


@pytest.fixture
def run(tmp_path):
  """A model directory as a finished run leaves it."""
  workdir = tmp_path / "my <run>"
  workdir.mkdir()
  losses = [
    {"step": step, "train/loss": 10 / step, "speed/tokens_per_second": 12345.6}
    for step in range(10, 101, 10)
  ]
  losses[4]["eval/corpus/loss"] = 0.5
  losses[-1] |= {
    "eval/corpus/loss": 0.25,
    "eval/summary/rouge1": 27.5,
    "eval/summary/lead_rouge1": 21.25,
    "eval/package/accuracy": 30.0,
    "eval/package/majority_accuracy": 31.5,
    "eval/package/baseline_accuracy": 10.0,
  }
  write_rows(workdir, losses)
  row = {
    "inputs": "x < y & z",
    "prediction": "<script>alert(1)</script>",
    "targets": ["one", "two"],
    "tokens": [5, 6, 1],
    "score": -1.5,
  }
  write_predictions(workdir, "summary-900", [{"inputs": "old"}])
  write_predictions(workdir, "summary-1000", [row] * 9)
  write_predictions(workdir, "package-1000", [{"inputs": "long " * 1000}])
  (workdir / "config.gin").write_text("OLD = 1\n")
  (workdir / "config-2.gin").write_text("DIM = 8  # <b>a.gin</b>:1\n")
  (workdir / "config-10.gin").write_text("NEW = 2  # <b>a.gin</b>:1\n")
  environment = {
    "time": "2026-01-02T03:04:05",
    "command": "t5x_lite train --gin.X='<>'",
    "versions": {"python": "3.12", "libtpu": None},
    "devices": ["cpu:0", "cpu:1"],
  }
  (workdir / "environment.json").write_text(json.dumps(environment))
  return workdir


def test_report_of_a_whole_run(run):
  facts = {"mixture": "docs", "parameters": 76961152}
  seconds = {"step": 75.0, "compile": 25.0, "evaluation": 0.0}
  assert report.write(run, facts, seconds) == run / "report.html"
  page = read(run)
  assert page.headings == [
    "What was run",
    "Loss",
    "Held-out metrics",
    "Predictions",
    "Training, last values",
    "Time",
    "Configuration",
    "Environment",
  ]
  text = "\n".join(page.text)
  assert "my <run>\n100 steps · 2026-01-02T03:04:05" in text
  assert "mixture\ndocs\nparameters\n76,961,152\ncommand\nt5x_lite" in text
  assert "eval/summary/rouge1\n27.5\n21.25 (lead)\n+6.25\n100" in text
  assert (
    "eval/package/accuracy\n30\n31.5 (majority)\n10 (baseline)\n-1.5\n+20\n100"
    in text
  )
  assert "eval/corpus/loss\n0.25\n100" in text
  assert "tokens per second\n12,346" in text
  assert "step\n1:15\n75.0%\ncompile\n25.0 s\n25.0%" in text
  assert "NEW = 2  # <b>a.gin</b>:1" in text
  assert "DIM" not in text and "OLD" not in text
  assert "versions\npython 3.12\n" in text
  assert "devices\ncpu:0, cpu:1" in text


def test_predictions_are_escaped_shortened_and_of_the_newest_step(run):
  report.write(run)
  text = "\n".join(read(run).text)
  shown = "inputs\nx < y & z\nprediction\n<script>alert(1)</script>\ntargets"
  assert text.count(shown) == 3
  assert "summary-1000" in text and "summary-900" not in text
  assert "[5, 6, 1]" not in text
  assert "(4,500 characters more)" in text
  assert "<script" not in (run / "report.html").read_text()


def test_page_needs_nothing_beside_it(run):
  report.write(run)
  links = read(run).links
  assert len(links) == 2  # the picture for dark and light pages
  for link in links:
    kind, _, data = link.partition(",")
    assert kind == "data:image/png;base64"
    assert base64.b64decode(data).startswith(PNG)
  document = (run / "report.html").read_text()
  assert not re.search(r"https?://|url\(|@import|<script|<link", document)
  light = base64.b64decode(links[1].partition(",")[2])
  assert (run / "loss.png").read_bytes() == light


def test_what_is_given_once_is_kept(run):
  report.write(run, {"mixture": "docs"}, {"step": 60.0})
  first = (run / "report.html").read_text()
  report.write(run)
  assert (run / "report.html").read_text() == first
  report.write(run, {"mixture": "other"})
  text = "\n".join(read(run).text)
  assert "mixture\nother" in text and "step\n1:00\n100.0%" in text


def test_empty_directory(tmp_path):
  report.write(tmp_path)
  page = read(tmp_path)
  assert page.headings == []
  assert page.text[-1] == "nothing logged yet"
  assert not (tmp_path / "loss.png").exists()


def test_one_point_and_no_evaluation(tmp_path):
  write_rows(tmp_path, [{"step": 1, "train/loss": 3.5}])
  report.write(tmp_path)
  page = read(tmp_path)
  assert page.headings == ["Loss", "Training, last values"]
  assert (tmp_path / "loss.png").read_bytes().startswith(PNG)


def test_losses_that_are_not_finite(tmp_path):
  write_rows(
    tmp_path,
    [{"step": 1, "train/loss": 3.5}, {"step": 2, "train/loss": None}],
  )
  report.write(tmp_path)
  assert "loss\nnot finite" in "\n".join(read(tmp_path).text)


def test_files_that_a_crash_left_incomplete_do_not_matter(run):
  for name in ("metrics.jsonl", "predictions/summary-1000.jsonl"):
    path = run / name
    path.write_bytes(path.read_bytes()[:-4])
  (run / "environment.json").write_text('{"time": ')
  report.write(run)
  assert "90 steps" in read(run).text


def test_damaged_history_is_named(run):
  (run / "metrics.jsonl").write_text('{"step": 1}\nx\n{"step": 3}\n')
  with pytest.raises(errors.DataError, match=r"metrics.jsonl, line 2"):
    report.write(run)


def test_less_is_better_for_losses(tmp_path):
  write_rows(tmp_path, [{"step": 1, "a/loss": 2.0, "a/baseline_loss": 3.0}])
  report.write(tmp_path)
  document = (tmp_path / "report.html").read_text()
  assert '<span class="better">-1</span>' in document


def pixels(png, box=None):
  """RGB of a PNG as floats."""
  import io

  from matplotlib import image

  return image.imread(io.BytesIO(png))[..., :3]


@pytest.mark.parametrize("mode", ["light", "dark"])
@pytest.mark.parametrize("last", [1, 30, 2000, 100_000])
def test_picture_shows_each_line_in_its_colour(mode, last):
  steps = np.unique(np.linspace(1, last, 300).astype(int))
  rows = [
    {"step": int(s), "train/loss": 2 + 8 / s**0.3, "eval/loss": 3 + 8 / s**0.3}
    for s in steps
  ]
  lines = loss_plot.series(rows)
  assert list(lines) == ["train/loss", "eval/loss"]
  image = pixels(loss_plot.draw(lines, mode))
  assert image.shape == (675, 1200, 3)
  corner = image[0, 0]
  assert corner.mean() > 0.9 if mode == "light" else corner.mean() < 0.2
  for colour in loss_plot._COLOURS[mode][:2]:
    rgb = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    same = np.abs(image[80:] - rgb).max(-1) < 0.02  # below the legend
    assert same.sum() > 40


def test_same_history_gives_the_same_picture():
  lines = loss_plot.series([{"step": 1, "train/loss": 3.0}])
  assert loss_plot.draw(lines) == loss_plot.draw(lines)


def test_a_spike_does_not_flatten_the_curve():
  losses = np.linspace(5, 2, 400)
  losses[200] = 1e6
  low, high = loss_plot._limits([losses])
  assert 1 < low < 2 and 5 < high < 10


def test_smoothing_keeps_constants_lengths_and_the_start():
  constant = np.full(500, 2.5)
  np.testing.assert_allclose(loss_plot.smooth(constant), constant)
  steep = np.geomspace(10, 1, 500)
  smoothed = loss_plot.smooth(steep)
  assert smoothed.shape == steep.shape
  np.testing.assert_allclose(smoothed, steep, rtol=0.03)
  noise = np.random.default_rng(0).standard_normal(500)
  assert loss_plot.smooth(noise).std() < 0.5 * noise.std()


def test_matplotlib_is_loaded_only_to_draw(tmp_path):
  script = textwrap.dedent("""
    import sys
    from t5x_lite import report
    report.write(sys.argv[1])
    sys.exit(any(name in sys.modules for name in ("matplotlib", "jax")))
  """)
  command = [sys.executable, "-c", script, str(tmp_path)]
  assert subprocess.run(command, check=False).returncode == 0
