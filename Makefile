# make demo   set everything up in .venv and run the main job on the embedded data
# make test   set everything up in .venv and run the checks and the tests
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help install demo test lint unit slow docs clean

help:
	@sed -n 's/^# //p' Makefile

$(STAMP): pyproject.toml scripts/install.sh
	PYTHON=$(PYTHON) VENV=$(VENV) sh scripts/install.sh
	@touch $(STAMP)

install: $(STAMP)

demo: install
	$(BIN)/genrec run recipes/demo.yaml
	@echo 'to use genrec in this shell: . $(BIN)/activate'

test: lint unit

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

slow: install
	$(BIN)/python -m pytest -m slow

docs: install
	$(BIN)/pip install -q -e ".[docs]" --config-settings editable_mode=compat
	$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) build site runs
