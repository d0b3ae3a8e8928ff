"""The `chat` command: answers to lines as they are typed, or come by a pipe.

On a terminal there is a prompt, and Ctrl-C stops an answer; from a pipe the
answers alone are written to stdout, one after the other.  Notices, such as of
turns that the model no longer reads, go to stderr.
"""

import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from t5x_lite import (
  conversation,
  decoding,
  describe,
  errors,
  flops,
  trained_model,
  vocabularies,
)
from t5x_lite.auto_mesh import Automatic
from t5x_lite.objectives import Objective
from t5x_lite.partitioning import Partitioner

HELP = """\
/help      these lines
/reset     forget what was said
/seed N    draw from another seed, as from a fresh start
/quit      leave; so does the end of the input (Ctrl-D)
//...      a message that begins with /
Ctrl-C     stop an answer\
"""
PLAIN = conversation.Template()
_COMMANDS = ("help", "quit", "reset", "seed")
_SEEDS, _TURNS = 1 << 32, 1 << 12  # numbers, and those kept for a seed


def chat(
  *,
  workdir: str,
  model: Callable[..., Any],
  objective: Objective,
  partitioner: Partitioner | Automatic,
  vocabulary: vocabularies.Vocabulary | None,
  feature_lengths: Mapping[str, int],
  template: conversation.Template = PLAIN,
  decoder: decoding.Search | None = None,
  seed: int = 0,
  checkpoint: str | None = None,
  step: int | str = "latest",
  dry_run: bool = False,
) -> None:
  """Answers lines of stdin until it ends.

  Args:
    workdir: of the run that trained the model.
    model: its constructor.
    objective: makes what the model reads.
    partitioner: mesh and rules, or what chooses them.
    vocabulary: from text to tokens and back.
    feature_lengths: "inputs": the most tokens that the model reads, the end of
      sequence included.
    template: what the model reads of messages.
    decoder: None is greedy, up to the length of the targets.
    seed: of decoders that draw; the same messages get the same answers.
    checkpoint: a workdir or the directory of a step; by default `workdir`.
    step: "latest" or a number.
    dry_run: show the settings, and what the model would read.

  Raises:
    CheckpointError: no such checkpoint, or one of another model.
    ConfigError: the objective does not generate, there is no vocabulary, or it
      is not the run's.
  """
  decoding.generative(objective)
  if vocabulary is None:
    raise errors.ConfigError(
      "to read what is said, a vocabulary is needed: after runs/chat.gin, add"
      " the config.gin of the run that trained the model, or one of"
      " vocabularies/"
    )
  if feature_lengths.get("inputs", 0) < 2:
    raise errors.ConfigError(
      f"feature_lengths {dict(feature_lengths)} must give 'inputs' at least 2"
      " tokens"
    )
  decoder = decoding.decoder_of(feature_lengths, decoder)
  checkpoint = checkpoint or workdir
  ((number, directory),) = trained_model.find(checkpoint, step).items()
  used = dict.fromkeys(("inputs", "targets"), vocabulary.fingerprint())
  trained_model.check_vocabulary(checkpoint, used)
  made = trained_model.trainer_of(model, objective, partitioner)
  if dry_run:
    facts = {
      "model": type(made.abstract.model).__name__,
      "parameters": flops.num_parameters(made.abstract.model),
      "checkpoint": directory,
      "decoder": decoder.record(),
      "reads": f"{feature_lengths['inputs']} tokens",
      "of 'hello'": repr(template.turn("hello")),
    }
    describe.show([describe.facts("Chat", facts)])
    return
  built, partitioner = vocabulary.build(), made.partitioner
  predictor = decoding.Predictor(
    decoder.completed(eos=built.eos_id),
    objective,
    partitioner,
    feature_lengths=feature_lengths,
    batch_size=partitioner.axis_size("batch", partitioner.mesh.shape),
    vocabulary=built,
  )
  state = trained_model.restore(made, directory)
  answerer = Answerer(predictor, state.model, built)
  memory = conversation.Conversation(
    template,
    lambda text: len(answerer.tokens(text)),
    feature_lengths["inputs"],
  )
  name = type(made.abstract.model).__name__
  _notice(f"{name} of step {number:,}; /help tells what there is to say")
  Chat(answerer, memory, seed).run()


@dataclasses.dataclass(frozen=True)
class Answerer:
  """Answers texts, piece by piece.

  Attributes:
    predictor: decodes.
    model: with parameters.
    vocabulary: built.
  """

  predictor: decoding.Predictor
  model: Any
  vocabulary: Any

  def tokens(self, text: str) -> list[int]:
    """What the model reads of a text."""
    return [*self.vocabulary.encode(text), self.vocabulary.eos_id]

  def pieces(self, text: str, number: int) -> Iterator[str]:
    """The answer so far, longer each time.

    Several results, and those of a beam search, come at once.

    Args:
      text: to be answered.
      number: that tells what is drawn from that for other numbers.
    """
    example = {"inputs": self.tokens(text), "seed": number}
    decoder = self.predictor.decoder
    if isinstance(decoder, decoding.Decoder) and decoder.num_samples == 1:
      for found in self.predictor.stream(self.model, example):
        yield found.text or ""
      return
    (best,) = self.predictor.predict(self.model, [example])
    results = [best, *best.others]
    if len(results) == 1:
      yield best.text or ""
    else:
      yield "\n".join(f"[{i}] {r.text}" for i, r in enumerate(results, 1))


class Chat:
  """Reads lines, and writes answers.

  Args:
    answerer: answers.
    memory: of what was said.
    seed: of what is drawn.
  """

  def __init__(
    self, answerer: Answerer, memory: conversation.Conversation, seed: int
  ):
    self._answerer, self._memory = answerer, memory
    self._seed, self._turn = seed, 0

  def run(self) -> None:
    """Until /quit or the end of the input."""
    for line in _lines():
      if line.startswith("/") and not line.startswith("//"):
        if not self._command(line[1:].split()):
          return
      elif line.strip():
        self._reply(line.removeprefix("/") if line[0] == "/" else line)

  def _command(self, words: list[str]) -> bool:
    """Does what a line says; False ends the chat."""
    match words:
      case ["quit"]:
        return False
      case ["help"]:
        _notice(HELP)
      case ["reset"]:
        self._memory.forget()
        self._turn = 0
        _notice("what was said is forgotten")
      case ["seed", number] if number.isdecimal():
        self._seed, self._turn = int(number), 0
        _notice(f"drawing from seed {number}")
      case ["seed", *_]:
        _notice("/seed wants a number, 0 or more")
      case _:
        word = words[0] if words else ""
        near = errors.suggest(word, _COMMANDS)
        _notice(f"there is no /{word}{near}; /help lists what there is")
    return True

  def _reply(self, message: str) -> None:
    try:
      text, dropped = self._memory.prompt(message)
    except errors.DataError as error:
      _notice(str(error))
      return
    if dropped:
      _notice(
        f"the first {dropped} of the turns before no longer fit, and are"
        " forgotten"
      )
    number = (self._seed * _TURNS + self._turn) % _SEEDS
    self._turn += 1
    shown = ""
    try:
      for piece in self._answerer.pieces(text, number):
        shown = _show(piece, shown)
    except KeyboardInterrupt:
      _notice(" (stopped)")
    print(flush=True)
    self._memory.add(message, shown)


def _show(text: str, shown: str) -> str:
  """Writes what is new of a text; returns the text."""
  if not text.startswith(shown):  # What was shown turned into something else.
    print()
    shown = ""
  print(text[len(shown) :], end="", flush=True)
  return text


def _lines() -> Iterator[str]:
  """Lines of stdin; on a terminal behind a prompt, with keys to edit them."""
  if not sys.stdin.isatty():
    for line in sys.stdin:
      yield line.removesuffix("\n")
    return
  try:
    import readline  # noqa: F401  # What `input` edits lines with.
  except ImportError:
    pass
  while True:
    try:
      yield input("> ")
    except KeyboardInterrupt:
      _notice("\n/quit, or Ctrl-D, leaves")
    except EOFError:
      print()
      return


def _notice(text: str) -> None:
  print(text, file=sys.stderr, flush=True)
