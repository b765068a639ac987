# Everything runs from the runtime that tools/setup.py makes in the user's cache; its second run costs a tenth of a second.
PYTHON ?= python3
PROFILE ?= templates/profiles/demo.yaml
RUNTIME = $(shell $(PYTHON) tools/setup.py)
SOVEREIGN = $(RUNTIME)/bin/sovereign
PYTEST = $(RUNTIME)/bin/python -m pytest
# The tests on a node take turns in one process; the others run beside them, each file in one process (tests/conftest.py).
BESIDE = --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help demo deploy destroy test drill check bench setup runtime lock clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: setup ## Set up, then the whole way: deploy, corpus, training, evaluation, serving, one question (PROFILE=...)
	@$(SOVEREIGN) up $(PROFILE)

deploy: setup ## Set up, then deploy the three stacks of PROFILE
	@$(SOVEREIGN) deploy $(PROFILE)

destroy: runtime ## Remove what was deployed for PROFILE; keeps data
	@$(SOVEREIGN) destroy $(PROFILE)

test: setup ## Set up, then every test but the drills, a real node included
	@$(PYTEST) $(BESIDE) -m "not drill"

drill: setup ## Every test, the long ones too: accuracy, real text, offline, kills at random moments
	@$(PYTEST) $(BESIDE) --timeout 7200

check: runtime ## Lint, format, types, import rules, documents, golden files of the templates
	@$(RUNTIME)/bin/ruff check .
	@$(RUNTIME)/bin/ruff format --check .
	@$(RUNTIME)/bin/mypy
	@$(RUNTIME)/bin/lint-imports
	@$(RUNTIME)/bin/python tools/check_docs.py
	@$(PYTEST) -q tests/stacks/test_templates.py

bench: runtime ## Time the parts that people wait for
	@$(RUNTIME)/bin/python tools/bench.py
	@PYTHONPATH=$$($(PYTHON) tools/setup.py peers) $(RUNTIME)/bin/python -m training.bench
	@PYTHONPATH=$$($(PYTHON) tools/setup.py peers) $(RUNTIME)/bin/python -m sovereign.lake.bench
	@$(RUNTIME)/bin/python -m training.bench_data

setup: runtime ## Python packages, distribution packages, upstream programs; cold 18 minutes on 2 cores
	@$(SOVEREIGN) tools build

runtime: ## Only the Python packages and our own
	@$(PYTHON) tools/setup.py

lock: ## Resolve requirements/*.txt again (UPGRADE=--upgrade for the newest versions)
	@$(PYTHON) tools/setup.py lock $(UPGRADE)

clean: ## Remove what checks and builds left in this checkout; the cache stays
	@rm -rf dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
