# Start with `make dev` or `make test`. Each sets up .venv by itself and needs only Python 3.11 or newer.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEV_STAMP := $(VENV)/.installed-dev
STAMP := $(VENV)/.installed
MINUTES ?= 2

# Python saves the bytecode that it compiles, even if the environment says otherwise: pip leaves compiling to Python
# (below), and pytest rewrites 500 modules in each process.
export PYTHONDONTWRITEBYTECODE =

.PHONY: dev test test-all soak bench check install lock format clean help

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

dev: $(DEV_STAMP) ## Run PostgreSQL, S3 and the service on this machine
	@$(BIN)/model-registry dev $(ARGS)

# Three processes keep two cores busy, because many tests wait. A process without tests takes some from another process.
PYTEST = $(BIN)/pytest -n 3 --dist worksteal

test: install ## Run the tests for a change: all except those marked slow
	$(PYTEST) -m "not slow" $(ARGS)

test-all: install ## Run all tests, including those that kill servers, flood, soak, or install other programs
	$(PYTEST) $(ARGS)

soak: install ## Run random operations with crashes, then count and hash everything: make soak MINUTES=10
	$(BIN)/python -m tests.resilience.soak --minutes $(MINUTES) $(ARGS)

bench: install ## Benchmark against bare FastAPI, boto3, curl, MLflow: make bench ARGS="metadata client --rounds 3"
	$(BIN)/python -m benchmarks $(ARGS)

check: install ## Lint, format, types, import contracts, schema drift
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -q tests/database/test_migrations.py

install: $(STAMP) ## Set up .venv with everything (the other commands do this by themselves)

# A lock is complete and has a hash for each package, so pip resolves nothing and checks everything. Python compiles the
# modules that it imports, so pip need not compile all of them. The project itself comes last.
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-compile

$(DEV_STAMP): requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; try make PYTHON=python3.12 …") if sys.version_info < (3, 11) else 0'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --require-hashes -r requirements-dev.lock
	$(PIP) --no-build-isolation --editable .
	@touch $@

$(STAMP): requirements.lock $(DEV_STAMP)
	$(PIP) --require-hashes -r requirements.lock
	@touch $@

LOCK = uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
  --no-emit-index-url --no-emit-find-links

lock: ## Renew the locks from pyproject.toml (needs uv)
	$(LOCK) --upgrade --all-extras --group dev pyproject.toml -o requirements.lock
	$(LOCK) -c requirements.lock --extra server --extra embedded --group build pyproject.toml -o requirements-dev.lock
	$(LOCK) -c requirements.lock --extra server pyproject.toml -o requirements-server.lock
	echo hatchling | $(LOCK) -c requirements.lock - -o requirements-build.lock
	$(LOCK) --upgrade --no-deps tests/third_party/kserve.in -o tests/third_party/kserve.txt
	$(LOCK) --upgrade tests/third_party/awscli.in -o tests/third_party/awscli.txt

format: install ## Generate the synchronous client, fix what ruff can fix, and format
	$(BIN)/python -m tools.sync_client
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove .venv, caches and builds (not the data in .model-registry)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache dist
