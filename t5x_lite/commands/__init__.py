"""The commands of t5x_lite: what each runs, and what its help says."""

from t5x_lite.commands.ahead import COMPILE
from t5x_lite.commands.answers import CHAT, INFER
from t5x_lite.commands.command import Command
from t5x_lite.commands.data import CACHE, TASKS, VOCAB
from t5x_lite.commands.measures import EVAL, HARNESS, SUBMIT
from t5x_lite.commands.models import CONVERT, TRAIN

__all__ = ["ALIASES", "COMMANDS", "Command"]

COMMANDS = {
  c.name: c
  for c in (
    TRAIN,
    EVAL,
    HARNESS,
    INFER,
    CHAT,
    SUBMIT,
    TASKS,
    CACHE,
    VOCAB,
    CONVERT,
    COMPILE,
  )
}
# Other words for them.
ALIASES = {"interactive": "chat"}
