# `make demo` and `make test` set up everything they need in a virtual environment of their own.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Each worker has one thread, and takes whole files: what a file's fixtures prepare is prepared once.
PYTEST = $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help demo test slow check format docs stacks clean

help:
	@echo "make demo    learn to search the Python standard library in plain English, and keep the model"
	@echo "make test    run the tests"
	@echo "make slow    run the notebook, the pages in a browser, and scripts that start processes"
	@echo "make check   formatting, lint, types and tests, as CI runs them"
	@echo "make format  format the code"
	@echo "make docs    build the documentation in site/"
	@echo "make stacks  run the recipes of docs/stacks in an environment each"

# The stamp is newer than what it was made from, so an unchanged environment is not installed again.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 10) and 'Python 3.10 or newer is needed, this is ' + sys.version)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[demo,dev]"
	touch $@

demo: $(VENV)/.installed
	$(BIN)/st-adapter demo --output-dir demo

test: $(VENV)/.installed
	$(PYTEST) -m "not slow"

slow: $(VENV)/.installed
	$(PYTEST) -m slow

check: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(PYTEST)

format: $(VENV)/.installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(VENV)/.docs-installed: $(VENV)/.installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[docs]"
	touch $@

docs: $(VENV)/.docs-installed
	# Material for MkDocs announces the project that follows it at every build.
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Takes an hour and some 20 GB of environments, which are kept in stacks/ for the next run.
stacks: $(VENV)/.installed
	$(BIN)/python scripts/check_stacks.py --environments stacks

clean:
	rm -rf $(VENV) demo site stacks build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
