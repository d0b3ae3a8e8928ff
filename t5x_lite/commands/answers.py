"""Commands that let a trained model answer."""

from t5x_lite.commands.command import Command

INFER = Command(
  name="infer",
  root="t5x_lite.infer.infer",
  summary="write a trained model's predictions",
  about="""\
Restores a checkpoint and decodes a SeqIO task, a text file (one input a line)
or a JSONL file, and writes JSON lines.  Work can be divided into shards, and
what is finished is not done again after a restart.""",
  examples=(
    (
      "For a file, with the model of a run as it was recorded:",
      "t5x_lite infer --workdir=/tmp/t5 --gin_file=runs/infer.gin"
      " --gin_file=/tmp/t5/config.gin --gin.INPUTS=questions.txt",
    ),
    (
      "For a task; this process makes the first half:",
      "t5x_lite infer --workdir=/tmp/t5 --gin_file=runs/infer.gin"
      " --gin_file=/tmp/t5/config.gin --gin.MIXTURE=docstrings_summary"
      " --gin.SHARD=0 --gin.NUM_SHARDS=2",
    ),
    (
      "See what can be set:",
      "t5x_lite infer --list_macros --gin_file=runs/infer.gin",
    ),
  ),
  run_file="runs/infer.gin",
  computes=True,
)

CHAT = Command(
  name="chat",
  root="t5x_lite.chat.chat",
  summary="talk to a trained model",
  about="""\
Restores a checkpoint and answers line after line, each answer shown as it is
decoded; also of a pipe.  Decoder files set how, FORMAT what the model reads.
Lines that begin with / are commands: /help lists them.""",
  examples=(
    (
      "With the model of a run as it was recorded:",
      "t5x_lite chat --workdir=/tmp/t5 --gin_file=runs/chat.gin"
      " --gin_file=/tmp/t5/config.gin",
    ),
    (
      "With a decoder that has turns, by sampling:",
      "t5x_lite chat --workdir=/tmp/gpt --gin_file=runs/chat.gin"
      " --gin_file=/tmp/gpt/config.gin --gin_file=decoders/sampling.gin"
      " --gin.FORMAT=\"'{history}User: {message}\\nAssistant:'\"",
    ),
    (
      "See what can be set:",
      "t5x_lite chat --list_macros --gin_file=runs/chat.gin",
    ),
  ),
  run_file="runs/chat.gin",
)
