# Sartor's outside: install, try, test, check, measure, document. `make` alone lists the targets.
#
#   make test ARGS='tests/test_plan.py -k digest'    arguments for pytest; likewise for bench
#   make install CUDA=1                              for a GPU: the extra `gpu` too

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

BIN := .venv/bin
INSTALLED := .venv/.installed
TOKENIZERS := $(patsubst %,.cache/tokenizers/%/tokenizer.json,qwen3 llama3_1 gemma3)
PEERS := .cache/bench/trl/installed.txt
DEMO := demo/sartor.yaml
ARGS ?=

# After installation nothing is looked up on a hub: the base model of demo and tests comes with a package.
OFFLINE := HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1

.PHONY: help install demo test check format bench docs

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED) $(TOKENIZERS)  ## all that is needed, into .venv

demo: $(INSTALLED) demo/calls.jsonl  ## the main job on real data, from the file to the report
	@$(OFFLINE) $(BIN)/sartor run $(DEMO)
	@echo
	@echo "The report    $(CURDIR)/$$(ls -t demo/runs/*/report.html | head -n 1)"
	@echo "Serve it      $(BIN)/sartor serve --recipe $(DEMO)"
	@echo "Your own data $(BIN)/sartor new FILE.jsonl, then check, run, serve: see README.md"

# Two workers for two cores; each computes with one thread, or they would wait for each other.
# The base model is unpacked once before, so that the workers find it ready.
test: install  ## the tests, offline
	@$(OFFLINE) $(BIN)/sartor models --path smollm2-135m-instruct > .venv/base-model
	$(OFFLINE) OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/pytest -n 2 --dist loadscope --no-loadscope-reorder --durations 20 $(ARGS)

check: $(INSTALLED)  ## format, lint, types
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

format: $(INSTALLED)  ## what `check` asks for, as far as a tool can do it
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

bench: $(INSTALLED) $(PEERS)  ## speed and memory against peers, on this machine
	$(OFFLINE) $(BIN)/python bench/train.py $(ARGS)

# Never with --clean: zensical keeps its cache in .cache, and would remove the tokenizers there as well.
docs: $(INSTALLED)  ## the reference anew, and the site into site/
	$(BIN)/python scripts/make_reference.py
	rm -rf site
	$(BIN)/zensical build --strict

$(INSTALLED): pyproject.toml scripts/install.sh
	@scripts/install.sh python
	touch $@

$(TOKENIZERS): .cache/tokenizers/%/tokenizer.json: | $(INSTALLED)
	@scripts/install.sh tokenizer $*

$(PEERS): bench/setup.sh | $(INSTALLED)
	@bash bench/setup.sh

demo/calls.jsonl: scripts/demo_data.py | $(INSTALLED)
	@$(BIN)/python scripts/demo_data.py $@
