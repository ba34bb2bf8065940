# Every target does its own set-up; what is there already costs some milliseconds.

JOBS ?= 2# tests at a time
PYTEST_ARGS ?=
KERNELS ?= 6.1 6.12 newest
CRIUS ?= 3.17.1 4.1.1 4.2.1 4.3
TESTS ?= tests/netns tests/criu
CELLS ?= 3.11-oldest 3.11-newest 3.15-oldest 3.15-newest
BENCH_ARGS ?=
COUNT ?= 20000# of each kind
FIRST ?= 0
KINDS ?= mapping,state,images,container,program,environment

BIN := .venv/bin
PYTEST = $(BIN)/pytest -n $(JOBS)

# Every shell script of the project, known by its first line.
SCRIPTS = $(shell find .ci examples hooks tests tools -type f -exec \
    awk 'FNR == 1 { if (/^\#!.*[\/ ](ba)?sh( |$$)/) print FILENAME; nextfile }' {} +)

.PHONY: help setup check test test-kernels test-matrix demo fuzz bench bench-migrate lock clean
.DEFAULT_GOAL := help

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile
	@echo 'Variables: PYTHON, CRIU, JOBS=2, PYTEST_ARGS="-k NAME", BENCH_ARGS'
	@echo 'fuzz: COUNT=$(COUNT), FIRST=$(FIRST), KINDS=$(KINDS)'
	@echo 'test-kernels: KERNELS="$(KERNELS)", CRIUS="$(CRIUS)", TESTS="$(TESTS)"'
	@echo 'test-matrix: CELLS="$(CELLS)", or 3.13, 3.14'

setup: ## make .venv, .criu and install the Debian packages that are missing
	@tools/setup venv packages criu runtimes

check: ## linters, types, import walls, and the tests that need no root
	@tools/setup venv
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/shellcheck $(SCRIPTS)
	$(PYTEST) -m "not root and not criu and not runtime" $(PYTEST_ARGS)

test: setup ## every test (as root, or those that need it are skipped)
	$(PYTEST) $(PYTEST_ARGS)

test-kernels: ## the tests of the kernel and of CRIU under each of KERNELS with each of CRIUS, in virtual machines
	@tools/setup root venv packages vm
	@PYTHONPATH=tools $(BIN)/python -m kernels --kernels="$(KERNELS)" --crius="$(CRIUS)" --tests="$(TESTS)" \
	    --jobs=$(JOBS) -- $(PYTEST_ARGS)

test-matrix: ## the tests without CRIU under the oldest and newest Python, with the oldest and newest packages
	@tools/setup root venv packages
	@PYTHONPATH=tools $(BIN)/python -m matrix --cells="$(CELLS)" --jobs=$(JOBS) -- $(PYTEST_ARGS)

demo: ## checkpoint and restore a server, and watch its veth come back
	@tools/setup root venv packages criu
	@CRIU=$$(tools/setup criu-path) examples/demo/run

fuzz: ## put damaged and hostile data into all that reads data
	@tools/setup root venv
	PYTHONPATH=tests $(BIN)/python -m fuzz --kinds $(KINDS) --count $(COUNT) --first $(FIRST) --jobs $(JOBS)

bench: ## measure what criu-veth costs a restore
	@tools/setup root venv packages criu
	PYTHONPATH=tests $(BIN)/python -m bench $(BENCH_ARGS)

bench-migrate: ## measure what clients see of a live migration, beside stock CRIU and a shell script
	@tools/setup root venv packages criu
	PYTHONPATH=tests $(BIN)/python -m bench.migrate $(BENCH_ARGS)

lock: ## write requirements.lock after a change of pyproject.toml (UPGRADE=1: newest versions)
	@tools/setup lock

clean: ## remove what these targets made (not Debian packages)
	rm -rf .venv .criu .criu.* .kernels .matrix .runtimes .runtimes.* .make .import_linter_cache .mypy_cache .pytest_cache .ruff_cache build dist
	find criu_veth examples tests tools -name __pycache__ -type d -exec rm -rf {} +
