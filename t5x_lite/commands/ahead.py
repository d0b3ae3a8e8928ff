"""Commands that look ahead, at machines that are not here."""

from t5x_lite.commands.command import Command

COMPILE = Command(
  name="compile",
  root="t5x_lite.ahead.compile_run",
  summary="compile a run for TPUs or GPUs that are not here",
  about="""\
Compiles the train, eval and decode steps of a run for a named TPU slice or
number of GPUs, none of which need be there, and says what they need: memory by
part against the chip's, FLOPs, collectives with their bytes, and the step time
and MFU that they reach at most.  Takes the gin files of `train`; reads no data
and writes nothing.  Needs the extra: pip install 't5x_lite[compile]'.
Exit code 8 if the run does not fit.""",
  examples=(
    (
      "T5.1.1 XXL, its parameters cut among 256 chips:",
      "t5x_lite compile --topology=v5e:16x16"
      " --gin_file=models/t5_1_1/xxl.gin --gin_file=objectives/seq2seq.gin"
      " --gin_file=runs/pretrain.gin --gin_file=meshes/fsdp.gin"
      " --gin.BATCH_SIZE=2048",
    ),
    (
      "What makes LLaMA 3 8B fit on 64 GPUs, and which is fastest:",
      "t5x_lite compile --topology=H100:64 --search"
      " --gin_file=models/llama3/8b.gin --gin_file=objectives/causal_lm.gin"
      " --gin_file=meshes/fsdp.gin --gin.BATCH_SIZE=128"
      " --gin.FEATURE_LENGTHS=\"{'targets': 8192}\" --gin.STEPS=\"('train',)\"",
    ),
    (
      "See what can be set:",
      "t5x_lite compile --list_macros --gin_file=runs/compile.gin",
    ),
  ),
  run_file="runs/compile.gin",
  flags=(
    ("--topology", "TOPOLOGY", "such as v5e:16x16, v5p:4x4x8 or H100:64"),
    ("--num_slices", "NUM_SLICES", "slices of a TPU that a network joins"),
  ),
  switches=(
    ("--json", "JSON", "print JSON instead of text"),
    ("--search", "SEARCH", "try settings, and rank those that fit"),
  ),
  runs_alone=True,
)
