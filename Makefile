# `make quickstart` and `make test` need nothing but Python 3.11, 3.12 or 3.13
# and a package index: each sets up the environment in .venv by itself.

VENV := .venv
KERNELS_VENV := .venv-kernels
COMPILE_VENV := .venv-compile
# Without "not slow" they take hours.
KERNEL_TESTS := (compiled or interpreted) and not slow
QUICKSTART_DIR := runs/quickstart
PYTEST_FLAGS :=
LOCK_FLAGS :=

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PARITY_INSTALLED := $(VENV)/.parity-installed
KERNELS_BIN := $(KERNELS_VENV)/bin
KERNELS_INSTALLED := $(KERNELS_VENV)/.installed
COMPILE_BIN := $(COMPILE_VENV)/bin
COMPILE_INSTALLED := $(COMPILE_VENV)/.installed
UV_VERSION := 0.13.8
# Where a mirror is known to pip only:
# make test INSTALL=".venv/bin/python -m pip install"
INSTALL = $(BIN)/python -m uv pip install --quiet --python $(BIN)/python
# pip is asked for torch because it also looks into local folders of wheels.
PIP = $(BIN)/python -m pip --disable-pip-version-check
PYTEST = $(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST_FLAGS)
T5X_LITE = $(BIN)/python -m t5x_lite

SUITABLE := import sys, venv, ensurepip; \
  sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
# The first of these that will do; PYTHON=... names another.
PYTHON ?= $(shell \
  for python in python3 python3.13 python3.12 python3.11 python; do \
    $$python -c "$(SUITABLE)" 2>/dev/null && { echo $$python; break; }; \
  done)
# jax 0.12, whose compilers know the newest chips, wants Python 3.12.
KERNELS_SUITABLE := import sys, venv, ensurepip; \
  sys.exit(not (3, 12) <= sys.version_info[:2] <= (3, 13))
ifneq ($(filter command environment,$(origin PYTHON)),)
KERNELS_PYTHON = $(PYTHON)
else
KERNELS_PYTHON = $(shell \
  for python in python3 python3.12 python3.13; do \
    $$python -c "$(KERNELS_SUITABLE)" 2>/dev/null \
      && { echo $$python; break; }; \
  done)
endif
VERSION := import sys; print("%d.%d" % sys.version_info[:2])

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help quickstart test test-slow test-parity test-kernels test-compile \
  lint format lock clean check-python check-kernels-python

help: ## list what can be made
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1|\2/p' Makefile \
	  | awk -F'|' '{printf "  %-18s %s\n", $$1, $$2}'
	@echo
	@echo "  PYTHON=python3.12 picks the interpreter, VENV=.venv-3.12 the"
	@echo "  environment, PYTEST_FLAGS=\"-k resume\" the tests."

quickstart: $(INSTALLED) ## pre-train, fine-tune, evaluate and predict
	$(T5X_LITE) vocab --workdir=$(QUICKSTART_DIR)/vocab \
	  --gin_file=quickstart/vocab.gin
	$(T5X_LITE) train --workdir=$(QUICKSTART_DIR)/pretrain \
	  --gin_file=quickstart/pretrain.gin
	$(T5X_LITE) train --workdir=$(QUICKSTART_DIR)/finetune \
	  --gin_file=quickstart/finetune.gin
	$(T5X_LITE) eval --workdir=$(QUICKSTART_DIR)/finetune \
	  --gin_file=quickstart/evaluate.gin
	$(T5X_LITE) infer --workdir=$(QUICKSTART_DIR)/finetune \
	  --gin_file=quickstart/infer.gin

test: $(INSTALLED) ## run the tests, but for the slow ones
	$(PYTEST)

test-slow: $(INSTALLED) ## run the slow tests
	$(PYTEST) -m "slow and not parity and not compiled and not interpreted"

test-parity: $(PARITY_INSTALLED) ## compare with PyTorch and transformers
	$(PYTEST) -m parity

# As many threads as NPROC says may wait in an interpreted kernel.
test-kernels: $(KERNELS_INSTALLED) ## compile for absent TPUs and GPUs
	NPROC=8 $(KERNELS_BIN)/python -m pytest -n 2 --dist load $(PYTEST_FLAGS) \
	  -m "$(KERNEL_TESTS)" tests/kernels

test-compile: $(COMPILE_INSTALLED) ## compile models for absent TPUs and GPUs
	$(COMPILE_BIN)/python -m pytest $(PYTEST_FLAGS) -m compiled tests/compile

lint: $(INSTALLED) ## check style and types
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

format: $(INSTALLED) ## write the code as `make lint` wants it
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

lock: $(INSTALLED) ## pin what setup.py asks for; LOCK_FLAGS=--upgrade renews
	$(BIN)/python -m uv pip compile setup.py --extra dev --universal \
	  --python-version 3.11 --annotation-style line --quiet $(LOCK_FLAGS) \
	  --custom-compile-command "make lock" --output-file requirements/lock.txt

clean: ## remove the environments and what was built; runs/ stays
	rm -rf $(VENV) $(KERNELS_VENV) $(COMPILE_VENV) build dist *.egg-info
	rm -rf .mypy_cache .pytest_cache .ruff_cache
	find benchmarks gin_configs pallas_kernels t5x_lite tasks tests \
	  -name __pycache__ -prune -exec rm -rf {} +

$(INSTALLED): requirements/lock.txt setup.py pyproject.toml | check-python
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
	  echo "Setting up $(VENV): about 1 GB to download, once."; \
	  $(PYTHON) -m venv --clear $(VENV); }
	$(PIP) install --quiet uv==$(UV_VERSION)
	$(INSTALL) -r requirements/lock.txt
	$(INSTALL) --no-deps --no-build-isolation -e .
	@touch $@

# PyTorch from the index brings CUDA; these tests run on the CPU.
$(PARITY_INSTALLED): $(INSTALLED)
	$(PIP) install --quiet --no-build-isolation -e ".[parity]"
	@touch $@

# The plugin's needs stay out: 3 GB that compiling does not touch.
$(KERNELS_INSTALLED): requirements/kernels.txt | check-kernels-python
	@echo "Setting up $(KERNELS_VENV): about 0.6 GB to download, once."
	$(KERNELS_PYTHON) -m venv --clear $(KERNELS_VENV)
	$(KERNELS_BIN)/python -m pip --disable-pip-version-check install --quiet \
	  --no-deps -r requirements/kernels.txt
	@touch $@

# As above, and all that a run needs.
$(COMPILE_INSTALLED): requirements/lock.txt requirements/kernels.txt setup.py \
    | check-kernels-python
	@echo "Setting up $(COMPILE_VENV): about 1.6 GB to download, once."
	$(KERNELS_PYTHON) -m venv --clear $(COMPILE_VENV)
	$(COMPILE_BIN)/python -m pip --disable-pip-version-check install --quiet \
	  uv==$(UV_VERSION)
	$(COMPILE_BIN)/python -m uv pip install --quiet \
	  --python $(COMPILE_BIN)/python -r requirements/lock.txt
	$(COMPILE_BIN)/python -m uv pip install --quiet \
	  --python $(COMPILE_BIN)/python --no-deps -r requirements/kernels.txt
	@touch $@

check-kernels-python:
	@$(KERNELS_BIN)/python -c "$(KERNELS_SUITABLE)" 2>/dev/null \
	|| $(or $(KERNELS_PYTHON),false) -c "$(KERNELS_SUITABLE)" 2>/dev/null || { \
	  echo "Kernels are compiled with Python 3.12 or 3.13;" \
	    "$(if $(KERNELS_PYTHON),$(KERNELS_PYTHON) is not that,none was found):" \
	    "make test-kernels PYTHON=/path/to/python3.12"; \
	  exit 1; } >&2

# Refuses a Python that cannot do, and one that is not the environment's.
check-python:
	@$(BIN)/python -c "$(SUITABLE)" 2>/dev/null \
	|| $(or $(PYTHON),false) -c "$(SUITABLE)" 2>/dev/null || { \
	  echo "t5x_lite needs Python 3.11, 3.12 or 3.13 with its venv module;" \
	    "$(if $(PYTHON),$(PYTHON) is not that,none was found)."; \
	  echo "Install one (on Debian and Ubuntu with its venv:" \
	    "apt install python3 python3-venv)"; \
	  echo "or name it: make $(or $(MAKECMDGOALS),test)" \
	    "PYTHON=/path/to/python3.12"; \
	  exit 1; } >&2
ifneq ($(filter command environment,$(origin PYTHON)),)
	@have=$$($(BIN)/python -c '$(VERSION)' 2>/dev/null) || exit 0; \
	want=$$($(PYTHON) -c '$(VERSION)') || exit 1; \
	test "$$have" = "$$want" || { \
	  echo "$(VENV) holds Python $$have, and PYTHON=$(PYTHON) is $$want:" \
	    "add VENV=.venv-$$want, or \`make clean\` first."; \
	  exit 1; } >&2
endif
