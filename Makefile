# Two commands set everything up on a fresh machine: `make search` and `make test`.
PYTHON ?= python3
VENV ?= .venv
# Which torch to install: any requirement, a wheel, or pip options followed by one.
TORCH ?= torch==2.13.0
# Folder of the run; without one, each run has a new folder in runs/.
RUN_DIR ?=
SEARCH_FLAGS ?= --final-epochs 8 --final-max-train-batches 90

BIN := $(VENV)/bin
PURE := $(VENV)-pure
SMALL_SEARCH := --candidates 2 --top-k 1 --search-epochs 1 --max-train-batches 2 --final-epochs 1 --final-max-train-batches 2
KERNEL_TESTS := $(BIN)/python -m pytest -p no:cacheprovider -q -m kernels tests/kernels
# Instruction sets that the kernels are forced to, beside the best one of the machine.
ISAS := plain $(if $(filter x86_64 AMD64,$(shell uname -m)),v3)
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALLED := $(VENV)/.installed

# Threads that wait for each other on a busy machine are slower than one.
test test-triton test-pure: export OMP_NUM_THREADS ?= 1

.PHONY: search test test-triton test-pure bench docs install clean

search: $(INSTALLED)  ## a real search on the embedded default data
	$(BIN)/foreblocks-darts search --demo $(if $(RUN_DIR),--run-dir $(RUN_DIR)) $(SEARCH_FLAGS)

test: $(INSTALLED)  ## style, types, one-way imports, tests; the kernels in every form, and an install without them
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -p no:cacheprovider
	for kernels in reference native; do FOREBLOCKS_DARTS_KERNELS=$$kernels $(KERNEL_TESTS) || exit 1; done
	for isa in $(ISAS); do FOREBLOCKS_DARTS_ISA=$$isa $(KERNEL_TESTS) || exit 1; done
	$(MAKE) test-triton
	$(MAKE) test-pure

test-triton: $(INSTALLED)  ## the GPU kernels in Triton's interpreter, which has to be chosen before they are imported
	TRITON_INTERPRET=1 FOREBLOCKS_DARTS_KERNELS=triton $(BIN)/python -m pytest -p no:cacheprovider -q tests/kernels/test_triton_interpreted.py

test-pure: $(INSTALLED)  ## an install without compiled kernels beside the same torch: it imports and runs a small search
	$(BIN)/python -m venv --clear --without-pip $(PURE)
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > $$(echo $(PURE)/lib/python3*/site-packages)/torch.pth
	FOREBLOCKS_BUILD_EXT=0 $(PIP) --python $(PURE)/bin/python install --quiet --no-deps --no-build-isolation --force-reinstall .
	cd $(PURE) && bin/foreblocks-darts kernels > kernels.txt
	grep 'no compiled kernels: .*FOREBLOCKS_BUILD_EXT=0 was set' $(PURE)/kernels.txt || { cat $(PURE)/kernels.txt; exit 1; }
	cd $(PURE) && bin/foreblocks-darts search --demo --run-dir run $(SMALL_SEARCH)

bench: $(INSTALLED)  ## timings of the hot paths, then the end-to-end comparison
	$(BIN)/python -m pytest -p no:cacheprovider -o python_files='bench_*.py' benchmarks
	$(BIN)/python benchmarks/end_to_end/peer_mini.py

docs: $(INSTALLED)  ## the pages, in docs/_build; a warning is an error, and the examples are run
	$(PIP) install --quiet 'foreblocks-darts[docs]'
	$(BIN)/python -m sphinx -W --keep-going docs docs/_build

install: $(INSTALLED)

# The build happens in this environment, beside the torch that is already there. A fresh one has an old setuptools.
$(INSTALLED): pyproject.toml setup.py $(wildcard csrc/*.cpp csrc/*/*.h csrc/cuda/*)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade 'setuptools>=77' wheel
	$(PIP) install --quiet $(TORCH)
	$(PIP) install --quiet --no-build-isolation -e '.[dev]'
	touch $@

clean:  ## all that the targets above made, but the runs
	rm -rf $(VENV) $(PURE) build docs/_build docs/_generated docs/api docs/gallery kernels/_C*.so kernels/_build_info.py dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis .benchmarks
	find foreblocks kernels tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
