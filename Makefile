# Every task of a clone; plain `make` lists them. The variables of `engines` and `edit` are named after
# the command line's options: make edit IMAGE=in.jpg PROMPT="a red car" SOURCE="a blue car"
#
# VENV       the folder of the environment                                    (default .venv)
# PYTHON     the interpreter that creates it              (default: the first of 3.11 to 3.13)
# PIP_EXTRA  more arguments for pip, e.g. PIP_EXTRA="--extra-index-url ADDRESS". On Linux the usual
#            index gives the CUDA build of PyTorch (several GB) to machines without a GPU as well;
#            pytorch.org, "Get started", names the index with the small CPU build.
# PY         an interpreter that has every package already; `setup` is then skipped
# WORKERS    how many processes run the tests                          (default: one per processor)
# ARGS       more options for `edit`, `engines`, `train-*`, `quality`, `test`, `audit` and `bench`

SHELL := /bin/bash
VENV ?= .venv
WORKERS ?= auto
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ifeq ($(origin PY),command line)
READY :=
else
PY := $(BIN)/python
READY := $(STAMP)
endif
PIP := $(BIN)/python -m pip --disable-pip-version-check install -q -c constraints.txt $(PIP_EXTRA)

DEMO := build/demo
# Without a GPU, only the ONNX files of the demo's engines can run.
DEMO_BACKEND ?= $(if $(shell command -v nvidia-smi 2>/dev/null),auto,onnxruntime)

# Exported, so that quotes and spaces in them reach the recipes unchanged.
export IMAGE PROMPT SOURCE OUT MODEL ENGINES SIZE PRECISION TARGET BATCHES

.DEFAULT_GOAL := help
.PHONY: help setup demo train-demo distil-demo train-judge quality engines edit serve test test-slow contract check audit format bench bench-serving gpu-check docs clean need-model need-edit
.DELETE_ON_ERROR:

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(STAMP)  ## Create .venv with the packages that suit this machine
	@echo "Ready: $(BIN)/diffedit-trt --help"

$(BIN)/python:
	@set -e; found=; \
	for python in $(or $(PYTHON),python3 python3.13 python3.12 python3.11); do \
	    if $$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
	        >/dev/null 2>&1; then found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	    echo "No Python 3.11, 3.12 or 3.13 was found$(if $(PYTHON), in $(PYTHON)); install one, or" \
	        "name it: make setup PYTHON=/path/to/python3.12" >&2; exit 1; \
	fi; \
	echo "Making $(VENV) with $$found ($$($$found -V))"; \
	$$found -m venv $(VENV)

# PyTorch goes first, by its exact version, so that no other package's range chooses its build.
$(STAMP): pyproject.toml constraints.txt | $(BIN)/python
	@set -e; \
	echo "Installing into $(VENV) (once; a few minutes)"; \
	$(PIP) "$$(grep '^torch==' constraints.txt)"; \
	if command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; then \
	    echo "A GPU is here: installing the gpu extra"; \
	    $(PIP) -e '.[gpu,ray,bench,dev,docs]' || { \
	        echo "The gpu extra could not be installed (TensorRT's builder comes from NVIDIA's own" \
	            "index); going on with the onnx and rtx extras instead." >&2; \
	        $(BIN)/python -m pip uninstall -q -y onnxruntime-gpu; \
	        $(PIP) -e '.[onnx,rtx,ray,bench,dev,docs]'; }; \
	else \
	    $(PIP) -e '.[onnx,rtx,ray,bench,dev,docs]'; \
	fi; \
	touch $@

demo: $(READY)  ## Compile the demo model, edit six pictures with it, and write example images
	@mkdir -p $(DEMO)
	$(PY) -m demo.gallery --inputs $(DEMO)
	$(PY) -m export --model demo/model --out $(DEMO)/engines --precision fp32 --target auto \
	    --batches 1,2,4,12
	$(PY) -m diffedit.cli edit $(DEMO)/5.png --model demo/model --engines $(DEMO)/engines \
	    --backend $(DEMO_BACKEND) \
	    --source "a black cube and a yellow cone on a checked cloth" \
	    --prompt "a red cube and a yellow cone on a checked cloth" --guidance 4 \
	    -o $(DEMO)/edited.png --panel $(DEMO)/panel.png --force
	$(PY) -m demo.gallery $(DEMO)/gallery.png --model demo/model --engines $(DEMO)/engines \
	    --backend $(DEMO_BACKEND)
	@echo "Wrote $(DEMO)/panel.png (input, heatmap, mask, result of one edit) and $(DEMO)/gallery.png (six more edits)"

train-demo: $(READY)  ## Train the demo model (hours on 2 cores): [OUT=folder ARGS="--minutes 140 --resume"]
	$(PY) -m demo.train --out "$${OUT:-build/train/model}" $(ARGS)

distil-demo: $(READY)  ## Distil the demo model into a LoRA for a few steps (80 minutes on 2 cores): [OUT=folder ARGS="--resume"]
	$(PY) -m demo.distill --out "$${OUT:-build/distill/lora}" $(ARGS)

train-judge: $(READY)  ## Train the judge of the demo model's edits (minutes): [OUT=folder ARGS="--minutes 5"]
	$(PY) -m demo.train_judge --out "$${OUT:-build/train/judge}" $(ARGS)

quality: $(READY)  ## Measure masks and edits against the truth, draw curves and sheets: [ARGS="--resume"]
	$(PY) -m benchmarks quality --parts presets,table,curves,sweeps,instant,focus --out "$${OUT:-build/quality}" \
	    --json "$${OUT:-build/quality}/quality.json" $(ARGS)

need-model:
	@test -n "$$MODEL" || { echo "Name the model: make engines MODEL=folder-or-hub-id" >&2; exit 2; }

engines: need-model $(READY)  ## Compile a model: make engines MODEL=folder [OUT=engines SIZE=512 PRECISION=fp16 ...]
	$(PY) -m export --model "$$MODEL" --out "$${OUT:-engines}" --precision "$${PRECISION:-fp16}" \
	    --target "$${TARGET:-auto}" $(if $(SIZE),--size "$$SIZE") $(if $(BATCHES),--batches "$$BATCHES") $(ARGS)

need-edit:
	@test -n "$$IMAGE" || { echo "Name the picture: make edit IMAGE=in.jpg PROMPT=\"...\"" >&2; exit 2; }
	@test -n "$$PROMPT" || { echo "Say what should be there: make edit IMAGE=... PROMPT=\"a red car\"" >&2; exit 2; }

edit: need-edit $(READY)  ## Edit one picture: make edit IMAGE=in.jpg PROMPT="..." [SOURCE="..." OUT=out.png MODEL=... ENGINES=...]
	@$(PY) -m diffedit.cli edit "$$IMAGE" --prompt "$$PROMPT" $(if $(SOURCE),--source "$$SOURCE") \
	    $(if $(OUT),-o "$$OUT") $(if $(MODEL),--model "$$MODEL") $(if $(ENGINES),--engines "$$ENGINES") $(ARGS)

serve: $(READY)  ## Serve edits over HTTP, with a page to try them: [MODEL=folder ENGINES=folder ARGS="--port 8000"]
	$(PY) -m diffedit.cli serve $(if $(MODEL),--model "$$MODEL") $(if $(ENGINES),--engines "$$ENGINES") $(ARGS)

test: $(READY)  ## Run the quick tests, in parallel
	$(PY) -m pytest -q -m "not gpu and not slow" -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

test-slow: $(READY)  ## Run the rest: Ray, contract, training, browser and many-process tests
	$(PY) -m pytest -q -m "slow and not gpu" -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

contract: $(READY)  ## Check the server against its OpenAPI with random requests: [CASES=10000 SEED=0]
	DIFFEDIT_CONTRACT_CASES=$(or $(CASES),10000) DIFFEDIT_CONTRACT_SEED=$(or $(SEED),0) \
	    $(PY) -m pytest -q -s tests/server/test_contract.py $(ARGS)

check: $(READY)  ## Run the linter, the format check, the type checker and the audit
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) tests/audit.py

audit: $(READY)  ## Look up every pinned package in an advisory service: [ARGS="-s osv"]
	$(PY) tests/audit.py $(ARGS)

format: $(READY)  ## Format every file and fix what the linter can fix
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

bench: $(READY)  ## Measure speed, one result a benchmark: [OUT=folder MODEL=folder SIZE=512 STEPS=10 ONLY="ladder latency"]
	@out="$${OUT:-build/bench}"; failed=; \
	for name in $(or $(ONLY),overhead roofline ladder latency throughput); do \
	    set -- --json "$$out/$$name.json" $(ARGS); \
	    case $$name in overhead) ;; *) \
	        set -- "$$@" $(if $(MODEL),--model "$$MODEL") $(if $(SIZE),--size "$$SIZE");; esac; \
	    case $$name in roofline | ladder) set -- "$$@" --plot "$$out/$$name.png";; esac; \
	    case $$name in ladder | latency | throughput) set -- "$$@" $(if $(STEPS),--steps $(STEPS));; esac; \
	    $(PY) -m benchmarks $$name "$$@" || failed="$$failed $$name"; \
	done; test -z "$$failed" || { echo "These failed:$$failed" >&2; exit 1; }

bench-serving: $(READY)  ## Measure the server on fake networks, with its bounds: [ARGS="--soak 600"]
	$(PY) -m benchmarks serving $(ARGS)

gpu-check: $(READY)  ## On a GPU: check and measure everything, in steps of nine minutes: [ARGS="--minutes 9 --rehearse"]
	$(PY) -m benchmarks gpu-check --out "$${OUT:-build/gpu-check}" $(ARGS)

docs: $(READY)  ## Build the documentation into build/site; warnings are errors: [ARGS="--quiet"]
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict $(ARGS)

clean:  ## Remove build products; keep .venv and benchmark results
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.venv*' -prune -exec rm -rf {} +
