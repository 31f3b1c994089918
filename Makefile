PYTHON ?= python3
VENV ?= .venv
# The release that the results are measured with; `make TORCH=torch ...` takes the newest
TORCH ?= torch==2.13.0

# `make zoo-agents` trains these
AGENTS ?= CartPole-v1 Pendulum-v1 Acrobot-v1

BIN := $(VENV)/bin
PACKAGE := $(VENV)/.package-$(subst =,-,$(TORCH))
INSTALLED := $(VENV)/.installed-$(subst =,-,$(TORCH))
# Python compiles the modules that it imports; compiling all of PyTorch and SciPy is most of the time of an installation
INSTALL := $(BIN)/python -m pip install --no-compile
# Small networks on small batches: more threads than one only slow each other down
export OMP_NUM_THREADS ?= 1

# A worker per core; each starts with tests that stand together, and takes some from the others when it has none left
PARALLEL := --numprocesses logical --maxprocesses 8 --dist worksteal

.PHONY: help demo test quick coverage lint format build docs zoo-agents pages upstream matrix release clean

help:  ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 13

# What a user installs. Installs again only when what to install has changed
$(PACKAGE): pyproject.toml sb3_forward_zoo.pth _sb3_forward_zoo.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) "$(TORCH)"
	$(INSTALL) --editable .
	rm -f $(VENV)/.package-*
	touch $@

# What the tests, the benchmarks and the documentation need beside it
$(INSTALLED): $(PACKAGE)
	$(INSTALL) --editable ".[tests,ray]"
	rm -f $(VENV)/.installed-*
	touch $@

demo: $(PACKAGE)  ## train ForwardA2C on CartPole through the RL Zoo, then evaluate it
	$(BIN)/python -m rl_zoo3.train --algo forward_a2c --env CartPole-v1 --log-folder logs --seed 1 -P
	$(BIN)/python -m rl_zoo3.enjoy --algo forward_a2c --env CartPole-v1 --folder logs --no-render --deterministic \
		--n-timesteps 5000

test: lint  ## everything a change must pass
	$(BIN)/python -m pytest $(PARALLEL)

quick: $(INSTALLED)  ## the fast tests alone, without style and types: after every few lines
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow"

coverage: $(INSTALLED)  ## the fast tests, and which lines of the package they do not reach
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow" --cov --cov-report term

lint: $(INSTALLED)  ## style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy --num-workers auto

format: $(INSTALLED)  ## format the code and sort the imports
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

build: $(INSTALLED)  ## sdist and wheel in dist/
	$(BIN)/python -m build --no-isolation

docs: $(INSTALLED)  ## the documentation as a site, in site/
	$(BIN)/python -m mkdocs build --strict

zoo-agents: $(PACKAGE)  ## train the agents AGENTS="..." with our hyperparameters, and write them as safetensors into agents/
	$(INSTALL) --quiet --editable ".[safetensors]"
	$(BIN)/python -m sb3_forward.zoo.agents --output agents --env $(AGENTS)

pages: $(INSTALLED)  ## commands and snippets of README and guides, in environments that their own lines make, from the wheel
	TORCH="$(TORCH)" $(BIN)/python -m nox --session pages

upstream: $(INSTALLED)  ## Stable-Baselines3's and the RL Zoo's own tests, with our classes in the place of theirs
	$(INSTALL) --editable ".[tests,envs]" "stable-baselines3[extra]"
	$(BIN)/python tests/upstream/run.py

matrix: $(INSTALLED)  ## the fast tests and the wheel with every Python, the lowest versions, and the pages
	$(BIN)/python -m nox

release: $(INSTALLED)  ## sdist and wheel, once version, changelog, tag and tree are those of a release; uploads nothing
	$(BIN)/python .ci/release.py
	rm -rf dist
	$(BIN)/python -m build --no-isolation

clean:  ## remove the environment and all build output
	rm -rf $(VENV) .nox dist build site .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
