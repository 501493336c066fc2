# Everything a person does with this checkout. `make` alone lists it.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
PORT ?= 8080
FOR ?=
CASE ?=
DURATION ?= 30s
JOBS ?= 1000
EDITS ?= 200
SECONDS_EACH ?= 20
ENGINE ?= compile
ARGS ?=

# Compiled dependencies outlive the checkout: RocksDB alone takes a quarter of an hour.
CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/streamjob
export CARGO_TARGET_DIR ?= $(CACHE)/target
# The extension module must not link libpython, whoever builds it.
export PYO3_BUILD_EXTENSION_MODULE := 1

BIN := .venv/bin
ENGINE_SOURCES := $(shell find engine -name '*.rs' -o -name '*.toml' -o -name Cargo.lock -o -name '*.pyi' 2>/dev/null | grep -v -e /tests/ -e /benches/ -e /fuzz/)
SDK_SOURCES := $(shell find sdk/src sdk/pyproject.toml -type f -not -name '*.pyc' 2>/dev/null)
BENCH_SOURCES := $(shell find bench -name '*.rs' -o -name Cargo.toml -o -name Cargo.lock 2>/dev/null)
say = echo "setup: $(1)" >&2

.PHONY: help
help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

# ---------------------------------------------------------------------------------------------------------------- setup

.PHONY: setup
setup: .venv/.sdk .venv/.operator .venv/.engine ## Build and install everything into .venv (first time: 20 to 30 minutes on two cores)

.venv/.system: engine/tools/system.sh
	@PYTHON='$(PYTHON)' engine/tools/system.sh
	@mkdir -p .venv && touch $@

# A creation that failed or was interrupted leaves a python without pip: only one with it is kept.
.venv/.tools: sdk/requirements-dev.lock
	@PYTHON='$(PYTHON)' engine/tools/system.sh --python
	@$(call say,creating .venv and installing the locked Python packages (a minute or two))
	@$(PYTHON) -c 'import sys; sys.exit("setup: Python 3.11 or newer is needed, $(PYTHON) is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { rm -rf .venv/{bin,include,lib,lib64,pyvenv.cfg}; $(PYTHON) -m venv .venv; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $< >&2
	@touch $@

.venv/.sdk: .venv/.tools sdk/pyproject.toml
	@$(call say,installing the package streamjob)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable ./sdk >&2
	@touch $@

.venv/.operator: .venv/.sdk operator/pyproject.toml
	@$(call say,installing the package streamjob_operator)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable operator >&2
	@touch $@

.venv/.engine: .venv/.tools .venv/.system $(ENGINE_SOURCES)
	@$(call say,building the engine in release mode; the first time RocksDB is compiled too (about 20 minutes on two cores). Compiled things are kept in $(CARGO_TARGET_DIR))
	@rm -rf dist/engine && mkdir -p dist/engine
	@cd engine && ../$(BIN)/maturin build --quiet --release --interpreter ../$(BIN)/python --out ../dist/engine >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --force-reinstall dist/engine/*.whl >&2
	@touch $@

.PHONY: wheels
wheels: setup ## All wheels in dist/
	@rm -rf dist/sdk dist/operator
	@$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --no-index --wheel-dir dist/sdk ./sdk >&2
	@$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --no-index --wheel-dir dist/operator ./operator >&2
	@ls dist/*/*.whl

# ------------------------------------------------------------------------------------------------------------------ run

DATA := examples/telemetry/data/weather.ndjson

$(DATA): examples/telemetry/prepare.py | .venv/.tools
	@$(call say,fetching a year of hourly weather (9 MB) and preparing it)
	@$(BIN)/python examples/telemetry/prepare.py >&2

.PHONY: run
run: setup $(DATA) ## Set up, then run the example on real data: PORT=8080 FOR=20s
	@exec $(BIN)/streamjob run examples/telemetry/job.yaml --live --listen 127.0.0.1:$(PORT) $(if $(FOR),--for $(FOR))

# ----------------------------------------------------------------------------------------------------------------- test

.PHONY: test
test: wheels $(DATA) .venv/.crash ## Set up, then every test that needs no outside server
	cd engine && cargo test --quiet --locked -p streamjob-core -p streamjob-simulation
	cd engine && cargo test --quiet --locked --release --workspace --exclude streamjob-core --exclude streamjob-simulation --exclude streamjob-python
	$(BIN)/python -m pytest -q sdk
	$(BIN)/python -m pytest -q operator
	$(BIN)/python -m pytest -q charts/tests
	$(BIN)/python -m pytest -q engine/crates/python/tests
	$(BIN)/python -m pytest -q docs/tests bench/tests engine/tools/tests
	$(INTEGRATION) -m 'not servers'

# The engine as a user runs it: contracts, kills, restarts.
INTEGRATION := STREAMJOB_CRASH_ENGINE=$(CURDIR)/.venv/crash-engine $(BIN)/python -m pytest -q integration

.PHONY: integration
integration: wheels $(DATA) .venv/.crash ## The engine with real brokers and databases, which it installs where apt can
	@engine/tools/system.sh --servers
	$(INTEGRATION) -m servers

# A second engine that kills itself at named steps of a commit; only for tests.
.venv/.crash: .venv/.engine integration/build-crash-engine.sh
	@$(call say,building the engine with crash points for the kill tests)
	@STREAMJOB_CRASH_ENGINE=$(CURDIR)/.venv/crash-engine integration/build-crash-engine.sh --quiet --locked >&2
	@touch $@

.PHONY: e2e
e2e: .venv/.tools ## The operator on a real cluster, by kind, docker, helm and kubectl: ENGINE=compile ARGS="-k edit"
	@ENGINE=$(ENGINE) e2e/run.sh $(ARGS)

.PHONY: counts
counts: .venv/.tools ## Count instructions of the hot paths and compare with the stored baseline (needs valgrind)
	CARGO_TARGET_DIR=$(CACHE)/counts-target $(BIN)/python engine/counts/run.py

.PHONY: fuzz
fuzz: ## Fuzz every target for SECONDS_EACH=20
	CARGO_TARGET_DIR=$(CACHE)/fuzz-target engine/fuzz/run.sh $(SECONDS_EACH)

# ----------------------------------------------------------------------------------------------------------------- lint

# What core/ is to build for as well.
WASM := wasm32-unknown-unknown

.PHONY: lint
lint: .venv/.sdk .venv/.operator .venv/.system ## Linters and type checkers
	cd engine && cargo fmt --all --check
	cd engine/fuzz && cargo fmt --all --check
	cd bench && cargo fmt --all --check
	cd engine && cargo clippy --quiet --locked --release --workspace --all-targets -- -D warnings
	@if [ -d "$$(rustc --print target-libdir --target $(WASM))" ]; then \
		(set -x; cd engine && cargo check --quiet --locked -p streamjob-core --target $(WASM)); \
	else echo "lint: nobody looks whether core/ builds for $(WASM): rustup target add $(WASM)"; fi
	$(BIN)/python engine/tools/check_layers.py
	$(BIN)/ruff check sdk operator charts engine integration e2e bench examples docs
	$(BIN)/ruff format --check sdk operator charts engine integration e2e bench examples docs
	cd sdk && ../$(BIN)/mypy
	cd sdk && ../$(BIN)/lint-imports
	cd operator && ../$(BIN)/mypy
	cd operator && ../$(BIN)/lint-imports

.PHONY: fmt
fmt: .venv/.tools ## Format all code
	cd engine && cargo fmt --all
	cd engine/fuzz && cargo fmt --all
	cd bench && cargo fmt --all
	$(BIN)/ruff format sdk operator charts engine integration e2e bench examples docs

.PHONY: manifests
manifests: .venv/.operator ## Write crds/ and the chart's copy anew from the models
	@$(BIN)/streamjob-operator crd --directory crds --reference docs/operator.md
	@mkdir -p charts/streamjob-operator/files/crds && cp crds/*.yaml charts/streamjob-operator/files/crds/

.PHONY: lock
lock: .venv/.tools ## Write the lock files of the Python packages anew (needs uv)
	$(call lock,sdk/requirements-dev)
	$(call lock,sdk/requirements-runtime,-c sdk/requirements-dev.lock)
	$(call lock,sdk/requirements-build,-c sdk/requirements-dev.lock)
	$(call lock,operator/requirements-runtime,-c sdk/requirements-dev.lock)
	$(call lock,integration/s3/requirements)

# A package has one version everywhere: what goes into images is a part of what the tests ran with.
lock = uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --no-emit-index-url $(1).in -o $(1).lock $(2)

# ---------------------------------------------------------------------------------------------------------------- bench

BENCH_TARGET := $(CACHE)/bench-target

$(BENCH_TARGET)/release/streamjob-bench: $(BENCH_SOURCES)
	@$(call say,building the load generator)
	@cd bench && CARGO_TARGET_DIR=$(BENCH_TARGET) cargo build --quiet --locked --release

.PHONY: bench
bench: setup $(BENCH_TARGET)/release/streamjob-bench ## Measure: CASE=file DURATION=30s; JSON lines
	@$(BIN)/python bench/run.py --tool $(BENCH_TARGET)/release/streamjob-bench --duration $(DURATION) $(if $(CASE),--case $(CASE))

.PHONY: bench-operator
bench-operator: .venv/.operator ## Measure the operator on a real API server without nodes: JOBS=1000 EDITS=200; JSON lines
	@$(BIN)/python bench/operator/run.py --jobs $(JOBS) --edits $(EDITS)

.PHONY: clean
clean: ## Remove what was built here (not the cache of compiled dependencies)
	rm -rf .venv dist .streamjob examples/*/out
