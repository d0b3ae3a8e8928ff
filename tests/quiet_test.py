"""What reaches the terminal."""

import subprocess
import sys

import pytest

from t5x_lite import quiet
from t5x_lite.config import reader

TENSORFLOW = """
from t5x_lite import quiet
quiet.keep_quiet()
import importlib.util
assert importlib.util.find_spec("tensorflow") is not None  # a look, no import
import tensorflow as tf
list(tf.data.Dataset.range(3).as_numpy_iterator())
import importlib.resources
assert importlib.resources.files("tensorflow").joinpath("__init__.py").is_file()
assert tf.config.get_visible_devices("GPU") == []
assert not any(type(f).__module__ == "t5x_lite.quiet" for f in sys.meta_path)
"""

NOISY = '''
import os, sys
os.write(2, b"""\\
WARNING: All log messages before absl::InitializeLog() is called are written
I0000 00:00:1795256878.737577   20828 cudart_stub.cc:31] Could not find cuda
keep this
""")
print("and this", file=sys.stderr)
class config:
  set_visible_devices = staticmethod(lambda *args: print("hidden", args))
if FAIL:
  raise ImportError("no luck")
'''

LOGGING = """
from t5x_lite import quiet
quiet.keep_quiet()
quiet.keep_quiet()
import logging
logging.getLogger("t5x_lite.part").info("ours")
logging.getLogger("library").info("theirs")
logging.getLogger("library").warning("beware")
assert sum(isinstance(f, quiet._Finder) for f in sys.meta_path) == 1
"""


def run(program, cwd=None):
  return subprocess.run(
    [sys.executable, "-c", "import sys\n" + program],
    cwd=cwd or reader.SHIPPED.parent,
    env={"PYTHONPATH": str(reader.SHIPPED.parent), "PATH": "/usr/bin:/bin"},
    capture_output=True,
    text=True,
    timeout=120,
  )


def test_tensorflow_loads_without_a_word():
  done = run(TENSORFLOW)
  assert (done.returncode, done.stderr, done.stdout) == (0, "", "")


@pytest.mark.parametrize("fail", [False, True])
def test_only_noise_is_left_out(tmp_path, fail):
  noisy = NOISY.replace("FAIL", str(fail))
  (tmp_path / "tensorflow.py").write_text(noisy)
  program = "from t5x_lite import quiet\nquiet.keep_quiet()\nimport tensorflow"
  done = run(program, tmp_path)
  assert done.stderr.startswith("keep this\nand this\n")
  assert ("ImportError: no luck" in done.stderr) == fail
  assert ("hidden ([], 'GPU')" in done.stdout) != fail


def test_our_own_log_is_shown():
  done = run(LOGGING)
  assert done.returncode == 0, done.stderr
  ours, beware = done.stderr.splitlines()
  assert ours.endswith(" INFO t5x_lite.part: ours")
  assert beware.endswith(" WARNING library: beware")


def test_the_users_environment_wins(monkeypatch):
  monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
  monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
  quiet.keep_quiet()
  import os

  assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "0"
