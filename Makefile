# Few verbs: setup demo serve test check bench load load-full image.
PYTHON ?= python3
PORT ?= 8080
METRICS_PORT ?= 8082
BIN := .venv/bin
CHECKPOINTS := $(patsubst %/model.json,%,$(wildcard model_store/*/model.json))
version = $(shell sed -n 's/.*"version": *"\([^"]*\)".*/\1/p' $(1)/model.json)
ARCHIVES := $(foreach c,$(CHECKPOINTS),$(c)-$(call version,$(c)).mar)
IMAGE ?= docker build -t cellstate .
TRITON_EXAMPLE := https://raw.githubusercontent.com/triton-inference-server/client/58a44caa0dce77303115302e6dbdf64626b2b093/src/python/examples/simple_http_sequence_sync_infer_client.py
TYPESCRIPT := $(if $(shell command -v npm),examples/typescript/node_modules/.package-lock.json)

.PHONY: setup models demo serve test check bench peers load load-full image clean

setup: .venv/ready

# torch first and alone: it decides which build of everything else fits.
.venv/ready: requirements/serve.txt requirements/export.txt requirements/parquet.txt requirements/dev.txt client/pyproject.toml pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet $$(grep '^torch==' requirements/serve.txt)
	$(BIN)/pip install --quiet -r requirements/dev.txt
	touch $@

# The clients that others wrote pin what the service does not. Triton's example is in no package: its test is left out where GitHub is not reached.
.clients/ready: requirements/clients.txt
	$(PYTHON) -m venv .clients
	.clients/bin/pip install --quiet -r requirements/clients.txt
	curl -fsSL --max-time 30 -o .clients/$(notdir $(TRITON_EXAMPLE)) $(TRITON_EXAMPLE) || true
	touch $@

# The generated client, where npm is.
examples/typescript/node_modules/.package-lock.json: examples/typescript/package-lock.json
	cd examples/typescript && npm ci --no-audit --no-fund

models: $(ARCHIVES)

# An archive holds the handlers too: when they have changed, it replaces the one of the same version.
define archive
$(1)-$(call version,$(1)).mar: $(1)/model.json $(1)/weights.safetensors config/model-config.yaml $(shell find handlers export -name '*.py') | .venv/ready
	$$(BIN)/python -m export build --replace $(1)
endef
$(foreach c,$(CHECKPOINTS),$(eval $(call archive,$(c))))

demo: .venv/ready
	$(BIN)/python -m examples.demo

serve: models
	@$(BIN)/python -m host serve --port $(PORT) --metrics-port $(METRICS_PORT)

# Everything in two processes; what ARGS choose, in one.
test: .venv/ready .clients/ready $(TYPESCRIPT)
	$(BIN)/python -m pytest $(or $(ARGS),-n 2 --dist loadfile)

check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

load: models
	$(BIN)/python -m loadtests

# A quarter of an hour: every scenario, ten minutes of a population under faults, and what the deployment carries.
load-full: models
	$(BIN)/python -m loadtests --seconds 120 --report out/load/scenarios
	$(BIN)/python -m loadtests --sessions 2000 --cadence 10 --seconds 600 --warm-up 10 --report out/load/population
	$(BIN)/python -m loadtests --rate 100 --seconds 60 --retry-seconds 20 --objectives loadtests/load/faults-objectives.toml --faults loadtests/load/faults.toml --report out/load/faults
	$(BIN)/python -m loadtests capacity --seconds 20 --report out/load/capacity

bench: models
	$(BIN)/python -m benchmarks

# Servers that others wrote, each in an environment of its own: they pin what the service does not.
.peers/%/ready: requirements/peers/%.txt
	$(PYTHON) -m venv .peers/$*
	.peers/$*/bin/pip install --quiet -r $<
	touch $@

peers: models .peers/litserve/ready .peers/bentoml/ready .peers/mlserver/ready .peers/triton/ready
	$(BIN)/python -m benchmarks.serving --peers

image:
	$(IMAGE)

clean:
	rm -rf .venv .clients .peers examples/typescript/node_modules model_store/*.mar out run
