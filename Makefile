# One command each; everything is installed into .venv on the first use.
#   make demo    engines of the demo checkpoint, a real Triton, a picture, a streamed answer
#   make dev     the customer-service system, in the browser
#   make test    set up and run all tests
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ENGINES ?= engines/demo-int8
CHECKPOINT ?= build_engine/demo/checkpoint
WEIGHTS ?= int8
PICTURE ?= build_engine/demo/pictures/black_phone.jpg
QUESTION ?= 我的手机打不开，怎么办？
PYTEST_ARGS ?=
# The image has everything installed; it has no .venv.
GPU_PYTHON ?= python3

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export TOKENIZERS_PARALLELISM := false

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

# The stamps name their inputs: a changed pyproject.toml installs again, nothing else does.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' \
	  || { echo "Python 3.10 to 3.12 is needed (3.11 is tested), found: $$($(PYTHON) --version). Set PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml client/pyproject.toml
	@echo "installing into $(VENV) (about 2 GB, several minutes the first time)"
	$(BIN)/pip install -e 'client' -e '.[serve,build,fetch,gateway,s3,otel,gateway-dev,loadtest,dev]'
	@touch $@

setup: $(VENV)/.installed  ## install everything into .venv

$(ENGINES)/engine_manifest.json: $(VENV)/.installed $(wildcard $(CHECKPOINT)/*)
	$(BIN)/python -m build_engine $(CHECKPOINT) --target openvino --weights $(WEIGHTS) --output $(ENGINES) --force

engines: $(ENGINES)/engine_manifest.json  ## build the engines of the demo checkpoint

demo: engines  ## ask about a picture: build, serve, stream the answer, shut down
	$(BIN)/python -m build_engine.demo --engines $(ENGINES) --picture $(PICTURE) --question '$(QUESTION)'

serve: engines  ## serve the demo engines on 127.0.0.1:8000-8002 until Ctrl-C
	$(BIN)/python -m ensemble serve --engines $(ENGINES)

dev: engines  ## the customer-service system on http://127.0.0.1:7860, with everything behind it, until Ctrl-C
	$(BIN)/python -m gateway dev --engines $(ENGINES)

# The browser of the page's tests, from the distribution: no wheel carries one.
browser:
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null || { \
	  echo "installing chromium for the tests of the web page"; \
	  sudo=""; [ "$$(id -u)" = 0 ] || sudo="sudo -n"; \
	  $$sudo apt-get update -qq && $$sudo apt-get install -qq -y --no-install-recommends chromium chromium-driver fonts-noto-cjk >/dev/null \
	  || { echo "chromium is missing and could not be installed. As root: apt-get install chromium chromium-driver fonts-noto-cjk"; exit 1; }; }

# promtool and Prometheus, from the distribution, for the tests of alerts.
prometheus:
	@command -v promtool >/dev/null && command -v prometheus >/dev/null || { \
	  echo "installing prometheus for the tests of alerts"; \
	  sudo=""; [ "$$(id -u)" = 0 ] || sudo="sudo -n"; \
	  $$sudo apt-get update -qq && $$sudo apt-get install -qq -y --no-install-recommends prometheus >/dev/null \
	  || { echo "prometheus is missing and could not be installed. As root: apt-get install prometheus"; exit 1; }; }

# Open MPI, for the tests of engines over several machines.
mpi:
	@command -v mpirun >/dev/null || { \
	  echo "installing Open MPI for the tests of engines over several machines"; \
	  sudo=""; [ "$$(id -u)" = 0 ] || sudo="sudo -n"; \
	  $$sudo apt-get update -qq && $$sudo apt-get install -qq -y --no-install-recommends openmpi-bin >/dev/null \
	  || { echo "mpirun is missing and could not be installed. As root: apt-get install openmpi-bin"; exit 1; }; }

test: setup browser prometheus mpi  ## all tests (about 16 minutes on two cores)
	$(BIN)/python -m pytest $(PYTEST_ARGS)

unit: setup  ## the tests without a server, seconds
	$(BIN)/python -m pytest tests/unit tests/contract $(PYTEST_ARGS)

test-gpu:  ## the hardware checklist, in the container of docker/Dockerfile.gpu (docs/gpu.md)
	$(GPU_PYTHON) -m pytest -m gpu -s -p no:cacheprovider -o filterwarnings=default --timeout=14400 $(PYTEST_ARGS) tests/gpu

lint: setup  ## ruff, mypy --strict, Dockerfiles, rendered files up to date
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/hadolint docker/Dockerfile.cpu docker/Dockerfile.gateway docker/Dockerfile.gpu
	$(BIN)/python -m ensemble check

clean:  ## remove engines and caches, keep .venv
	rm -rf engines .run .pytest_cache .mypy_cache .ruff_cache

.PHONY: help setup engines demo serve dev browser prometheus mpi test test-gpu unit lint clean
