# make demo: set up, then run the whole road on the embedded data
# make test: set up with the development tools, then run the tests
# make mutation: put faults into lines drawn at random, and see which of them the fast tests find (tests/mutation.py)
# make bench: set up, then time the packed scorers against the plain Transformers model, contrastive losses
#   against the plain one, requests to a loopback server, and, where ITM_SHARED names the
#   folder of the real texts, measure what filters keep of them, and how long they take (BENCHMARKS.md)
# make gpu: check the scorers on a GPU, and measure scoring and training, in about 8 minutes; sets nothing up, so that
#   stock torch, transformers, lightning and peft do: make gpu PYTHON=.venv/bin/python takes this project's (BENCHMARKS.md)
# A target that is repeated installs nothing again, unless setup.cfg, pyproject.toml or constraints.txt has changed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
INSTALLED_DEV := $(VENV)/.installed-dev
# what a process needs is compiled when it is first imported, in a fraction of the time that all 19,000 files take
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt
unexport PYTHONDONTWRITEBYTECODE
# two at a time, a file's tests by one process, which makes what they share once; tests/conftest.py puts long files first
PYTEST := $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder
REQUIREMENTS := setup.cfg pyproject.toml constraints.txt
CODE := lightning_modules datamodules negatives experiments tests

.PHONY: demo test test-fast test-slow mutation lint format bench bench-packing bench-losses bench-generate bench-filters gpu

demo: $(INSTALLED)
	$(BIN)/itm demo --resume=auto

test: $(INSTALLED_DEV)
	$(PYTEST)

test-fast: $(INSTALLED_DEV)
	$(PYTEST) -m "not slow"

test-slow: $(INSTALLED_DEV)
	$(PYTEST) -m slow

mutation: $(INSTALLED_DEV)
	$(BIN)/python -m tests.mutation --seed 7 --mutations 40 --json runs/mutation/seed-7.json

lint: $(INSTALLED_DEV)
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	MYPY_NUM_WORKERS=2 $(BIN)/mypy

format: $(INSTALLED_DEV)
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

bench: bench-packing bench-losses bench-generate bench-filters

bench-packing: $(INSTALLED)
	$(BIN)/python -m experiments.bench --threads 2 --json runs/bench.json

bench-losses: $(INSTALLED)
	$(BIN)/python -m experiments.bench.loss_cost

bench-generate: $(INSTALLED)
	$(BIN)/python -m experiments.bench.generate_speed --captions 5000 --runs 5
	$(BIN)/python -m experiments.bench.generate_speed --captions 100000 --runs 1

bench-filters: $(INSTALLED)
	@if [ -z "$$ITM_SHARED" ]; then echo "bench-filters: left out, ITM_SHARED is not set"; else \
	$(BIN)/python -m experiments.bench.filters "$$ITM_SHARED/data/llm_negatives/pairs.jsonl" --json runs/filters.json && \
	$(BIN)/python -m experiments.bench.filter_speed "$$ITM_SHARED/data/llm_negatives/pairs.jsonl" && \
	$(BIN)/python -m experiments.bench.generators "$$ITM_SHARED/data/llm_negatives/pairs.jsonl"; fi

gpu:
	PYTHONPATH=. $(PYTHON) -m experiments.bench.gpu --minutes 8 --out runs/gpu.md

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python >= 3.11 is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

$(INSTALLED): $(REQUIREMENTS) | $(BIN)/python
	$(PIP_INSTALL) -e .
	@touch $@

# the development install holds the other one, so that `make demo` after `make test` installs nothing
$(INSTALLED_DEV): $(REQUIREMENTS) | $(BIN)/python
	$(PIP_INSTALL) -e '.[dev]'
	@touch $(INSTALLED) $@
