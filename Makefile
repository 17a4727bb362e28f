# `make demo` and `make test` set up their environment. PYTHON chooses the interpreter for .venv.
PYTHON ?= python3
BIN := .venv/bin
# pip prints errors only: its warnings are about the settings of the machine.
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt --editable
# The tests of a file run in one process, so they share fixtures that take seconds to set up.
PARALLEL := -n logical --maxprocesses 4 --dist loadfile
KILLS ?= 200
SEED ?= 0

.PHONY: help demo test test-slow test-kills test-versions check docs release-check install clean

help:
	@echo "make demo          set up, and search for the best digits classifier"
	@echo "make test          set up, and run the tests"
	@echo "make test-slow     set up, and run the tests that take minutes"
	@echo "make test-kills    set up, and kill 200 processes at random while searches train (KILLS=200 SEED=0)"
	@echo "make test-versions run core tests with the lowest, the newest and other versions"
	@echo "make check         set up, and run ruff, mypy, the check of private names and make docs"
	@echo "make docs          set up, and build the documents' site in docs/_build/html"
	@echo "make release-check do everything that a release needs before its tag (hours)"
	@echo "make clean         remove the environments and the caches"

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
		{ echo "search needs Python 3.11, 3.12 or 3.13: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -m venv .venv

.venv/.installed: .venv/bin/python pyproject.toml constraints.txt
	@echo "installing search, TensorFlow and MLflow into .venv: 3 GB, a few minutes …"
	@$(PIP) '.[examples]'
	@touch $@

.venv/.installed-dev: .venv/.installed
	@echo "installing the packages of the tests into .venv …"
	@$(PIP) '.[dev]'
	@touch $@

install: .venv/.installed

demo: .venv/.installed
	$(BIN)/search run spaces/digits.py --study demo --overwrite --max-epochs 9 --seed 1

test: .venv/.installed-dev
	$(BIN)/python -m pytest -m "not slow" $(PARALLEL)

test-slow: .venv/.installed-dev
	$(BIN)/python -m pytest -m slow $(PARALLEL) --no-loadscope-reorder

test-kills: .venv/.installed-dev
	$(BIN)/python tests/kills.py --kills $(KILLS) --seed $(SEED)

# Makes environments of its own, so it needs none.
test-versions:
	$(PYTHON) tests/versions.py

check: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python tests/private_names.py
	$(MAKE) --no-print-directory docs

docs: .venv/.installed-dev
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet docs docs/_build/html

release-check: .venv/.installed-dev
	$(BIN)/python tests/release.py

clean:
	rm -rf .venv .venvs .mypy_cache .pytest_cache .ruff_cache build dist docs/_build
