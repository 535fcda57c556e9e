# `make bake` builds the offline images, `make test` runs the tests; both set up what they need.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# The locks were resolved for Python 3.11, and the pinned CPU build of torch is for it alone.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
# The engine that scripts/engine.sh found or made, for the commands of one recipe line.
WITH_ENGINE = eval "$$(scripts/engine.sh env)" &&
DOCKERFILES = $(wildcard images/*/Dockerfile bench/*.Dockerfile)

.PHONY: help bake compose test test-faults test-registry test-coreml test-long test-images test-all lint bench bench-registry lock clean

help:
	@echo "make bake         build the offline images and prove them (TARGETS='search' for some; WEIGHTS=pretrained|sample)"
	@echo "make compose      what docker compose needs for Core ML packages: engine, base image, this host's pip configuration"
	@echo "make test         unit, hub and golden tests"
	@echo "make test-faults  faults injected into whole commands: cut lines, kill -9, full disks, hostile archives"
	@echo "make test-registry  push, pull, graft and sign against real registries, oras and cosign, with faults"
	@echo "make test-coreml  Core ML packages converted, compressed and run without a Mac, with MiniLM's real weights"
	@echo "make test-images  tests of the baked images, in containers"
	@echo "make test-long    three CLIP models of true size from a local hub, and Core ML bundles of true size"
	@echo "make test-all     all six"
	@echo "make lint         ruff, mypy, shellcheck, hadolint"
	@echo "make bench        speed, size and start against torch, into docs/bench/"
	@echo "make bench-registry  push, pull and graft against oras and a Dockerfile, into docs/bench/"
	@echo "make lock         write the lock files anew"
	@echo "make clean        remove the environment"

# What driving the build needs: no torch.
$(VENV)/.host: locks/fetch.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; say make PYTHON=..." >&2; exit 7; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "python3 -m venv failed: on Debian, apt-get install python3-venv" >&2; exit 7; }
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r locks/fetch.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

# What the tests need: the reference frameworks and the tools.
$(VENV)/.dev: $(VENV)/.host locks/dev.txt locks/torch.txt locks/torch-cpu.txt scripts/install_torch.sh
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "The tests need Python 3.11, for which the packages are locked: make clean, then say make PYTHON=python3.11" >&2; exit 7; }
	scripts/install_torch.sh $(BIN)/python locks $(TORCH_INDEX)
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r locks/dev.txt
	@touch $@

bake: $(VENV)/.host
	scripts/engine.sh start
	$(WITH_ENGINE) scripts/base_image.sh $(BASE_IMAGE)
	$(WITH_ENGINE) $(BIN)/modelbake bake $(TARGETS)

compose: $(VENV)/.host
	scripts/engine.sh start
	$(WITH_ENGINE) scripts/base_image.sh $(BASE_IMAGE)
	$(BIN)/python scripts/compose_host.py
	$(WITH_ENGINE) docker compose build

test: $(VENV)/.dev
	$(BIN)/python -m pytest tests/unit tests/hub
	scripts/chromium.sh install
	$(BIN)/python -m pytest tests/golden

test-faults: $(VENV)/.dev
	$(BIN)/python -m pytest tests/faults

test-registry: $(VENV)/.dev
	scripts/registry_tools.sh install
	$(BIN)/python -m pytest tests/registry

test-coreml: $(VENV)/.dev
	$(BIN)/python -m pytest tests/coreml

test-long: $(VENV)/.dev
	$(BIN)/python -m pytest tests/long

test-images: $(VENV)/.dev
	scripts/registry_tools.sh install
	$(WITH_ENGINE) $(BIN)/python -m pytest tests/images

test-all: test test-faults test-registry test-coreml test-long test-images

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/shellcheck -x scripts/*.sh .ci/run
	$(BIN)/hadolint $(DOCKERFILES)

bench: $(VENV)/.dev
	$(BIN)/modelbake build minilm-l6-v2 clip-vit-b-32
	$(BIN)/python bench/throughput.py
	$(BIN)/python bench/clip.py
	$(BIN)/python bench/coldstart.py
	$(WITH_ENGINE) $(BIN)/python bench/startup.py
	$(BIN)/python bench/variants.py
	$(BIN)/python bench/coreml.py

bench-registry: $(VENV)/.dev
	scripts/registry_tools.sh install
	$(WITH_ENGINE) $(BIN)/python bench/registry.py

lock: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet uv
	PATH="$(BIN):$$PATH" scripts/lock.sh

clean:
	rm -rf $(VENV)
