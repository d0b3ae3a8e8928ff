"""Every family compiles for TPUs and GPUs that are absent; a sample of them.

Wants the compilers and everything else: `make test-compile`.
"""

import json

import pytest

from t5x_lite import main
from t5x_lite.ahead import topology

pytestmark = pytest.mark.compiled

FAMILIES = {
  "decoder": ("llama3/mini", "causal_lm", {"targets": 512}),
  "t5": ("t5_1_1/mini", "seq2seq", {"inputs": 512, "targets": 128}),
  "bert": ("bert/mini", "masked_lm", {"inputs": 512}),
  "mamba": ("mamba/tiny", "causal_lm", {"targets": 512}),
}
# On the smallest machine the parameters are cut among all, on the next also
# the heads, and GPUs have the parameters whole.
MACHINES = {"v5e:2x2": "fsdp", "v5e:4x4": "two_d", "H100:8": "data"}
KERNELS = {"mamba": "selective_scan"}


def compiled(capsys, machine, family, *flags):
  if lacking := topology.named(machine).missing():
    pytest.skip(lacking)
  model, objective, lengths = FAMILIES[family]
  code = main.main(
    [
      "compile",
      "--json",
      f"--topology={machine}",
      f"--gin_file=models/{model}.gin",
      f"--gin_file=objectives/{objective}.gin",
      f"--gin_file=meshes/{MACHINES[machine]}.gin",
      f"--gin.FEATURE_LENGTHS={lengths}",
      "--gin.BATCH_SIZE=32",
      *flags,
    ]
  )
  out, err = capsys.readouterr()
  assert code == 0, err
  return json.loads(out)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_train_step_compiles(capsys, machine, family):
  flags = ["--gin.STEPS=('train',)"]
  flags += ["--gin.DIM=256"] if family == "mamba" else []
  found = compiled(capsys, machine, family, *flags)
  (step,) = found["steps"]
  assert found["fits"] and step["unknown_loops"] == 0
  memory = step["memory"]
  assert memory["parameters"] > 0 and memory["optimizer"] > 0
  # The compiler's tiles may fill up rows and columns.
  held = memory["parameters"] + memory["optimizer"] + memory["batch"]
  assert 0.95 * held < memory["arguments"] < 1.5 * held
  # Nothing is left out, and little is done twice.
  assert 0.9 < step["flops"] / step["model_flops"] < 2.5
  name = KERNELS.get(family, "attention")
  assert any(name in kernel for kernel in step["kernels"]), step["kernels"]
  assert "all-reduce" in step["collectives"]
  if MACHINES[machine] == "fsdp":
    assert "all-gather" in step["collectives"]
  assert 0 < step["predicted_mfu"]["exchanges_hidden"] < 1


def test_all_steps_of_an_encoder_decoder(capsys):
  found = compiled(capsys, "v5e:2x2", "t5")
  train, evaluation, decoding = found["steps"]
  assert [step["name"] for step in found["steps"]] == [
    "train",
    "eval",
    "decode",
  ]
  assert evaluation["flops"] < train["flops"] / 2
  assert evaluation["memory"]["optimizer"] == 0
  # Its loop ends when all rows have: as many turns as tokens are assumed.
  assert decoding["flops"] > 0


def test_what_is_too_large_is_told(capsys):
  if lacking := topology.named("v5e:1x1").missing():
    pytest.skip(lacking)
  code = main.main(
    [
      "compile",
      "--topology=v5e:1x1",
      "--gin_file=models/llama3/mini.gin",
      "--gin_file=objectives/causal_lm.gin",
      "--gin.FEATURE_LENGTHS={'targets': 4096}",
      "--gin.BATCH_SIZE=512",
      "--gin.STEPS=('train',)",
    ]
  )
  out, err = capsys.readouterr()
  assert code == 8 and "does NOT fit into 15.75 GiB" in out
  assert "--gin.REMAT=full" in err


TRAIN = "--gin.STEPS=('train',)"


def test_gradients_are_added_up_in_the_dtype_of_the_model(capsys):
  """But for those of embeddings, of which a decoder has two."""
  sent = {}
  for dtype in ("float32", "bfloat16"):
    flags = (TRAIN, "--gin_file=meshes/data.gin", f"--gin.DTYPE={dtype}")
    (step,) = compiled(capsys, "v5e:2x2", "decoder", *flags)["steps"]
    whole = 2 * 3 / 4 * step["memory"]["parameters"]
    sent[dtype] = step["collectives"]["all-reduce"]["sent"] / whole
  assert sent["float32"] == pytest.approx(1, rel=0.05)
  assert 0.5 < sent["bfloat16"] < 0.75


def test_slices_send_each_other_gradients_alone(capsys):
  mesh = ("--num_slices=2", "--gin_file=meshes/multislice.gin")
  flags = (TRAIN, *mesh, "--gin_file=optimizers/adamw.gin")
  found = compiled(capsys, "v5e:2x2", "decoder", *flags)
  assert found["mesh"] == {"slice": 2, "data": 4, "model": 1}
  (step,) = found["steps"]
  far = {k: x["sent_far"] for k, x in step["collectives"].items()}
  assert {kind for kind, sent in far.items() if sent} == {"all-reduce"}
  # Of two slices each sends half, and the half that it has added up.
  assert 0.5 < far["all-reduce"] / step["memory"]["parameters"] < 1


def test_an_optimizer_with_the_host_and_a_mesh_that_chooses_itself(capsys):
  flags = ("--gin_file=meshes/auto.gin", "--gin_file=optimizers/adamw.gin")
  host = "--gin.OPTIMIZER_MEMORY=pinned_host"
  found = compiled(capsys, "v5e:2x2", "decoder", TRAIN, *flags, host)
  assert found["mesh"] == {"data": 4}
  memory = found["steps"][0]["memory"]
  assert memory["host"] == 2 * memory["parameters"] > 1000
  assert memory["optimizer"] < 100
  assert memory["arguments"] < 1.5 * memory["parameters"]


def test_options_are_the_compilers(capsys):
  options = "--gin.COMPILER_OPTIONS={'tpu': {'xla_tpu_no_such_option': 1}}"
  with pytest.raises(AssertionError, match="xla_tpu_no_such_option"):
    compiled(capsys, "v5e:2x2", "decoder", TRAIN, options)
