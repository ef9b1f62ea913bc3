# One command each for run, test, lint and generate; .ci/run calls the same ones.
# `make PYTHON=/path/to/python3.12 install` picks another interpreter.

PYTHON ?= python3
export PYTHON

BIN := .venv/bin
RUNTIME := .venv/.runtime
PROJECT := .venv/.installed
TOOLS := .venv-tools/.installed

.DEFAULT_GOAL := help
.PHONY: help install run test faults lint generate baseline lock format bench drill soak test-job check-breaker clean
# Two targets that share a virtual environment must not race under `make -j`.
.NOTPARALLEL:

help: ## say what can be done
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# What `make run` waits for: half of the whole.
$(RUNTIME): pyproject.toml requirements.lock scripts/venv.sh
	@sh scripts/venv.sh .venv --constraint requirements.lock --editable .
	@touch $@

$(PROJECT): pyproject.toml requirements.lock scripts/venv.sh
	@sh scripts/venv.sh .venv --requirement requirements.lock --editable '.[dev]'
	@touch $(RUNTIME) $@

$(TOOLS): requirements-tools.txt scripts/venv.sh
	@sh scripts/venv.sh .venv-tools --requirement requirements-tools.txt
	@touch $@

install: $(PROJECT) ## set up .venv with the project and its development tools

run: $(RUNTIME) ## run all three components in one process (ARGS="--data DIR" …)
	@exec $(BIN)/selfheal dev $(ARGS)

test: install ## unit, contract, integration and system tests, one short run of each fault (ARGS="-k name" …)
	@sh scripts/test.sh $(ARGS)

faults: install ## every fault, at length, on private servers (ARGS="-k name" …)
	@$(BIN)/python -m pytest tests/faults $(ARGS)

lint: install $(TOOLS) ## every static check: Python, protos, generated code, deployment files
	@sh scripts/lint.sh

format: install ## rewrite Python and protos to the house style
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .
	@PATH="$(CURDIR)/$(BIN):$$PATH" buf format --write --path protos/selfheal

generate: install ## generate Python from the protos
	@PATH="$(CURDIR)/$(BIN):$$PATH" buf generate

baseline: install ## at a release: make the protos of now what `make lint` compares with
	@$(BIN)/buf build protos --exclude-source-info -o protos/baseline.binpb

lock: install $(TOOLS) ## resolve requirements.lock again, keeping what still fits
	@sh scripts/lock.sh

bench: install ## the benchmarks (ARGS="-k name" …)
	@$(BIN)/python -m pytest tests/bench -s $(ARGS)

drill: install ## the healing drills against their marks (ARGS="--scale 0.2 -k hang" …)
	@$(BIN)/python -m pytest tests/drills -q --show-capture=no $(ARGS)

soak: install ## load with random faults on servers of its own (ARGS="--minutes 10 --rate 300 --json")
	@$(BIN)/python -m tests.faults.soak $(ARGS)

test-job: install ## submit one job to the running system and wait for it
	@$(BIN)/selfheal job submit email '{"to": "a@example.com", "subject": "hi", "body": "hello"}' --wait

check-breaker: install ## print the breakers of the running system
	@$(BIN)/selfheal breaker list

clean: ## remove what can be made again; data in .selfheal stays
	@rm -rf .venv .venv-tools .venv-peers .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@rm -rf .import_linter_cache build dist examples/node/node_modules
