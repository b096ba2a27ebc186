# `make` lists the targets. The set-up itself is scripts/setup.sh; it needs a Python 3.12 or 3.13.
.DEFAULT_GOAL := help
.PHONY: help setup demo docs test test-fast gpu nemo lock clean

VENV := .venv/bin

help:  ## this list
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed 's/:[^#]*## /\t/' | expand -t 12

setup:  ## the environment in .venv (PYTHON=PATH names the interpreter)
	@scripts/setup.sh

demo: setup  ## R1-Zero from a tiny base to its report, on a CPU
	$(VENV)/megatron-r1 run conf/tiny_zero.yaml

test: setup  ## everything that runs without a GPU
	@scripts/system_packages.sh
	$(VENV)/ruff check
	$(VENV)/ruff format --check --quiet
	$(VENV)/pyright
	scripts/test.sh

test-fast: setup  ## ruff, pyright and the unit tests, under two minutes
	$(VENV)/ruff check
	$(VENV)/ruff format --check --quiet
	$(VENV)/pyright
	$(VENV)/python -m pytest -m "not slow"

docs: setup  ## the documentation as a site, in build/site/index.html
	NO_MKDOCS_2_WARNING=1 $(VENV)/mkdocs build --strict

gpu: setup  ## the tests and benchmarks that need CUDA
	@scripts/gpu.sh

nemo:  ## .venv-nemo, the environment of rollout.engine nemo, and the tests of it
	@scripts/setup.sh --nemo
	.venv-nemo/bin/python -m pytest tests/nemo

lock: setup  ## compile requirements.txt and requirements-nemo.txt anew from pyproject.toml
	$(VENV)/uv pip compile --quiet --python $(VENV)/python --extra dev --extra docs --no-emit-index-url --no-header --no-annotate \
		-c constraints.txt pyproject.toml -o requirements.txt
	echo "pytest>=8" | $(VENV)/uv pip compile --quiet --python $(VENV)/python --extra nemo --no-emit-index-url --no-header \
		--no-annotate -c constraints.txt pyproject.toml - -o requirements-nemo.txt

clean:  ## remove the environment and the caches; runs/ stays
	rm -rf .venv .venv-nemo .pytest_cache .ruff_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
