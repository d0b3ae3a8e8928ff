"""Commands that measure a trained model."""

from t5x_lite.commands.command import Command

EVAL = Command(
  name="eval",
  root="t5x_lite.evaluate.evaluate",
  summary="compute the metrics of a trained model",
  about="""\
Restores a checkpoint and computes the metrics of a SeqIO task or mixture: the
loss, and what the tasks themselves define on the decoded text.  Predictions
are written beside the metrics, as JSON lines.""",
  examples=(
    (
      "The last checkpoint of a run, with its model as it was recorded:",
      "t5x_lite eval --workdir=/tmp/t5 --gin_file=runs/evaluate.gin"
      " --gin_file=/tmp/t5/config.gin",
    ),
    (
      "All its checkpoints, on the test split of another task:",
      "t5x_lite eval --workdir=/tmp/t5 --gin_file=runs/evaluate.gin"
      " --gin_file=/tmp/t5/config.gin --gin.MIXTURE=docstrings_summary"
      " --gin.SPLIT=test --gin.STEPS=all",
    ),
    (
      "See which settings there are, and where each value comes from:",
      "t5x_lite eval --list_macros --gin_file=runs/evaluate.gin"
      " --gin_file=models/t5_1_1/small.gin",
    ),
  ),
  run_file="runs/evaluate.gin",
  computes=True,
)

HARNESS = Command(
  name="harness",
  root="t5x_lite.harness.harness",
  summary="run tasks of EleutherAI's lm-eval on a trained model",
  about="""\
Restores a checkpoint and lets lm-eval measure it, on tasks of lm-eval or YAML
files written for it.  Needs the extra: pip install 't5x_lite[harness]'.""",
  examples=(
    (
      "A task of your own, with the model of a run as it was recorded:",
      "t5x_lite harness --workdir=/tmp/gpt --gin_file=runs/harness.gin"
      " --gin_file=/tmp/gpt/config.gin --gin.TASKS=\"('my_task.yaml',)\"",
    ),
    (
      "One of lm-eval's, with five exemplars, on its first 100 documents:",
      "t5x_lite harness --workdir=/tmp/gpt --gin_file=runs/harness.gin"
      " --gin_file=/tmp/gpt/config.gin --gin.TASKS=\"('boolq',)\""
      " --gin.NUM_FEWSHOT=5 --gin.LIMIT=100",
    ),
    (
      "See what can be set:",
      "t5x_lite harness --list_macros --gin_file=runs/harness.gin",
    ),
  ),
  run_file="runs/harness.gin",
)

SUBMIT = Command(
  name="submit",
  root="t5x_lite.submit.submit",
  summary="answer GLUE's and SuperGLUE's tests for their leaderboards",
  about="""\
Restores a checkpoint, predicts the test splits of GLUE's or SuperGLUE's tasks,
by text or by labels as the model does, and writes the files that the servers
of their leaderboards read, with the zip file as soon as none is missing.""",
  examples=(
    (
      "All tasks of the mixture that a run was trained on:",
      "t5x_lite submit --workdir=/tmp/t5 --gin_file=runs/submit.gin"
      " --gin_file=/tmp/t5/config.gin",
    ),
    (
      "One task after the other, with a model each, into one directory:",
      "t5x_lite submit --workdir=/tmp/rte --gin_file=runs/submit.gin"
      " --gin_file=/tmp/rte/config.gin --gin.OUTPUT=/tmp/all",
    ),
    (
      "Look first, at other tasks than those of the run:",
      "t5x_lite submit --dry_run --workdir=/tmp/mnli"
      " --gin_file=runs/submit.gin --gin_file=/tmp/mnli/config.gin"
      " --gin.TASKS=\"('glue_mnli_matched_labels', 'glue_ax_labels')\"",
    ),
  ),
  run_file="runs/submit.gin",
)
