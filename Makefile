# One command each; `make help` lists them. Nothing needs to be activated.
SHELL := /bin/bash
.NOTPARALLEL:
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A new lock makes a new stamp name, so that an unchanged environment costs nothing.
VENV_STAMP := $(VENV)/.installed-$(shell cksum < requirements-dev.lock | tr -d ' ')
JARS_STAMP := deploy/local/target/.jars-$(shell cksum < deploy/local/pom.xml | tr -d ' ')
LOCK := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --custom-compile-command "make lock" pyproject.toml

DURATION ?= 0
GUARANTEE ?= at_least_once
RATE ?= 1000
N ?= 2
T ?= tests
ARGS ?=

##@ Try it
.PHONY: demo worker
demo: setup $(VENV_STAMP) $(JARS_STAMP) ## Everything up, traffic, a live summary, a clean stop  (DURATION=30 RATE=1000 GUARANTEE=exactly_once)
	@$(BIN)/python -m deploy.local.demo --duration $(DURATION) --rate $(RATE) --guarantee $(GUARANTEE)

worker: $(VENV_STAMP) ## One more worker beside a running demo  (N=2)
	@$(BIN)/python -m deploy.local.worker --number $(N)

##@ Develop
.PHONY: test test-unit test-faults lint format observability bench
test: setup-tests $(VENV_STAMP) $(JARS_STAMP) ## Unit, integration and quick fault tests on an own Kafka and Redis  (T=tests/engine ARGS=-x)
	@$(BIN)/python -m pytest $(T) $(ARGS)

test-unit: $(VENV_STAMP) ## Unit tests alone: no service, about a minute  (T= ARGS=)
	@$(BIN)/python -m pytest -m "not integration and not process" $(T) $(ARGS)

test-faults: setup-tests $(VENV_STAMP) $(JARS_STAMP) ## Break things under load, count what comes out: an hour; docs/guarantees.md  (FAULT_SEED= FAULT_REPEAT= ARGS=-x)
	@$(BIN)/python -m pytest tests/faults tests/integration -m "faults or promise" $(ARGS)

lint: $(VENV_STAMP) ## ruff, its formatter, mypy --strict, import contracts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@PYTHONPATH=. $(BIN)/lint-imports

format: $(VENV_STAMP) ## Sort imports, fix what ruff can, format
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

observability: $(VENV_STAMP) ## Write docs/metrics.md, alert rules and dashboards again, from their sources in deploy/observability
	@$(BIN)/python -m deploy.observability

bench: setup $(VENV_STAMP) $(JARS_STAMP) ## Measure on the native Kafka, one JSON line a case  (ARGS=--help)
	@$(BIN)/python -m bench $(ARGS)

##@ Prepare
.PHONY: setup setup-tests jars venv lock dialects
setup: ## Java, Maven, redis-server, PostgreSQL: installs what is missing as root on Debian and Ubuntu, else says how
	@PYTHON=$(PYTHON) deploy/local/setup.sh

setup-tests: ## The same, and what tests need besides: Prometheus (promtool), Chromium, curl
	@PYTHON=$(PYTHON) deploy/local/setup.sh --tests

venv: $(VENV_STAMP) ## The virtual environment in .venv, from the lock
jars: $(JARS_STAMP) ## Kafka's jars in deploy/local/target

lock: ## Pin the newest allowed dependencies again, with hashes
	@command -v uv >/dev/null || { echo "make lock needs uv: pip install uv" >&2; exit 2; }
	@$(LOCK) --upgrade --output-file requirements.lock
	@$(LOCK) --upgrade --extra dev --constraint requirements.lock --output-file requirements-dev.lock

dialects: $(VENV_STAMP) $(JARS_STAMP) ## Other systems' dead letters by their own code, as test fixtures (needs a JDK)
	@$(BIN)/python -m tests.dead_letters.producers

##@ Clean
.PHONY: clean clean-all
clean: ## Remove caches and what demo, tests and benchmarks left
	@rm -rf var build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

clean-all: clean ## ... and the virtual environment and the jars
	@rm -rf $(VENV) deploy/local/target ./*.egg-info

.PHONY: help
help: ## This list
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' Makefile

$(VENV_STAMP): requirements-dev.lock
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "Veltrix needs Python 3.11, 3.12 or 3.13, and $(PYTHON) is another: make PYTHON=python3.12" >&2; exit 2; }
	@echo "Installing Python packages into $(VENV) ..." >&2
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(JARS_STAMP): deploy/local/pom.xml
	@echo "Fetching Kafka's jars ..." >&2
	@rm -rf deploy/local/target
	@mvn -q -B -f deploy/local/pom.xml dependency:copy-dependencies >&2
	@touch $@
