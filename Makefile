# All that a person or CI needs; `make` lists it. Python 3.11+ is the only thing that has to be there.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test check format docs clean

help:  ## list what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/.base  ## install what is needed and see a model unmask text
	@$(BIN)/unmask demo $(ARGS)

# Tensors in tests are tiny: one thread and several processes are much quicker than several threads.
test: check  ## lint, types and every test (ARGS="-k draft" goes to pytest)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(ARGS)

check: $(VENV)/.dev  ## lint and types
	@$(BIN)/python -m ruff check
	@$(BIN)/python -m ruff format --check
	@$(BIN)/python -m mypy

format: $(VENV)/.dev  ## bring every file into shape
	@$(BIN)/python -m ruff check --fix
	@$(BIN)/python -m ruff format

docs: $(VENV)/.dev  ## build the docs as a site, in site/
	@$(BIN)/python -m mkdocs build --quiet

clean:  ## remove the environment and all caches of this folder (not the downloaded models)
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist site
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps: a step is done again when pyproject.toml changes, and only a step that went well leaves its stamp.

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo 'unmask needs Python 3.11 or newer, which "$(PYTHON)" is not: try  make PYTHON=python3.12 $(MAKECMDGOALS)' >&2; exit 1; }
	@echo 'Creating $(VENV)'
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo '"$(PYTHON)" cannot create an environment: its venv module is missing (Debian, Ubuntu: python3-venv)' >&2; exit 1; }

$(VENV)/.torch: pyproject.toml scripts/install_torch.py | $(BIN)/python
	@$(BIN)/python scripts/install_torch.py
	@touch $@

$(VENV)/.base: $(VENV)/.torch
	@echo 'Installing unmask'
	@$(PIP) install -qq --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.torch
	@echo 'Installing unmask and its test tools'
	@$(PIP) install -qq --editable '.[dev,docs]'
	@touch $(VENV)/.base $@
