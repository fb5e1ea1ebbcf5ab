# What one can do here; `make` alone prints this list from the `##` comments.
SHELL := /bin/bash
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
BIN := .venv/bin
PYTHON ?= python3
DATA_DIR ?=
LISTEN ?=
# Narrows `make test`, as in `make test T=tests/unit/test_errors.py::test_name`.
T ?=
# How many processes run it, each with servers of its own. A file's tests stay together and in order.
JOBS ?= 2
# Narrows `make bench`, as in `make bench Q="depth parallel"`.
Q ?=

.PHONY: help setup setup-dev demo test check fix serve bench lock guest clean

help: ## print this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

setup: ## install what the service lacks: system packages, .venv, guest kernel and agent; start nothing
	@PYTHON=$(PYTHON) infra/setup/setup.sh

setup-dev: ## the same, and what demo, tests and benches need beside it
	@PYTHON=$(PYTHON) infra/setup/setup.sh dev

demo: setup-dev ## the whole story on real parts, in a throw-away directory
	@$(BIN)/python -m infra.demo

test: setup-dev check ## check, then the whole suite, guest agent and real guests included; T=, JOBS=
	@root=$$(mktemp -d /tmp/contree-test.XXXXXX); trap 'rm -rf "$$root"' EXIT; \
	    PYTEST_DEBUG_TEMPROOT=$$root $(BIN)/python -m pytest \
	    $(if $(filter-out 1,$(JOBS)),-n $(JOBS) --dist loadfile --no-loadscope-reorder) $(T)

check: setup-dev ## lint, format, types, rings: needs no services
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/mypy infra/images infra/demo/*.py
	@$(BIN)/lint-imports --no-logo

fix: setup-dev ## what the linter and the formatter can mend
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

serve: setup ## API, worker and embedded PostgreSQL in one process; DATA_DIR=, LISTEN=
	@exec $(BIN)/contreed serve $(if $(DATA_DIR),--data-dir $(DATA_DIR)) $(if $(LISTEN),--listen $(LISTEN))

bench: setup-dev ## every question of bench/, each beside its reference; then table and plots; Q= narrows
	@$(BIN)/python -m bench $(Q)

guest: setup ## build the static guest agent
	@$(MAKE) -C guest

# Three files from one pyproject.toml: all that development needs, of that what the service needs, in
# the same versions, and the clients that are to come, in versions of their own. What is locked stays as it is; `make lock LOCK=--upgrade` takes newer ones.
LOCK ?=
COMPILE = .cache/lock-venv/bin/uv pip compile --quiet --generate-hashes --no-header \
    --python-version 3.11 $(LOCK)
lock: ## make requirements*.lock from pyproject.toml; LOCK=--upgrade for newer versions
	@test -x .cache/lock-venv/bin/uv || { \
	    $(PYTHON) -m venv .cache/lock-venv && \
	    .cache/lock-venv/bin/pip install --quiet --disable-pip-version-check uv; }
	@$(COMPILE) --group dev --output-file requirements-dev.lock pyproject.toml
	@$(COMPILE) --group build --constraint requirements-dev.lock --output-file requirements.lock pyproject.toml
	@$(COMPILE) --group next --output-file requirements-next.lock

clean: ## remove what setup made in this folder
	rm -rf .venv .venv-next .cache guest/build
