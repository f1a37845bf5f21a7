PYTHON ?= python3
BIN := .venv/bin
export OMP_NUM_THREADS ?= 1

.PHONY: help demo test test-all notebooks figures docs lint format clean

help:
	@echo "make demo      set up, run the main job on real digits, write figures/demo.png"
	@echo "make test      set up, run the tests (minutes)"
	@echo "make test-all  the long tests too, and all notebooks in a kernel"
	@echo "make notebooks execute the notebooks anew from their scripts"
	@echo "make figures   regenerate the figures of papers in figures/ (what is there is kept)"
	@echo "make docs      the documentation site in build/docs; warnings are errors, internal links are checked"
	@echo "make lint      style and types"
	@echo "make bench     measure against other solvers, in an environment of its own (an hour); BENCH=--quick: 2 minutes"

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --editable ".[data]" --group test
	touch .venv/ready

.venv/ready-lint: .venv/ready
	$(BIN)/python -m pip install --quiet --group lint
	touch .venv/ready-lint

.venv/ready-notebooks: .venv/ready
	$(BIN)/python -m pip install --quiet --group notebooks
	touch .venv/ready-notebooks

.venv/ready-docs: .venv/ready
	$(BIN)/python -m pip install --quiet --group docs
	touch .venv/ready-docs

demo: .venv/ready
	$(BIN)/gradflow demo --out figures

test: .venv/ready
	$(BIN)/python -m pytest -q -n 2 --dist worksteal

test-all: .venv/ready-notebooks
	$(BIN)/python -m pytest -q -n 2 --dist worksteal -m "slow or not slow"
	$(BIN)/python -m pytest -q -n 2 --nbmake notebooks/*.ipynb

notebooks: .venv/ready-notebooks
	$(BIN)/jupytext --quiet --to ipynb --execute notebooks/*.py

figures: .venv/ready
	$(BIN)/gradflow reproduce --jobs 2 --out figures

docs: .venv/ready-docs
	$(BIN)/sphinx-build -q -W --keep-going -b html docs build/docs
	$(BIN)/python docs/check_links.py build/docs

lint: .venv/ready-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: .venv/ready-lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: bench
PLAIN := env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE
.venv-bench/ready: pyproject.toml
	$(PYTHON) -m venv .venv-bench
	echo "*" > .venv-bench/.gitignore
	.venv-bench/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	.venv-bench/bin/python -m pip install --quiet --editable ".[cvode]" "torch==2.13.0" jax diffrax torchode
	.venv-bench/bin/python -m pip install --quiet --no-deps numbalsoda \
		|| echo "numbalsoda is left out: it is built from source, with cmake and a Fortran compiler"
	touch .venv-bench/ready

bench: .venv-bench/ready
	$(PLAIN) .venv-bench/bin/python benchmarks/work_precision.py $(BENCH)
	$(if $(BENCH),,$(PLAIN) .venv-bench/bin/python benchmarks/gradient_cost.py > benchmarks/results/gradient_cost.txt)

clean:
	rm -rf .venv build dist *.egg-info
