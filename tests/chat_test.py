"""The `chat` command, talked to through a pipe and on a terminal."""

import io
import os
import pty
import signal
import subprocess
import sys
import time

import pytest

from t5x_lite import (
  auto_mesh,
  chat,
  conversation,
  decoding,
  errors,
  objectives,
  partitioning,
)
from tests import infer_toy as toy

LENGTHS = {"inputs": toy.LENGTH, "targets": 6}
TURNS = conversation.Template("{history}U: {message}\nA:")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  return toy.run(tmp_path_factory.mktemp("run"))


@pytest.fixture
def talk(run, monkeypatch, capsys):
  def talk(text, **options):
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    usual = {"vocabulary": toy.BYTES, "feature_lengths": LENGTHS}
    usual["partitioner"] = partitioning.Partitioner({"data": -1}, {})
    chat.chat(
      workdir=str(run),
      model=toy.MODEL,
      objective=objectives.Seq2Seq(),
      **(usual | options),
    )
    return capsys.readouterr()

  return talk


def test_answers_are_those_of_infer(run, talk, tmp_path, capsys):
  source = toy.file(toy.text(tmp_path))
  path = toy.predict(run, source, tmp_path / "out.jsonl")
  expected = "".join(row["prediction"] + "\n" for row in toy.rows(path))
  assert expected.strip()
  capsys.readouterr()
  # Blank lines say nothing; the last line has no end.
  said = talk("\n  \n".join(toy.LINES))
  assert said.out == expected
  assert "EncoderDecoder of step 2" in said.err


def test_a_mesh_that_chooses_itself(talk):
  said = talk("hello\n", partitioner=auto_mesh.Automatic())
  assert said.out == talk("hello\n").out


def test_commands(talk):
  said = talk("/help\n/rest\n/\n/seed x\n/reset\n//a\n/quit\nnever read\n")
  assert "/seed N" in said.err
  assert "there is no /rest; did you mean 'reset'?" in said.err
  assert "there is no /;" in said.err and "/seed wants a number" in said.err
  assert said.out == talk("/a\n".replace("/a", "//a")).out
  assert said.out.count("\n") == 1


def test_seeds(talk):
  decoder = decoding.Decoder(6, decoding.Sampling())
  first, second, other, again = talk(
    "hello\nhello\n/seed 7\nhello\n/seed 0\nhello\n", decoder=decoder
  ).out.split("\n")[:4]
  assert first == again
  assert len({first, second, other}) == 3
  assert talk("hello\n", decoder=decoder, seed=7).out == f"{other}\n"


def test_several_results_and_beams_come_at_once(talk):
  beam = decoding.BeamSearch(4, beams=2, num_results=2)
  assert "[1] " in (out := talk("hello\n", decoder=beam).out) and "[2] " in out
  one = talk("hello\n", decoder=decoding.BeamSearch(4, beams=2)).out
  assert one.rstrip("\n") == out.split("\n")[0].removeprefix("[1] ")


def test_the_model_reads_the_history(talk, monkeypatch):
  read = []
  tokens = chat.Answerer.pieces

  def noted(self, text, number):
    read.append(text)
    yield from tokens(self, text, number)

  monkeypatch.setattr(chat.Answerer, "pieces", noted)
  lengths = {"inputs": 60, "targets": 4}
  said = talk(
    "one\ntwo\n/reset\nthree\n", feature_lengths=lengths, template=TURNS
  )
  first = said.out.split("\n")[0]
  assert read[0] == "U: one\nA:"
  assert read[1] == f"U: one\nA:{first}\nU: two\nA:"
  assert read[2] == "U: three\nA:"


def test_the_history_is_cut_with_a_notice(talk):
  said = talk("one two\nthree\nfour\n" + "x" * 40 + "\nfive\n", template=TURNS)
  assert "the first 1 of the turns before no longer fit" in said.err
  assert "this is 47 tokens long, and the model reads 24" in said.err
  assert said.out.count("\n") == 4


def test_conversations_keep_what_fits():
  memory = conversation.Conversation(TURNS, len, 40)
  assert memory.prompt("a") == ("U: a\nA:", 0)
  memory.add("a", "b" * 6)
  memory.add("c", "d" * 6)
  text, dropped = memory.prompt("e")
  assert text == "U: a\nA:bbbbbb\nU: c\nA:dddddd\nU: e\nA:"
  assert (len(text), dropped) == (35, 0)
  text, dropped = memory.prompt("e" * 10)
  assert (dropped, len(memory)) == (1, 1) and text.startswith("U: c")
  plain = conversation.Conversation(conversation.Template(), len, 9)
  plain.add("a", "b")
  assert plain.prompt("c") == ("c", 0)


@pytest.mark.parametrize(
  "text,message",
  [
    ("{mesage}", "'mesage'; did you mean 'message'"),
    ("{history}", "lacks {message}"),
    ("{message", "stray brace"),
    ("{message}{}", "a field ''"),
  ],
)
def test_bad_formats(text, message):
  with pytest.raises(errors.ConfigError, match=message):
    conversation.Template(text)
  assert conversation.Template("{{x}} {message}").turn("m") == "{x} m"


def test_bad_settings(talk):
  with pytest.raises(errors.ConfigError, match="a vocabulary is needed"):
    talk("", vocabulary=None)
  with pytest.raises(errors.ConfigError, match="must give 'inputs'"):
    talk("", feature_lengths={"targets": 3})


def test_dry_run_shows_what_would_be_read(talk):
  said = talk("hello\n", dry_run=True, template=TURNS)
  assert r"'U: hello\nA:'" in said.out
  assert "24 tokens" in said.out and "'kind': 'Decoder'" in said.out


_CHILD = """
import sys, time
from t5x_lite import chat, decoding, objectives, partitioning
from tests import infer_toy as toy

stream = decoding.Predictor.stream

def slow(self, model, example):
  for found in stream(self, model, example):
    yield found
    time.sleep(0.2)

decoding.Predictor.stream = slow
chat.chat(
  workdir=sys.argv[1],
  model=toy.MODEL,
  objective=objectives.Seq2Seq(),
  partitioner=partitioning.Partitioner({"data": -1}, {}),
  vocabulary=toy.BYTES,
  feature_lengths={"inputs": 24, "targets": 200},
  decoder=decoding.Decoder(200, eos=383),
)
"""


@pytest.mark.slow
def test_control_c_stops_the_answer_alone(run):
  """On a terminal, where the key sends SIGINT."""
  main, child = pty.openpty()
  process = subprocess.Popen(
    [sys.executable, "-c", _CHILD, str(run)],
    stdin=child,
    stdout=child,
    stderr=child,
    start_new_session=True,
  )
  os.close(child)
  seen = b""

  def until(text):
    nonlocal seen
    while text not in seen:
      seen += os.read(main, 4096)
    seen = seen.partition(text)[2]

  until(b"> ")
  os.write(main, b"hello\n")
  until(b"hello\r\n")
  os.read(main, 1)  # The answer has begun.
  time.sleep(0.5)
  process.send_signal(signal.SIGINT)
  until(b"(stopped)")
  until(b"> ")
  process.send_signal(signal.SIGINT)
  until(b"/quit")
  os.write(main, b"/quit\n")
  assert process.wait(timeout=60) == 0
  os.close(main)
