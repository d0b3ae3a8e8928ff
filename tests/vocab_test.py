"""The vocab command: what is trained, repeated, refused and told."""

import json
import random
import re

import pytest
import seqio

from t5x_lite import errors, vocab, vocabularies
from tasks import files, mixtures


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
  monkeypatch.setenv("T5X_LITE_CACHE", str(tmp_path / "cache"))


def _sentence(i):
  draw = random.Random(i)
  return " ".join(
    "".join(
      draw.choice("bdfgklmnprst") + draw.choice("aeiou")
      for _ in range(draw.randint(1, 4))
    )
    for _ in range(8)
  )


@pytest.fixture
def corpus(tmp_path):
  directory = tmp_path / "text"
  directory.mkdir()
  text = "\n".join(_sentence(i) for i in range(400))
  (directory / "a.txt").write_text(text)
  return files.Files(str(directory), format="lines")


def _train(workdir, corpus, **kwargs):
  return vocab.train_vocab(
    workdir=workdir, mixture=corpus, **({"size": 90} | kwargs)
  )


def test_a_vocabulary_for_t5(tmp_path, corpus, capsys):
  path = _train(tmp_path / "v", corpus)
  assert path == tmp_path / "v" / "sentencepiece.model"
  named = vocabularies.SentencePiece(str(path), extra_ids=100)
  built = named.build()  # Checks the special ids.
  assert named.fingerprint()["size"] == built.vocab_size == 190
  ids = built.encode(_sentence(3))
  assert built.decode(ids) == _sentence(3) and max(ids) < 90
  told = capsys.readouterr().out
  ratio = re.search(r"held-out text ([\d.]+) tokens per word", told)
  assert 1.0 <= float(ratio[1]) < 5.0
  assert "100.000 % of tokens known" in told and "190 ids" in told
  assert sorted(p.name for p in path.parent.iterdir()) == [
    "sentencepiece.model",
    "vocab.json",
  ]


def test_the_same_settings_give_the_same_file(tmp_path, corpus):
  first, second = (_train(tmp_path / name, corpus) for name in "ab")
  assert first.read_bytes() == second.read_bytes()
  written = first.stat().st_mtime_ns
  assert _train(tmp_path / "a", corpus) == first
  assert first.stat().st_mtime_ns == written


def test_another_vocabulary_is_not_overwritten(tmp_path, corpus):
  path = _train(tmp_path, corpus)
  before = path.read_bytes()
  with pytest.raises(errors.ConfigError, match="size: 90 there, 80 asked for"):
    _train(tmp_path, corpus, size=80)
  with pytest.raises(errors.ConfigError, match="text_sha256"):
    _train(tmp_path, corpus, max_bytes=9000, size=90)
  path.write_bytes(b"of somebody else")
  with pytest.raises(errors.ConfigError, match="does not say"):
    _train(tmp_path, corpus)
  assert path.read_bytes() == b"of somebody else" != before


def test_a_dry_run_writes_nothing(tmp_path, corpus, capsys):
  _train(tmp_path / "v", corpus, dry_run=True)
  assert not (tmp_path / "v").exists()
  assert "90 pieces" in capsys.readouterr().out


def test_too_little_text_is_told_with_the_largest_size(tmp_path, corpus):
  with pytest.raises(errors.ConfigError, match=r"a size of \d+ or less"):
    _train(tmp_path, corpus, size=5000)
  assert not (tmp_path / vocab.MODEL).exists()


@pytest.mark.parametrize(
  "settings, match",
  [
    ({"size": 5}, "below 30"),
    ({"size": 200, "byte_fallback": True}, "below 300"),
    ({"max_bytes": 0}, "positive"),
    ({"character_coverage": 99.95}, "at most 1.0"),
    ({"split": "trian"}, "did you mean 'train'"),
  ],
)
def test_settings_without_sense_are_refused(tmp_path, corpus, settings, match):
  with pytest.raises(errors.ConfigError, match=match):
    _train(tmp_path, corpus, **settings)


def test_byte_fallback_leaves_nothing_unknown(tmp_path, corpus):
  path = _train(tmp_path, corpus, size=330, byte_fallback=True)
  built = vocabularies.SentencePiece(str(path)).build()
  ids = built.encode("tensor π")
  assert built.unk_id not in ids and built.decode(ids) == "tensor π"


def test_a_mixture_gives_text_by_its_rates(tmp_path):
  for name, letter in (("a", "x"), ("b", "y")):
    lines = [f"{letter}{i:05d}" * 3 for i in range(3000)]
    (tmp_path / f"{name}.txt").write_text("\n".join(lines))
  parts = {
    files.Files(
      str(tmp_path / f"{n}.txt"), format="lines", name=n
    ).register(): r
    for n, r in (("a", 3.0), ("b", 1.0))
  }
  mixture = seqio.get_mixture_or_task(mixtures.Mixture(parts).register())
  train, held_out = vocab._sample(mixture, "train", "validation", 20_000, 0)
  used = {
    letter: sum(len(t) + 1 for t in train if t[0] == letter) for letter in "xy"
  }
  assert used["x"] == pytest.approx(15_000, abs=30)
  assert used["y"] == pytest.approx(5000, abs=30)
  assert held_out and set(held_out).isdisjoint(train)


def test_without_validation_a_part_of_the_text_is_held_out(tmp_path, corpus):
  task = files.Files(corpus.pattern, format="lines", validation=0.0)
  provider = seqio.get_mixture_or_task(task.register())
  train, held_out = vocab._sample(provider, "train", "validation", 10**6, 0)
  assert len(train) == 380 and len(held_out) == 20


def test_the_record_says_what_it_was_trained_on(tmp_path, corpus):
  _train(tmp_path, corpus)
  record = json.loads((tmp_path / vocab.RECORD).read_text())
  assert record["size"] == 90 and record["mixture"] == corpus.register()
  assert len(record["sha256"]) == len(record["text_sha256"]) == 64
