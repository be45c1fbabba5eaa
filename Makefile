# Everything runs in .venv, made from requirements.lock by the first target that needs it.

PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null \
	&& echo $$python && break; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check --no-input

SHARED ?= $(wildcard ../shared)
GOLDEN := tests/golden
SHOWN := $(firstword $(wildcard $(GOLDEN)/*lost*.kdump $(GOLDEN)/*.kdump))

export SHARED
export PYTHONDONTWRITEBYTECODE := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test check lint corpus bench lock docs clean

help:
	@echo "make demo   the pipeline over the real dumps in $(GOLDEN), and one report as text"
	@echo "make test   all tests, with coverage"
	@echo "make check  format, lint, types, tests; with the shared corpus, every report of it against the truth"
	@echo "make bench  the benchmarks, as ratios; DRGN_PYTHON=a Python that has drgn adds the one beside drgn"
	@echo "make docs   writes what is generated: schemas/json, docs/codes.md, docs/tables.md, configs/signature/oops.json"
	@echo "make lock   makes requirements.lock anew;  make setup, make clean  .venv and build/"

setup: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "crashbeam needs Python 3.11, 3.12 or 3.13: set PYTHON=..." >&2; exit 2; }
	@echo "setup: $(VENV) from requirements.lock (once, about a minute)"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(PIP) install --only-binary :all: --require-hashes -r requirements.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup
	@rm -rf build/demo && mkdir -p build
	$(BIN)/crashbeam run $(GOLDEN) --symbols $(GOLDEN) -o build/demo
	@echo
	$(BIN)/crashbeam show $(SHOWN) --symbols $(GOLDEN)
	@echo
	@echo "demo: the reports of all dumps are in build/demo/parts (one JSON object a line, zstd)"

test: setup
	@$(BIN)/coverage erase
	@$(BIN)/coverage run -m pytest
	@$(BIN)/coverage report --skip-covered

lint: setup
	@echo "check: format";  $(BIN)/ruff format --check --quiet .
	@echo "check: lint";    $(BIN)/ruff check --quiet .
	@echo "check: types";   $(BIN)/mypy crashbeam tests

check: lint test corpus
	@echo "check: all good"

ifneq ($(and $(SHARED),$(wildcard $(SHARED)/tools/check_corpus.py)),)
corpus: setup
	@echo "check: the corpus against its truth"
	@rm -rf build/corpus && mkdir -p build
	@corpus=$$($(BIN)/python -m tests.shared_corpus) && \
	$(BIN)/crashbeam run "$$corpus/ppc32" "$$corpus/ppc64" --symbols "$$corpus/kernels" -o build/corpus && \
	$(BIN)/python "$(SHARED)/tools/check_corpus.py" build/corpus/parts --hypervisor --recovered \
		--corpus "$$corpus/ppc32" --corpus "$$corpus/ppc64"
else
corpus:
	@echo "check: no shared corpus here, so no comparison with its truth (set SHARED to its folder)"
endif

bench: setup
	@for benchmark in benchmarks/bench_*.py; do \
		echo "bench: $$benchmark"; $(BIN)/python -m benchmarks.$$(basename $$benchmark .py) || exit 1; done

docs: setup
	@$(BIN)/python -m crashbeam.schemas.json_schema
	@$(BIN)/python -m crashbeam.schemas.pages docs
	@$(BIN)/python -c "from pathlib import Path; from crashbeam.vmcore.oops.formats import write_twin; \
		write_twin(Path('configs/signature'))"

lock: setup
	@$(BIN)/uv pip compile --quiet pyproject.toml --extra dev --universal --python-version 3.11 --upgrade \
		--generate-hashes --no-header --no-annotate --output-file requirements.lock
	@echo "lock: requirements.lock is new; make test"

clean:
	@rm -rf $(VENV) build dist *.egg-info .coverage .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
