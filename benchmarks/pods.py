"""What published models need and reach on named pods: predicted, not run.

Each row is compiled by `t5x_lite compile` for chips that are not here, and kept
as JSON, so that a broken run goes on where it stopped.  Needs the compilers:
pip install 't5x_lite[compile]'.

  python benchmarks/pods.py --out=runs/pods [--rows bert_large,palm_540b]
  python benchmarks/pods.py --out=runs/pods --table
"""

import argparse
import dataclasses
import json
import pathlib
import subprocess
import sys
import time
from typing import Any

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Row:
  """A model on a machine.

  Attributes:
    title: of the table.
    topology: see `t5x_lite compile`.
    model: gin file.
    objective: likewise.
    mesh: likewise.
    batch: rows over all devices.
    lengths: of a row, by feature.
    settings: further macros.
    num_slices: of a TPU.
    files: further gin files.
    published: what was measured by others on such a machine.
  """

  title: str
  topology: str
  model: str
  objective: str
  mesh: str
  batch: int
  lengths: dict[str, int]
  settings: dict[str, Any] = dataclasses.field(default_factory=dict)
  num_slices: int = 1
  files: tuple[str, ...] = ()
  published: str = ""

  def flags(self) -> list[str]:
    """Of the command line."""
    names = (self.model, self.objective, *self.files, self.mesh)
    settings = {
      "BATCH_SIZE": self.batch,
      "FEATURE_LENGTHS": self.lengths,
      "STEPS": ("train",),
      **self.settings,
    }
    return [
      f"--topology={self.topology}",
      f"--num_slices={self.num_slices}",
      *(f"--gin_file={name}.gin" for name in names),
      *(f"--gin.{name}={value}" for name, value in settings.items()),
    ]


_T5 = {"inputs": 512, "targets": 114}
_ADAM = ("optimizers/adamw",)
_FULL, _MINIMAL = {"REMAT": "full"}, {"REMAT": "minimal"}

ROWS = {
  "bert_large": Row(
    "BERT-large", "v5e:4x4", "models/bert/large_uncased",
    "objectives/masked_lm", "meshes/data", 256, {"inputs": 512}, _MINIMAL,
    files=_ADAM,
  ),
  "bart_large": Row(
    "BART-large", "v5e:4x4", "models/bart/large", "objectives/seq2seq",
    "meshes/data", 128, {"inputs": 512, "targets": 512}, _MINIMAL, files=_ADAM,
  ),
  "llama3_8b": Row(
    "LLaMA-3 8B", "v6e:16x16", "models/llama3/8b", "objectives/causal_lm",
    "meshes/fsdp", 512, {"targets": 8192}, _FULL, files=_ADAM,
    published="45.46 (MaxText, LLaMA-3.1 8B, all of attention)",
  ),
  "t5_1_1_xxl": Row(
    "T5.1.1 XXL", "v5e:16x16", "models/t5_1_1/xxl", "objectives/seq2seq",
    "meshes/fsdp", 2048, _T5, _MINIMAL,
  ),
  "palm_540b": Row(
    "PaLM 540B, one pod", "v4:12x16x16", "models/palm/540b",
    "objectives/causal_lm", "meshes/two_d", 1024, {"targets": 2048},
    # 12 parts of 256,000 pieces are not whole: padded.
    {
      **_FULL, "MODEL_PARALLEL": 12, "VOCAB_SIZE": 256512,
      "NUM_MICROBATCHES": 4,
    },
  ),
  "palm_540b_two_pods": Row(
    "PaLM 540B, two pods", "v4:12x16x16", "models/palm/540b",
    "objectives/causal_lm", "meshes/multislice", 2048, {"targets": 2048},
    {
      **_FULL, "MODEL_PARALLEL": 12, "VOCAB_SIZE": 256512,
      "NUM_MICROBATCHES": 4,
    },
    num_slices=2, published="46.2 (paper)",
  ),
  "mamba_2_8b": Row(
    "Mamba 2.8B", "v5e:8x8", "models/mamba/2_8b", "objectives/causal_lm",
    "meshes/fsdp", 256, {"targets": 2048}, _FULL, files=_ADAM,
  ),
  "llama3_70b": Row(
    "LLaMA-3 70B", "v6e:16x16", "models/llama3/70b", "objectives/causal_lm",
    "meshes/fsdp", 256, {"targets": 8192}, _FULL, files=_ADAM,
    published="50.33 (MaxText, LLaMA-3.1 70B, all of attention)",
  ),
  "flan_t5_xxl": Row(
    "Flan-T5 XXL", "v5e:16x16", "models/flan_t5/xxl", "objectives/seq2seq",
    "meshes/fsdp", 512, {"inputs": 2048, "targets": 512}, _MINIMAL,
  ),
  "palm_62b": Row(
    "PaLM 62B", "v4:8x8x8", "models/palm/62b", "objectives/causal_lm",
    "meshes/two_d", 512, {"targets": 2048}, {**_FULL, "MODEL_PARALLEL": 4},
  ),
}  # fmt: skip


def compiled(row: Row) -> dict[str, Any]:
  """The report of a row, with how long it took and what failed."""
  begin = time.monotonic()
  command = ["compile", "--json", *row.flags()]
  done = subprocess.run(
    [sys.executable, "-m", "t5x_lite", *command],
    capture_output=True,
    text=True,
  )
  seconds = time.monotonic() - begin
  text = done.stdout
  found = json.loads(text[text.index("{") :]) if "{" in text else {}
  found |= {"command": ["t5x_lite", *command], "seconds": seconds}
  if not found.get("steps") and not found.get("too_large"):
    found["failed"] = done.stderr.strip().splitlines()[-1:]
  return found


def table(out: pathlib.Path) -> str:
  """Markdown of all rows; those not compiled are named under it."""
  head = [
    *("model", "machine", "mesh", "rows a device", "HBM used", "free"),
    *("TFLOPs a step", "collectives sent", "step", "MFU"),
    *("MFU, all of attention", "published"),
  ]
  lines = [_line(head), _line(["---", "---", "---"] + ["--:"] * 8 + ["---"])]
  lines_left = []
  for name, row in ROWS.items():
    path = out / f"{name}.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    if found.get("steps"):
      lines.append(_line(_cells(row, found)))
    elif found.get("too_large"):
      wanted = found["too_large"][0]["needed"] or 0
      lines_left.append(f"{name} does not fit: {wanted / GIB:.1f} GiB wanted")
    else:
      lines_left.append(f"{name}: {found.get('failed', 'not compiled')}")
  return "\n".join([*lines, "", *lines_left])


def _line(cells: list[str]) -> str:
  return f"| {' | '.join(cells)} |"


def _cells(row: Row, found: dict[str, Any]) -> list[str]:
  (step,) = found["steps"]
  memory, mfu = step["memory"], step["predicted_mfu"]
  times = step["seconds"]
  sent = sum(
    kind["sent"] + kind["sent_far"] for kind in step["collectives"].values()
  )
  slices = f"{found['num_slices']} x " if found["num_slices"] > 1 else ""
  return [
    row.title,
    slices + found["topology"],
    " x ".join(f"{k} {v}" for k, v in found["mesh"].items()),
    f"{row.batch / step['num_devices']:.3g}",
    f"{memory['used'] / GIB:.2f} GiB",
    f"{memory['free'] / GIB:.2f} GiB",
    f"{step['flops'] / 1e12:.1f}",
    f"{sent / GIB:.2f} GiB",
    f"{times['exchanges_hidden']:.3g} to {times['exchanges_exposed']:.3g} s",
    _percents(mfu["exchanges_exposed"], mfu["exchanges_hidden"]),
    _percents(mfu["full_attention_exposed"], mfu["full_attention_hidden"]),
    row.published,
  ]


def _percents(low: float, high: float) -> str:
  return f"{low * 100:.1f} to {high * 100:.1f}"


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--out", type=pathlib.Path, required=True)
  parser.add_argument("--rows", default=",".join(ROWS))
  parser.add_argument("--table", action="store_true", help="print it, no more")
  given = parser.parse_args()
  given.out.mkdir(parents=True, exist_ok=True)
  for name in [] if given.table else given.rows.split(","):
    path = given.out / f"{name}.json"
    if path.exists() and not json.loads(path.read_text()).get("failed"):
      continue
    found = compiled(ROWS[name])
    path.write_text(json.dumps(found, indent=1))
    outcome = found.get("failed") or f"{found['seconds']:.0f} s"
    print(f"{name}: {outcome}", file=sys.stderr)
  print(table(given.out))


if __name__ == "__main__":
  main()
