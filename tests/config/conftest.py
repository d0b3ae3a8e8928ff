import pytest

from tests.config import toy as toy_lib


@pytest.fixture
def toy(tmp_path, monkeypatch):
  """A toy program in the working directory."""
  yield from toy_lib.session(tmp_path, monkeypatch)
