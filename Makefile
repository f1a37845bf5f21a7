PYTHON ?= python3
BIN := .venv/bin
export OMP_NUM_THREADS ?= 1

.PHONY: help demo test test-all lint format clean

help:
	@echo "make demo      set up, run the main job on real digits, write figures/demo.png"
	@echo "make test      set up, run the tests (minutes)"
	@echo "make test-all  the long tests too"
	@echo "make lint      style and types"

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --editable ".[data]" --group test
	touch .venv/ready

.venv/ready-lint: .venv/ready
	$(BIN)/python -m pip install --quiet --group lint
	touch .venv/ready-lint

demo: .venv/ready
	$(BIN)/gradflow demo --out figures

test: .venv/ready
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

test-all: .venv/ready
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "slow or not slow"

lint: .venv/ready-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: .venv/ready-lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv build dist *.egg-info
