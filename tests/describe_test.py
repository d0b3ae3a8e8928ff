"""Tables of a dry run, whole and at the width of a file."""

import io
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from rich import console

from t5x_lite import (
  describe,
  optimizers,
  partitioning,
  schedules,
  sizes,
  trainer,
)
from t5x_lite import objectives as objectives_lib
from tests import tiny


def render(*tables, width=100):
  """The lines that a file gets, without trailing spaces."""
  made = console.Console(file=io.StringIO(), width=width)
  describe.show(tables, made)
  return [line.rstrip() for line in made.file.getvalue().splitlines()]


@pytest.fixture(scope="module")
def abstract():
  """A state laid out on 2 x 4 devices."""
  partitioner = partitioning.Partitioner(
    {"data": 2, "model": 4},
    {"embed": "data", "heads": "model", "mlp": "model", "vocab": "model"},
  )
  made = trainer.Trainer(
    tiny.t5(encoder_layers=2, decoder_layers=3, tied=True),
    objectives_lib.Seq2Seq(),
    optimizers.adamw(),
    partitioner,
  )
  return made.abstract, partitioner.mesh


def test_parameters_whole(abstract):
  lines = render(describe.parameters(abstract[0].model))
  assert lines[0] == "Parameters"
  assert lines[2] == "─" * 100
  assert [line.split() for line in lines[3:10]] == [
    ["decoder/", "17,088"],
    ["bias/table", "8x4", "-", "heads:model", "32"],
    ["final_norm/scale", "16", "embed:data", "16"],
    ["layers/attention/norm/scale", "3x16", "layers", "embed:data", "48"],
    [
      "layers/attention/sublayer/key/kernel",
      "3x16x4x8",
      *("layers", "embed:data", "heads:model", "1,536"),
    ],
    ["head_dim"],  # folded below the other axes
    [
      "layers/attention/sublayer/out/kernel",
      "3x4x8x16",
      *("layers", "heads:model", "head_dim", "1,536"),
    ],
  ]


def test_every_parameter_has_one_row_and_the_counts_add_up(abstract):
  model = abstract[0].model
  lines = render(describe.parameters(model), width=200)
  total = sum(x.size for x in jax.tree.leaves(model))
  rows = [line.split() for line in lines[3:] if line]
  counts = {row[0]: int(row[-1].replace(",", "")) for row in rows}
  assert counts.pop("all") == total
  parts = [n for n in counts if n.endswith("/") and n.count("/") == 1]
  assert parts == ["decoder/", "embedding/", "encoder/"]
  assert sum(counts[part] for part in parts) == total
  assert len(rows) - 1 - len(parts) == len(jax.tree.leaves(model))


def test_plain_arrays_have_no_axes_and_no_mesh():
  tree = {"a": {"b": jax.ShapeDtypeStruct((3, 5), jnp.float32)}}
  assert render(describe.parameters(tree)) == [
    "Parameters",
    "name  shape  axes  count",
    "────────────────────────",
    "a/                    15",
    "  b   3x5    - -      15",
    "",
    "all                   15",
    "",
  ]


def test_memory_counts_shards(abstract):
  state, mesh = abstract

  def on(*axes):
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))

  parameters = {
    "whole": jax.ShapeDtypeStruct((1000,), jnp.float32, sharding=on()),
    "halves": jax.ShapeDtypeStruct((1000,), jnp.float32, sharding=on("data")),
    "eighths": jax.ShapeDtypeStruct(
      (100, 80), jnp.bfloat16, sharding=on("model", "data")
    ),
  }
  optimizer = {"step": jax.ShapeDtypeStruct((), jnp.int32)}
  tables = describe.memory({"parameters": parameters, "optimizer": optimizer})
  lines = render(tables)
  assert lines[3].split() == (
    ["parameters", "8", "kB", "24", "kB", "bfloat16,", "float32"]
  )
  assert lines[4].split() == ["optimizer", "4", "bytes", "4", "bytes"]
  assert lines[6].split() == ["together", "8", "kB", "24", "kB"]
  at_host = on("data").with_memory_kind("pinned_host")
  moment = jax.ShapeDtypeStruct((1000,), jnp.float32, sharding=at_host)
  tables = describe.memory({"optimizer": {"moment": moment, **optimizer}})
  assert "4 bytes + 2 kB with the host" in render(tables)[3]
  local = sizes.on_device(state.model)
  full = sum(x.size * 4 for x in jax.tree.leaves(state.model))
  assert full / 8 < local < full / 4


def test_mesh(abstract):
  assert [line.split() for line in render(describe.mesh(abstract[1]))[3:]] == [
    ["data", "2"],
    ["model", "4"],
    [],
    ["all", "(cpu)", "8"],
    [],
  ]


def rates(schedule, num_steps):
  rows = [
    line.split() for line in render(describe.schedule(schedule, num_steps))
  ]
  return {row[0]: (row[1], len("".join(row[2:]))) for row in rows[3:-1]}


def test_schedule_shows_the_peak_between_its_steps():
  shown = rates(schedules.warmup_linear(0.5, 600, 2000), 2001)
  assert list(shown)[:5] == ["0", "20", "100", "200", "500"]
  peak = [step for step, (_, bar) in shown.items() if bar == 30]
  assert len(peak) == 1 and abs(int(peak[0]) - 600) <= 10
  assert shown["0"] == ("0", 0)
  assert shown["1,000"] == ("0.357", 21)
  assert shown["2,000"] == ("0", 0)


@pytest.mark.parametrize("num_steps", [0, 1, 2, 7])
def test_schedule_of_short_runs(num_steps):
  shown = rates(schedules.constant(0.001), num_steps)
  assert list(shown.values()) == [("0.001", 30)] * len(shown)
  assert 1 <= len(shown) <= max(1, num_steps)


def test_a_schedule_of_zeros():
  assert rates(schedules.constant(0.0), 100)["99"] == ("0", 0)


def decoders(decode):
  return {"inputs": decode, "targets": decode}


def test_sample_is_the_first_example_of_the_row():
  first = np.array([7, 8, 9]), np.array([5, 1])
  batch = tiny.pack([[first, (np.array([4]), np.array([1]))]], lengths=(8, 4))
  table = describe.sample(
    batch, decoders(lambda ids: f"[red]{'+'.join(map(str, ids))}[/red]")
  )
  columns = [re.split("  +", line) for line in render(table)[3:-1]]
  assert [[c.replace(" ", "") for c in row] for row in columns] == [
    ["inputs", "[red]7+8+9[/red]", "7,8,9", "2examples,50%padding"],
    ["targets", "[red]5+1[/red]", "5,1", "2examples,25%padding"],
  ]


def test_long_samples_are_cut():
  batch = tiny.pack([[(np.arange(1, 41), np.array([1]))]], lengths=(64, 4))
  table = describe.sample(batch, decoders(lambda ids: "word " * 999))
  shown = " ".join(render(table, width=200))
  assert "… 40 in all" in shown and "…" in shown
  assert shown.count("word") < 300


TITLES = (
  "Run",
  "Parameters",
  "Memory",
  "Mesh",
  "Learning rate",
  "Batch",
  "First example of a batch",
  "Work of a step",
)


class Data:
  """What `print_run` asks of a dataset."""

  class Provider:
    name = "corpus"

    class Feature:
      class vocabulary:
        decode = staticmethod(lambda ids: " ".join(f"<{i}>" for i in ids))

    output_features = dict.fromkeys(("inputs", "targets", "other"), Feature)

  provider = Provider
  split, batch_size = "train", 8
  feature_lengths = {"inputs": 16, "targets": 16}  # noqa: RUF012

  def iterator(self):
    return iter([tiny.pack([tiny.examples(2, seed=i) for i in range(8)])])


def test_print_run_whole(capsys, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  made = trainer.Trainer(
    tiny.t5(tied=True),
    objectives_lib.Seq2Seq(),
    optimizers.adafactor(schedules.rsqrt()),
    partitioning.Partitioner({"data": -1}, {"batch": "data"}),
    num_microbatches=2,
  )
  describe.print_run(made, Data(), num_steps=100, workdir="there")
  lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
  assert [line for line in lines if line in TITLES] == list(TITLES)
  assert max(map(len, lines)) <= 100
  rows = [re.split("  +", line) for line in lines]
  for row in (
    ["workdir", "there"],
    ["mixture", "corpus"],
    ["batch size", "8"],
    ["decoder_input_tokens", "8x16", "int32"],
    ["data", "8"],
  ):
    assert row in rows
  (inputs,) = [row for row in rows if row[0] == "inputs" and "<" in row[1]]
  first = tiny.examples(2, seed=0)[0][0]
  assert inputs[2].startswith(", ".join(map(str, first))[:20])
  assert not list(tmp_path.iterdir())


def test_batch_features():
  batch = {"inputs": np.zeros((4, 16), np.int32), "w": np.zeros(4, np.float32)}
  rows = [line.split() for line in render(describe.features(batch))[3:-1]]
  assert rows == [["inputs", "4x16", "int32"], ["w", "4", "float32"]]


def test_facts_are_no_markup():
  lines = render(describe.facts("Run", {"command": "a [bold]b", "n": 12345}))
  assert lines == ["Run", "command  a [bold]b", "n        12,345", ""]


def test_no_line_is_wider_than_a_file_wants(abstract):
  state, mesh = abstract
  tables = [
    describe.parameters(state.model),
    describe.memory({"parameters": state.model, "optimizer": state.opt_state}),
    describe.mesh(mesh),
    describe.schedule(schedules.rsqrt(), 10**7),
    describe.features(tiny.batch()),
  ]
  assert max(map(len, render(*tables))) <= 100


def test_standard_output_that_is_no_terminal_has_100_columns(capsys):
  describe.show([describe.facts("T", {"long": "x " * 200})])
  lines = capsys.readouterr().out.splitlines()
  assert 90 < max(map(len, lines)) <= 100


def test_real_modules_too():
  model = tiny.t5()(rngs=nnx.Rngs(0))
  assert "all" in render(describe.parameters(model))[-2]
