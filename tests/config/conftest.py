import sys

import gin
import pytest

from t5x_lite.config import loader
from tests.config import toy as toy_lib


@pytest.fixture
def toy(tmp_path, monkeypatch):
  """A toy program in the working directory."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, "path", [*sys.path])
  monkeypatch.setattr(loader, "current", None)
  yield toy_lib.Toy(tmp_path)
  gin.clear_config()
