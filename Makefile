# All that these commands need goes into .venv and build/ in this checkout; nothing system-wide.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet install
SOURCES := $(shell find src -name '*.pyx' -o -name '*.pxd' -o -name '*.h')
STUBBED := $(sort $(subst /,.,$(patsubst src/%.pyi,%,$(shell find src -name '*.pyi'))))

# Files to work on in `make demo FILES=...`, further arguments for pytest and bench in `make test ARGS=...`.
FILES ?=
ARGS ?=

.DELETE_ON_ERROR:
.PHONY: help build demo test check format bench wheel clean

help:
	@echo 'make demo     several nodes on this machine work through files (FILES="a.txt b.txt" for your own)'
	@echo 'make test     the tests (ARGS="-k mailbox" for some of them)'
	@echo 'make check    ruff, cython-lint, mypy --strict, stubtest, the architecture test'
	@echo 'make bench    every benchmark beside its peers (ARGS="messages --quick" for less)'
	@echo 'make wheel    sdist and wheel in dist/, and a look at what is in them'
	@echo 'make format   let ruff lay out the Python code'
	@echo 'make clean    remove all that these commands made'

demo: $(VENV)/stamp-run build
	@$(BIN)/agentnet demo $(FILES)

test: $(VENV)/stamp-dev build
	@$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

check: $(VENV)/stamp-dev build
	@echo 'ruff';        $(BIN)/ruff check --quiet . && $(BIN)/ruff format --check --quiet --diff .
	@echo 'cython-lint'; PATH="$(CURDIR)/$(BIN):$$PATH" cython-lint src
	@echo 'mypy';        $(BIN)/mypy --no-error-summary
	@echo 'stubtest';    MYPYPATH=src $(BIN)/stubtest --concise --mypy-config-file pyproject.toml \
	    --allowlist tools/stubtest-allow.txt --ignore-unused-allowlist $(STUBBED)
	@$(BIN)/python -m pytest -q tests/test_architecture.py

bench: $(VENV)/stamp-bench build
	@$(BIN)/python -m bench $(ARGS)

wheel: $(VENV)/stamp-dev
	@echo 'Building sdist and wheel, each from nothing (a minute or two)'
	@rm -rf dist && $(BIN)/python -m build --outdir dist . >build/wheel.log 2>&1 || (cat build/wheel.log; exit 1)
	@$(BIN)/python tools/check_wheel.py dist

format: $(VENV)/stamp-dev
	@$(BIN)/ruff check --quiet --fix . ; $(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist src/*.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .benchmarks
	find src tests bench examples tools \( -name '*.so' -o -name __pycache__ \) -prune -exec rm -rf {} +

build: build/stamp

build/stamp: $(VENV)/stamp-made setup.py $(SOURCES)
	@echo 'Building the Cython modules that changed (all of them: a minute or two)'
	@$(BIN)/python setup.py --quiet build_ext --inplace
	@touch $@

$(VENV)/stamp-made:
	@command -v $(PYTHON) >/dev/null || { echo 'No $(PYTHON) here: install Python 3.11 or later,' \
	    'or name it: make PYTHON=/path/to/python3 ...' >&2; exit 1; }
	@$(PYTHON) tools/check_machine.py
	@echo 'Making .venv'
	@rm -rf $(VENV) && $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -c 'import tomllib; \
	    print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' \
	    >$(VENV)/build-requires.txt
	@$(PIP) -r $(VENV)/build-requires.txt
	@touch $@

# Builds stand before installs: an editable install takes what is built already, and says little while it builds.
$(VENV)/stamp-run: pyproject.toml | build
	@echo 'Installing agentnet into .venv, with what it needs'
	@$(PIP) --no-build-isolation --editable .
	@touch $@

$(VENV)/stamp-dev: pyproject.toml | build
	@echo 'Installing what tests and checks need into .venv (half a minute or so)'
	@$(PIP) --no-build-isolation --editable '.[dev]'
	@touch $@

$(VENV)/stamp-bench: pyproject.toml | build
	@echo 'Installing the peers of the benchmarks into .venv (half a minute or so)'
	@$(PIP) --no-build-isolation --editable '.[bench]'
	@touch $@
