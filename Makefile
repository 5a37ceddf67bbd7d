# One virtual environment for everything, made anew when pyproject.toml or the constraints change.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
BENCH := $(VENV)/.installed-bench
RESULTS ?= results
ifneq ($(words $(VENV)),1)
$(error VENV=$(VENV): name a folder without spaces)
endif

# What is handed in may be anything: it is compared as it stands, never expanded, and not handed on to a shell.
EXPERIMENTS := $(patsubst experiments/%/README.md,%,$(wildcard experiments/*/README.md))
CHOSEN := $(filter $(EXPERIMENTS),$(value EXPERIMENT))
OTHERS := $(filter-out $(EXPERIMENTS),$(value EXPERIMENT))
IS_ONE := $(filter 1+0,$(words $(CHOSEN))+$(words $(OTHERS)))
unexport EXPERIMENT

.DEFAULT_GOAL := help
.PHONY: help run report tables reproduce test test-slow lint bench clean

help:  ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "  VENV=$(VENV) and PYTHON=$(PYTHON) can be set on the command line."

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test,dev]'
	@touch $@

$(BENCH): $(INSTALLED)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]'
	@touch $@

run: $(INSTALLED)  ## Run methods none and leace on real digits (no download), print the table
	$(BIN)/python run.py -m method=none,leace seed=0,1,2 'results_dir="$(RESULTS)"'
	$(BIN)/python -m efface.report "$(RESULTS)"

report: $(INSTALLED)  ## Tables, plots and page of the records in RESULTS
	$(BIN)/python -m efface.report "$(RESULTS)"

tables: $(INSTALLED)  ## Every table and plot of experiments/, docs/ and benchmarks/ from committed files
	$(BIN)/python -m efface.report $(patsubst %/runs.csv,%,$(wildcard experiments/*/runs.csv))
	$(BIN)/python docs/plot_result.py
	$(BIN)/python -m benchmarks --gather

# The commands are those of the experiment's page: its first block of shell.
reproduce: $(if $(IS_ONE),$(INSTALLED))  ## Run an experiment as its page says: make reproduce EXPERIMENT=rlace_rank
	$(if $(IS_ONE),,$(error EXPERIMENT=... must be one of: $(EXPERIMENTS)))
	@commands="$$(awk '/^```sh/ {on = 1; next} /^```/ && on {exit} on' 'experiments/$(CHOSEN)/README.md')"; \
	test -n "$$commands" || { echo 'experiments/$(CHOSEN)/README.md has no block of sh' >&2; exit 1; }; \
	PATH="$(abspath $(BIN)):$$PATH" bash -exc "$$commands"

test: $(INSTALLED)  ## Run the fast tests
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-slow: $(INSTALLED)  ## Run the slow tests; set DATA_DIR to a folder with the data sets
	$(BIN)/python -m pytest -n 2 --dist loadfile -m slow

lint: $(INSTALLED)  ## Check style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: $(BENCH)  ## Measure against other packages, in one run; the full Colored MNIST needs DATA_DIR
	$(BIN)/python -m benchmarks

clean:  ## Remove caches of tools, not data, models or results
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis
