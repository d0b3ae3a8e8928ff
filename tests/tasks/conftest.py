"""Every test of tasks has a cache of its own and no data from outside."""

import pytest


@pytest.fixture(autouse=True)
def cache_directory(tmp_path_factory, monkeypatch):
  directory = tmp_path_factory.mktemp("cache")
  monkeypatch.setenv("T5X_LITE_CACHE", str(directory))
  return directory
