# Two commands for a newcomer: `make demo` and `make test`. They create their
# own virtual environment in .venv and need nothing but Python, pip and make.
# `make bench` measures speed and memory, in about a quarter of an hour.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# Two processes take one test after the other, in the order of tests/cost.py;
# what the tests of a file share is set up in one of them.
TEST_FLAGS ?= --numprocesses=2 --dist=loadgroup --no-loadscope-reorder
FAST = not slow and not subprocess and not network and not gpu

export TF_CPP_MIN_LOG_LEVEL = 2

.PHONY: demo test test-fast test-slow lint bench clean

demo: $(VENV)/.examples
	$(BIN)/python examples/movielens_multigate.py

test: $(VENV)/.dev
	$(BIN)/python -m pytest $(TEST_FLAGS)
	TF_USE_LEGACY_KERAS=1 $(BIN)/python -m pytest $(TEST_FLAGS)

test-fast: $(VENV)/.dev
	$(BIN)/python -m pytest $(TEST_FLAGS) -m "$(FAST)"

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest $(TEST_FLAGS) -m "slow and not network and not gpu"

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks $(BENCH_FLAGS)

clean:
	rm -rf $(VENV) build dist *.egg-info runs

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.%: setup.cfg pyproject.toml $(BIN)/python
	$(BIN)/pip install --quiet --editable '.[$*]'
	touch $@
