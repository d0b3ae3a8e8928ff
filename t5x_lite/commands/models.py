"""Commands that make models, and read what others made."""

from t5x_lite.commands.command import Command

TRAIN = Command(
  name="train",
  root="t5x_lite.train.train",
  summary="pre-train or fine-tune a model",
  about="""\
Trains a model on a SeqIO task or mixture: from scratch, from a checkpoint, or
on from where the run in --workdir stopped, to the bit.  While it trains, it
evaluates and saves checkpoints; --workdir receives these, metrics, loss.png,
report.html, and config.gin, which repeats the run.

A run is put together from gin files: a model, an objective and a run file
(optimizers and meshes have defaults).  Later files win over earlier ones, and
--gin.NAME=value wins over all files.""",
  examples=(
    (
      "Pre-train T5.1.1 small by span corruption:",
      "t5x_lite train --workdir=/tmp/t5 --gin_file=models/t5_1_1/small.gin"
      " --gin_file=objectives/seq2seq.gin --gin_file=runs/pretrain.gin"
      " --gin.MIXTURE=wikitext2_span_corruption --gin.TRAIN_STEPS=10000",
    ),
    (
      "On text of your own; first look: parameters, mesh, data and schedule:",
      "t5x_lite train --dry_run --workdir=/tmp/mine"
      " --gin_file=models/t5_1_1/small.gin --gin_file=objectives/seq2seq.gin"
      " --gin_file=runs/pretrain.gin --gin_file=data/files.gin"
      " --gin.FILES=/data/books --gin.TRAIN_STEPS=10000",
    ),
    (
      "Repeat a run with one thing changed:",
      "t5x_lite train --workdir=/tmp/again --gin_file=/tmp/t5/config.gin"
      " --gin.SEED=1",
    ),
  ),
  run_file="runs/pretrain.gin",
  computes=True,
  preemptible=True,
)

CONVERT = Command(
  name="convert",
  root="t5x_lite.convert.convert",
  summary="checkpoints of transformers and T5X to ours, and ours to theirs",
  about="""\
Converts parameters, bit for bit unless a narrower type is asked for:
  a directory of transformers (config.json, *.safetensors)      to a workdir,
  a checkpoint of T5X (its own format or Orbax, scanned or not) to a workdir,
  a workdir, or any of these                  to a directory of transformers.
The workdir W holds checkpoints/0 and model.gin: a run takes the model by
--gin_file=W/model.gin and its parameters by --gin.INITIAL_CHECKPOINT=W.
Missing, unknown and misshapen tensors are errors, and so is a config.json
that asks for what no layer here computes.  An optimizer's state and a
vocabulary are not converted.""",
  examples=(
    (
      "From transformers; the model is made from its config.json:",
      "t5x_lite convert --workdir=/tmp/flan --gin_file=runs/convert.gin"
      " --gin.SOURCE=/downloads/flan-t5-small",
    ),
    (
      "For transformers, of the last step of a run, in half the bytes:",
      "t5x_lite convert --workdir=/tmp/tuned_hf --gin_file=runs/convert.gin"
      " --gin.SOURCE=/tmp/tuned --gin.TO=huggingface"
      " --gin.TENSOR_DTYPE=bfloat16",
    ),
    (
      "From T5X, which does not say what its model is:",
      "t5x_lite convert --workdir=/tmp/t5 --gin_file=models/t5_1_1/small.gin"
      " --gin_file=runs/convert.gin --gin.SOURCE=/t5x/checkpoint_1000000",
    ),
  ),
  run_file="runs/convert.gin",
  derives="t5x_lite.interop.sources.model_text",
)
