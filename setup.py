"""Packaging: what t5x_lite is made of, and what it needs.

The pinned versions that `make` installs stand in `requirements/lock.txt`;
`make lock` derives them from the ranges given here.
"""

import pathlib
import re

import setuptools

ROOT = pathlib.Path(__file__).resolve().parent

PY311 = 'python_version < "3.12"'
PY312 = 'python_version >= "3.12"'

INSTALL_REQUIRES = [
  # The last jax for Python 3.11 and the flax made for it; flax 0.12.8 does
  # not import on jax 0.12, so the two pairs never mix.
  f"jax>=0.10.2,<0.11; {PY311}",
  f"flax==0.12.8; {PY311}",
  f"jax>=0.12,<0.13; {PY312}",
  f"flax>=0.12.12,<0.13; {PY312}",
  "numpy>=2.0",
  "optax>=0.2.8,<0.3",
  "orbax-checkpoint>=0.12.8,<0.13",
  "etils[epath]>=1.9",  # the paths of Orbax
  "protobuf>=6.31",
  "seqio==0.0.20",
  "tensorflow-datasets>=4.9.10,<5",
  # Not tensorflow-cpu: tensorflow-text needs tensorflow itself, and the two
  # would overwrite each other's files.
  "tensorflow>=2.21,<2.22",
  "tensorflow-text>=2.21,<2.22",
  "sentencepiece>=0.2.1",
  "rouge-score>=0.1.2",
  "sacrebleu>=2.6",
  "scikit-learn>=1.7",
  "scipy>=1.15",
  # Checkpoints and tokenizers of others.
  "msgpack>=1.1",
  "safetensors>=0.8",
  "tensorstore>=0.1.86",
  "tokenizers>=0.23.1,<0.24",  # what transformers 5 asks for
  "gin-config==0.5.0",
  "clu>=0.0.12",
  # clu's TensorBoard writer imports it without declaring it.
  "tensorboard>=2.20",
  "rich>=13",
  "matplotlib>=3.9",
]

EXTRAS_REQUIRE = {
  "tpu": [f"jax[tpu]>=0.10.2,<0.11; {PY311}", f"jax[tpu]>=0.12,<0.13; {PY312}"],
  # CUDA 12 runs on drivers from 525 on; CUDA 13 needs 580 or newer, and is had
  # with `pip install "jax[cuda13]"` in its place.
  "gpu": [
    f"jax[cuda12]>=0.10.2,<0.11; {PY311}",
    f"jax[cuda12]>=0.12,<0.13; {PY312}",
  ],
  # Compilers for chips that are absent, for `t5x_lite compile`: libtpu, and
  # jax's CUDA plugin with what it assembles by.  jax 0.10's plugin describes no
  # GPUs.
  "compile": [
    f"jax[tpu]>=0.10.2,<0.11; {PY311}",
    f"jax[tpu]>=0.12,<0.13; {PY312}",
    f"jax-cuda13-plugin>=0.12,<0.13; {PY312}",
    f"jax-cuda13-pjrt>=0.12,<0.13; {PY312}",
    f"nvidia-cuda-nvcc>=13; {PY312}",
    f"nvidia-cuda-cuobjdump>=13; {PY312}",
    f"nvidia-cuda-nvdisasm>=13; {PY312}",
    f"nvidia-nvjitlink>=13; {PY312}",
    f"nvidia-nvvm>=13; {PY312}",
  ],
  "dev": [
    "mypy>=2.4",
    "packaging>=24",
    "pytest>=9",
    "pytest-xdist>=3.8",
    "ruff>=0.17",
    "setuptools>=77",
  ],
  # EleutherAI's evaluations, for `t5x_lite harness`.
  "harness": ["lm-eval>=0.4.13,<0.5"],
  # The models that tests/ compares ours with, to the number.
  "parity": [
    "torch==2.13.0",
    "transformers>=5.23,<6",
    "lm-eval>=0.4.13,<0.5",
    "accelerate>=1.10",  # without it lm-eval has no model of transformers
  ],
}


def read_version() -> str:
  """Returns the version of the package without importing it."""
  source = (ROOT / "t5x_lite" / "__init__.py").read_text()
  match = re.search(r'^__version__ = "([^"]+)"$', source, re.MULTILINE)
  if match is None:
    raise RuntimeError('t5x_lite/__init__.py has no line __version__ = "..."')
  return match.group(1)


def read_readme() -> str:
  """Returns the long description; a bare export may lack the README."""
  path = ROOT / "README.md"
  return path.read_text(encoding="utf-8") if path.exists() else ""


setuptools.setup(
  name="t5x_lite",
  version=read_version(),
  description="Language models from gin files: readable JAX for research.",
  long_description=read_readme(),
  long_description_content_type="text/markdown",
  license="Apache-2.0",
  license_files=["LICENSE"],
  # Flat layout; saying so makes an editable install one plain path entry.
  package_dir={"": "."},
  packages=[
    *setuptools.find_packages(
      include=["t5x_lite*", "pallas_kernels*", "tasks*"]
    ),
    "gin_configs",  # no code, so nothing would find it
  ],
  package_data={
    "gin_configs": ["**/*.gin"],
    "t5x_lite": ["*.html"],
    "tasks.instructions": ["templates/*.toml"],
  },
  include_package_data=False,
  python_requires=">=3.11,<3.14",
  install_requires=INSTALL_REQUIRES,
  extras_require=EXTRAS_REQUIRE,
  entry_points={"console_scripts": ["t5x_lite = t5x_lite.main:main"]},
  classifiers=[
    "Intended Audience :: Science/Research",
    "Programming Language :: Python :: 3.11",
    "Programming Language :: Python :: 3.12",
    "Programming Language :: Python :: 3.13",
    "Topic :: Scientific/Engineering :: Artificial Intelligence",
  ],
)
