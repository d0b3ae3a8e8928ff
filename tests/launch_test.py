import pytest

from t5x_lite import errors, launch


@pytest.mark.parametrize(
  ("ended", "code"),
  [
    ([0, 0], 0),
    ([75, 75], 75),
    ([3, 6, 6], 3),
    ([6, 3], 3),
    ([6, 6], 6),
    ([-9, 6], 137),
    ([0, 5, 6], 5),
  ],
)
def test_the_first_cause_counts(ended, code):
  assert launch.result(ended) == code


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ("--processes=2", "a command that computes .train, eval, infer.,"),
    ("--processes=2 -- tasks", "not 'tasks'"),
    ("--processes=2 --devices=3 -- train", "3 devices cannot be divided"),
    ("-- train", "--processes"),
    ("--processes=0 -- train", "among 0 processes"),
  ],
)
def test_what_does_not_do(arguments, message, monkeypatch):
  monkeypatch.delenv("XLA_FLAGS", raising=False)
  with pytest.raises(errors.ConfigError, match=message):
    launch.launch(arguments.split())
