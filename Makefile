# Few verbs: setup demo serve test check bench load image.
PYTHON ?= python3
PORT ?= 8080
METRICS_PORT ?= 8082
BIN := .venv/bin
CHECKPOINTS := $(patsubst %/model.json,%,$(wildcard model_store/*/model.json))
ARCHIVES := $(addsuffix .mar,$(CHECKPOINTS))
IMAGE ?= docker build -t cellstate .

.PHONY: setup models demo serve test check bench load image clean

setup: .venv/ready

# torch first and alone: it decides which build of everything else fits.
.venv/ready: requirements/serve.txt requirements/export.txt requirements/dev.txt client/pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet $$(grep '^torch==' requirements/serve.txt)
	$(BIN)/pip install --quiet -r requirements/dev.txt
	touch $@

# The clients that others wrote pin what the service does not.
.clients/ready: requirements/clients.txt
	$(PYTHON) -m venv .clients
	.clients/bin/pip install --quiet -r requirements/clients.txt
	touch $@

models: $(ARCHIVES)

model_store/%.mar: model_store/%/model.json model_store/%/weights.safetensors config/model-config.yaml $(shell find handlers export -name '*.py') | .venv/ready
	$(BIN)/python -m export build model_store/$*

demo: .venv/ready
	$(BIN)/python -m examples.demo

serve: models
	@$(BIN)/python -m host serve --port $(PORT) --metrics-port $(METRICS_PORT)

test: .venv/ready .clients/ready
	$(BIN)/python -m pytest $(ARGS)

check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

load: models
	$(BIN)/python -m loadtests

bench: models
	$(BIN)/python -m benchmarks

image:
	$(IMAGE)

clean:
	rm -rf .venv .clients model_store/*.mar out run
