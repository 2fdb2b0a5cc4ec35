# make demo: install into .venv and go the whole way on real handwritten digits.
# make test: install what the tests need and run them. ORACLES= leaves out torch; the tests that compare with it then skip.
# make bench: install the peers and compare with them; ARGS= takes options, PEERS= leaves peers out, ARGS='--python PATH' uses those of PATH.
# make bench-inference: how long the exported models take to answer, beside torch; the same ARGS= and PEERS=.

PYTHON ?= python3
ORACLES ?= torch==2.13.0
PEERS ?= torch==2.13.0 jax keras scikit-learn
VENV := .venv
BIN := $(VENV)/bin
JOBS ?= 2

.PHONY: demo test lint types bench bench-inference install clean

demo: $(VENV)/.installed
	$(BIN)/nnc run specs/digits.nn -o runs/digits

test: $(VENV)/.tested
	$(BIN)/python -m pytest -n $(JOBS) $(ARGS)

lint: $(VENV)/.tested
	$(BIN)/ruff check .

types: $(VENV)/.tested
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python .ci/types.py

bench: $(VENV)/.benched
	$(BIN)/python benchmarks/compare $(ARGS)

bench-inference: $(VENV)/.benched
	$(BIN)/python benchmarks/compare/inference.py $(ARGS)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet -e .
	touch $@

$(VENV)/.tested: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet -e '.[test]'
	$(if $(ORACLES),$(BIN)/python -m pip install --quiet '$(ORACLES)')
	touch $(VENV)/.installed $@

$(VENV)/.benched: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet -e '.[bench]'
	$(if $(PEERS),$(BIN)/python -m pip install --quiet $(PEERS))
	touch $(VENV)/.installed $@

install: $(VENV)/.installed

clean:
	rm -rf $(VENV) build dist runs *.egg-info .pytest_cache .mypy_cache .ruff_cache .typecheck
