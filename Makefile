# Two commands set everything up on a fresh machine: `make search` and `make test`.
PYTHON ?= python3
VENV ?= .venv
# Which torch to install: any requirement, a wheel, or pip options followed by one.
TORCH ?= torch==2.13.0
RUN_DIR ?= runs/demo
SEARCH_FLAGS ?= --top-k 2 --search-epochs 3 --max-train-batches 40 --final-epochs 8 --final-max-train-batches 90

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALLED := $(VENV)/.installed

.PHONY: search test bench install clean

search: $(INSTALLED)  ## a real search on the embedded default data
	$(BIN)/foreblocks-darts search --demo --run-dir $(RUN_DIR) $(SEARCH_FLAGS)

test: $(INSTALLED)  ## style, one-way imports, tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -p no:cacheprovider

bench: $(INSTALLED)  ## timings of the hot paths, then the end-to-end comparison
	$(BIN)/python -m pytest -p no:cacheprovider -o python_files='bench_*.py' benchmarks
	$(BIN)/python benchmarks/end_to_end/peer_mini.py

install: $(INSTALLED)

# The build happens in this environment, beside the torch that is already there. A fresh one has an old setuptools.
$(INSTALLED): pyproject.toml setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade 'setuptools>=77' wheel
	$(PIP) install --quiet $(TORCH)
	$(PIP) install --quiet --no-build-isolation -e '.[dev]'
	touch $@

clean:  ## all that the targets above made, but the runs
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis .benchmarks
	find foreblocks kernels tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
