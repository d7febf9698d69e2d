# One line per target over `python -m gswa.train` or a script. `make help` lists them.
.DEFAULT_GOAL := help
.PHONY: help
ENV := $(if $(filter gswa,$(CONDA_DEFAULT_ENV)),$(CONDA_PREFIX),.venv)
PYTHON := $(ENV)/bin/python
GSWA := $(PYTHON) -m gswa.train
SETUP := bash scripts/setup.sh

help: ## This list
	@awk -F ':.*## ' '/^##@/ { printf "\n%s\n", substr($$0, 5) } /^[a-z0-9-]+:.*## / { printf "  %-20s %s\n", $$1, $$2 }' Makefile

##@ Set-up (every other target does this by itself where it is needed)
.PHONY: setup setup-cuda setup-cuda-auto ready ready-dev
setup: ## Make the environment: CUDA where a GPU is found, else CPU
	@$(SETUP)
setup-cuda: ## Make the CUDA environment, asking first
	@$(SETUP) --cuda --ask
setup-cuda-auto: ## Make the CUDA environment without a question
	@$(SETUP) --cuda
ready: # a check of a few milliseconds once the environment is there
	@$(SETUP) --if-needed
ready-dev:
	@$(SETUP) --if-needed --dev

##@ Linux
.PHONY: train-linux train-linux-safe train-linux-full train-info finetune-lora check-lora
train-linux: ready ## One-click training: papers in, adapters and report out
	@$(GSWA) train --preprocess -y
train-linux-safe: ready ## The same with conservative settings, for little memory
	@$(GSWA) train --preprocess --memory-safe -y
train-linux-full: ready ## The same with settings chosen by dry runs
	@$(GSWA) train --preprocess --auto-plan -y
train-info: ready ## Show this machine and the settings it gets
	@$(GSWA) info
finetune-lora: ready ## Train on an existing data/training, without the corpus
	@$(GSWA) train --data data/training --preprocess -y
check-lora: ready ## Check what LoRA training needs, and show this machine
	@$(SETUP) --check && $(GSWA) info

##@ Mac (Apple silicon)
.PHONY: train-safe finetune-mlx finetune-mlx-safe finetune-all-safe
train-safe: ready ## Memory-safe training with MLX
	@$(GSWA) train --backend mlx --preprocess --memory-safe -y
finetune-mlx: ready ## MLX training on an existing data/training
	@$(GSWA) train --backend mlx --data data/training --preprocess -y
finetune-mlx-safe: ready ## The same, memory-safe
	@$(GSWA) train --backend mlx --data data/training --preprocess --memory-safe -y
finetune-all-safe: ready ## From the corpus to the adapters with MLX, memory-safe
	@$(GSWA) train --backend mlx --preprocess --memory-safe -y

##@ Data
.PHONY: parse-corpus generate-pairs prepare-training analyze-data preprocess-data
parse-corpus: ready ## Read the papers in data/corpus/raw
	@$(GSWA) parse
generate-pairs: ready ## Write plain versions of passages, to train rewriting from
	@$(GSWA) pairs
prepare-training: ready ## Make training examples of the parsed papers
	@$(GSWA) prepare
analyze-data: ready ## Count tokens in data/training, changing nothing
	@$(GSWA) preprocess --analyze-only
preprocess-data: ready ## Split long examples of data/training
	@$(GSWA) preprocess

##@ Prefect
.PHONY: serve-prefect stop-prefect
serve-prefect: ready ## Start Prefect's server and a worker on this machine
	@$(PYTHON) scripts/serve_prefect.py start
stop-prefect: ready ## Stop both
	@$(PYTHON) scripts/serve_prefect.py stop

##@ Development
.PHONY: test check gpu-check
gpu-check: ready-dev ## All checks that need a GPU, one JSON line each
	@$(PYTHON) benchmarks/gpu_check.py
test: ready-dev ## Run the tests (all but those that need a browser or a GPU)
	@$(PYTHON) -m pytest
check: ready-dev ## Lint, format, types, and the floors that imports may not cross
	@$(PYTHON) -m ruff check . && $(PYTHON) -m ruff format --check . && $(PYTHON) -m mypy && $(PYTHON) -m pytest -q tests/test_floors.py
