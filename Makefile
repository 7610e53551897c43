# The front door. Every target sets up what it needs; all are idempotent.
.DEFAULT_GOAL := help
.PHONY: help setup setup-test build test test-full conformance compare-twins demo bench fuzz dashboards format lint clean
SHELL := /bin/bash

CACHE := $(or $(EIGSVC_CACHE),$(HOME)/.cache/eigsvc)
export EIGSVC_PYTHON := $(or $(EIGSVC_PYTHON),$(CACHE)/torch-2.13.0/bin/python3)
export EIGSVC_ORACLE_PYTHON := $(or $(EIGSVC_ORACLE_PYTHON),$(CACHE)/oracle/bin/python3)
EIGSVC_SHARED_DIR ?= $(abspath ../shared)
export EIGSVC_SHARED_DIR
BUF := $(CACHE)/buf-1.75.0/node_modules/.bin/buf
SETUP := env $(if $(filter $(CACHE)/%,$(EIGSVC_PYTHON)),-u EIGSVC_PYTHON) deploy/setup.sh
# Objects are shared between clones: paths are taken relative to the tree.
export CCACHE_BASEDIR := $(CURDIR)
export CCACHE_NOHASHDIR := 1

help:  ## This list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 15

setup:  ## Install what the build needs
	@$(SETUP) build
setup-test:
	@$(SETUP) test

build: setup  ## Build eigsvc, eigsvcd, eigsvc-worker into build/bin
	@deploy/configure.sh build dev
	@ninja -C build --quiet eigsvc eigsvcd eigsvc-worker

demo: build  ## Analyse a trained Mamba-2 and its untrained twin on MQAR through a daemon
	@deploy/demo/demo.sh build/bin

test: setup-test  ## Every test of an unchanged tree once; FORCE=1 runs them again
	@BUF=$(BUF) tests/run.sh $(if $(FORCE),--force)

test-full: test  ## Sanitizers, training, every conformance case, longer fuzzing
	@BUF=$(BUF) tests/run_full.sh

conformance: setup-test  ## Every family against independent implementations (SEED=, CASES=llama,mamba2)
	@deploy/configure.sh build dev
	@ninja -C build --quiet conformance_check
	@OMP_NUM_THREADS=1 $(EIGSVC_ORACLE_PYTHON) tests/conformance/run.py --seed $(or $(SEED),1) \
	  $(if $(CASES),--family $(CASES),--all) --check build/bin/conformance_check --report build/conformance.json $(if $(SEED),,--status)

compare-twins: $(if $(PROJECTS),setup-test)  ## The oracles of our own against the projects they are twins of (PROJECTS=folder of checkouts)
	$(if $(PROJECTS),,$(error PROJECTS=FOLDER is wanted, with checkouts of the projects: tests/conformance/README.md))
	@OMP_NUM_THREADS=1 $(EIGSVC_ORACLE_PYTHON) tests/conformance/held_to/compare_twins.py --projects $(PROJECTS) \
	  --seed $(or $(SEED),1) $(if $(CASES),--family $(CASES))

bench: setup-test  ## Ratios against public implementations, side by side in one run
	@deploy/configure.sh build-release release
	@ninja -C build-release --quiet forward_bench kernels_bench
	@tests/bench/run.sh build-release/bin

fuzz: setup-test  ## Fuzz the readers of untrusted files; SECONDS_EACH=600 for longer
	@deploy/configure.sh build-fuzz fuzz
	@ninja -C build-fuzz --quiet
	@tests/fuzz/run.sh $(or $(SECONDS_EACH),60)

dashboards: setup-test  ## Write deploy/grafana/dashboards again from generate.js
	@NODE_PATH=$(CACHE)/deploy-tools/node_modules node deploy/grafana/generate.js deploy/grafana/dashboards

format: setup-test  ## Rewrite the sources in the project's style
	@git ls-files '*.cc' '*.h' | xargs clang-format-14 -i

lint: setup-test build  ## Style, proto rules, clang-tidy
	@BUF=$(BUF) tests/lint.sh --tidy

clean:  ## Remove what was built; installed packages and environments stay
	@rm -rf build build-*
