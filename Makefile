# Each target also works without make: the commands are one line each.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
export OMP_WAIT_POLICY ?= PASSIVE
export HF_HUB_OFFLINE ?= 1
export HF_DATASETS_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: demo test check laws docs wheel rooms bench data-test gpu-test clean

demo: $(VENV)/.installed  ## one whole distillation on scikit-learn's digits
	$(BIN)/potstill demo -o out/demo

test: $(VENV)/.installed  ## the default test suite: offline, two cores, minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

check: $(VENV)/.installed  ## format, lint, types
	$(BIN)/ruff format --check src tests benchmarks examples
	$(BIN)/ruff check src tests benchmarks examples
	$(BIN)/mypy

laws: $(VENV)/.installed  ## the properties that every loss, source and cut must obey
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/laws

data-test: $(VENV)/.installed  ## tests on real data: needs POTSTILL_DATA
	$(BIN)/python -m pytest -m "data or slow" --timeout=1800

gpu-test: $(VENV)/.installed  ## tests on an NVIDIA GPU; each skips where PyTorch sees none
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m gpu -n 8 --dist worksteal tests/gpu

docs: $(VENV)/.installed .venv-docs/.installed  ## regenerate pages and notebooks from the code, and build the site, strictly
	$(BIN)/python docs/generate.py
	$(BIN)/python docs/notebooks.py
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict --quiet

.venv-docs/.installed: requirements/docs.txt
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install --quiet --no-deps -r requirements/docs.txt
	touch $@

wheel: $(VENV)/.installed  ## dist/potstill-….whl
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation -w dist .

rooms: $(VENV)/.installed  ## draw docs/rooms.svg from the imports
	$(BIN)/python docs/rooms.py

bench: $(VENV)/.installed  ## benchmarks that need no data; one command each in benchmarks/
	$(BIN)/python benchmarks/losses.py

$(VENV)/.installed: requirements/lock.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-deps -r requirements/lock.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

clean:
	rm -rf $(VENV) .venv-docs out site dist
