# `make help` lists the targets. Everything happens in .venv, which the first target that needs it makes.
.DEFAULT_GOAL := help
PYTHON ?= python3
PYTHONS ?= python3.11 python3.12 python3.13
BUDGET ?= auto
# Three on two cores: the tests of Ray, of signals and of locks wait for minutes in all, and every run for the disk.
JOBS ?= 3
HOURS ?= 2.5
QUICK := centersmooth $(addprefix tests/centersmooth/test_,bounds.py metrics.py sampling.py against_reference.py sources.py) \
	$(addprefix tests/experiments/test_,golden.py startup.py)
CONTRACTS := tests/centersmooth/test_contracts.py
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help install demo test types tests check quick test-pythons test-noise test-certifier test-metric docs bench reproduce-all full plots report publish clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

install: $(READY) ## Make .venv with pinned versions (6.7 GB with the CUDA wheels)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=/path/to/python3")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode --constraint constraints.txt --editable '.[all,dev,docs]'
	@touch $@

demo: $(READY) ## The main job on built-in data: certify 50 digits, a few minutes on two cores
	$(BIN)/cs-run experiment=tv_digits budget=$(BUDGET)

test: $(READY) ## Style, types and all tests; says what was skipped for want of data
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@$(MAKE) --no-print-directory -j2 types tests

types:
	$(BIN)/mypy

tests: # what is compiled once serves the processes that tests start
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/pytest -rs -n $(JOBS)

check: $(READY) ## The fast part of `make test`
	$(BIN)/ruff check . && $(BIN)/mypy && $(BIN)/pytest -x -m 'not slow' -n $(JOBS)

quick: $(READY) ## Style, types and the core of the library, in a minute or two
	$(BIN)/ruff check . && $(BIN)/mypy && $(BIN)/pytest -x -n $(JOBS) $(QUICK)

test-pythons: $(READY) ## The fast tests on each of PYTHONS, in .venv-NAME; says which are not there, and ends with 1 if any is not or fails
	@failed=; for python in $(PYTHONS); do \
		venv=.venv-$$(basename $$python); \
		if ! $$python --version > /dev/null 2>&1; then \
			echo "$$python: not found, nothing tested on it; set PYTHONS='/path/to/python ...'"; failed=1; \
		elif $(BIN)/uv venv --quiet --allow-existing --python $$python $$venv \
			&& $(BIN)/uv pip install --quiet --python $$venv/bin/python --constraint constraints.txt --editable '.[all,dev]' \
			&& $$venv/bin/python -m pytest -m 'not slow'; then \
			echo "$$python: passed"; \
		else \
			echo "$$python: failed"; failed=1; \
		fi; \
	done; test -z "$$failed"

test-noise: $(READY) ## The contract of one noise: NOISE=gaussian
	@$(BIN)/pytest $(CONTRACTS) --noise="$(NOISE)"

test-certifier: $(READY) ## The contract of one certifier, its coverage included: CERTIFIER=center
	@$(BIN)/pytest $(CONTRACTS) --certifier="$(CERTIFIER)"

test-metric: $(READY) ## The contract of one metric: METRIC=l2
	@$(BIN)/pytest $(CONTRACTS) --metric="$(METRIC)"

bench: $(READY) ## Time against the plain procedure: bench/results/, some minutes on two cores
	$(BIN)/python bench/run.py $(CASES)

reproduce-all: $(READY) ## Every experiment at BUDGET=paper|full|cpu|smoke: estimates first, resumable, a table at the end
	$(BIN)/python scripts/reproduce_all.py $(BUDGET)

full: $(READY) ## The paper's experiments at budget full, cell by cell, as many as fit HOURS; published after each
	@$(BIN)/python scripts/full.py $(HOURS)

plots: $(READY) ## Redraw every figure from cached results
	$(BIN)/cs-plot

report: $(READY) ## One HTML page from cached results: claims, figures, tables, how each was made (report.html)
	$(BIN)/cs-report

docs: $(READY) ## The documentation as a site, in site/; fails on a broken link or on anything loaded from elsewhere
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

publish: $(READY) ## Add EXPERIMENT's cells from runs/ to results/, and draw the figures of all that are there
	$(BIN)/python scripts/publish.py $(EXPERIMENT)

clean: ## Remove the environment and caches; results stay
	rm -rf $(VENV) $(VENV)-* .pytest_cache .mypy_cache .ruff_cache .hypothesis build site *.egg-info
