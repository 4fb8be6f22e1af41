# Every target makes the virtual environment it needs; a machine with Python 3.11 and make is enough.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.PHONY: demo test test-slow kernels lint format tutorials bench clean

demo: $(VENV)/.demo             ## calibrated, leverage-aware intervals on real data, and a picture of them
	$(BIN)/python -m hatband demo

# Two workers, one BLAS thread each.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

test: $(VENV)/.dev              ## every claim, doctests included
	$(PYTEST) -m "not slow"

test-slow: $(VENV)/.dev         ## the same claims in long sweeps, and the tutorials
	$(PYTEST) -m slow

kernels: $(VENV)/.dev           ## the numerical tests under every kind of BLAS kernel that the processor runs
	$(BIN)/python tests/kernels.py

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

tutorials: $(VENV)/.tutorials   ## run every tutorial as a notebook
	$(BIN)/jupytext --quiet --to ipynb tutorials/*.py
	$(BIN)/python -m pytest -c /dev/null --rootdir=. --nbmake --nbmake-timeout=120 tutorials/*.ipynb

bench: $(VENV)/.dev             ## HATBAND_DATA=folder make bench
	for script in benchmarks/[a-z]*.py; do $(BIN)/python $$script || exit 1; done

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable ".[plot]"
	touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

$(VENV)/.tutorials: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable ".[tutorials]"
	touch $@
