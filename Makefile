# A fresh machine needs python3, make and g++. Everything else goes into .venv, and every step is skipped when up to date.
#   TORCH=torch==2.13.0 make demo    another torch (an exact CPU build: TORCH=torch==2.13.0+cpu, where pip can find it)
#   HIGHGRAD_CUDA=0 make test        without the CUDA kernels; FORCE_CUDA=1 insists on them

PYTHON ?= python3
TORCH ?= torch
WORKERS ?= 2

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip
SOURCES := $(shell find csrc -type f)

.NOTPARALLEL:
.PHONY: demo test bench gpu-check lint format setup build clean FORCE

demo: build $(VENV)/demo.deps
	$(BIN)/python examples/digits.py
	$(BIN)/python examples/kuramoto_sivashinsky.py

test: build $(VENV)/test.deps
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS)

bench: build $(VENV)/bench.deps
	$(BIN)/python benchmarks/run.py
	$(BIN)/python benchmarks/orders.py
	$(BIN)/python benchmarks/pinns.py

# On a machine with a GPU and no network: uses PYTHON, which has torch, as it is. GPU_CHECK=--rehearse goes without.
gpu-check:
	$(PYTHON) tools/gpu_check.py $(GPU_CHECK)

lint: $(VENV)/lint.deps
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy --strict highgrad_ext
	$(BIN)/clang-format --dry-run -Werror $(SOURCES)

format: $(VENV)/lint.deps
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/clang-format -i $(SOURCES)

setup: $(VENV)/torch.stamp
build: $(VENV)/build.stamp

clean:
	rm -rf build dist *.egg-info highgrad_ext/_C*.so $(VENV)/build.stamp
	rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# What was asked for, rewritten only when it differs: what depends on it is then made anew.
$(VENV)/torch.asked: ASKED = $(TORCH)
$(VENV)/build.asked: ASKED = $(FORCE_CUDA) $(HIGHGRAD_CUDA) $(TORCH_CUDA_ARCH_LIST)
$(VENV)/%.asked: FORCE | $(BIN)/python
	@echo '$(ASKED)' | cmp -s - $@ || echo '$(ASKED)' > $@

$(VENV)/torch.stamp: $(VENV)/torch.asked
	$(PIP) install --upgrade 'pip>=26.2' setuptools
	$(PIP) install '$(TORCH)' numpy pybind11 ninja
	touch $@

$(VENV)/build.stamp: $(VENV)/torch.stamp $(VENV)/build.asked $(SOURCES) setup.py pyproject.toml highgrad_ext/_version.py
	@echo "Building the extension: some minutes on two cores."
	$(PIP) install --no-build-isolation --no-deps --editable .
	touch $@

# The requirements of one extra. They are met by the torch that is there.
$(VENV)/%.deps: $(VENV)/torch.stamp pyproject.toml
	$(PIP) install --no-build-isolation --only-deps '.[$*]'
	touch $@
