# Needs nothing but Python 3.11+ and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-slow test-cluster lint bench bench-search clean

demo: $(READY)  ## a real search on the built-in data set, in minutes and without an account
	$(BIN)/python -m search.run num_trials=12

test: $(READY)  ## the tests, in less than ten minutes on two cores
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not cluster and not alone"
	$(BIN)/python -m pytest -m "alone and not slow and not cluster"

test-slow: $(READY)  ## the proofs that take longer
	$(BIN)/python -m pytest -m slow --timeout 1800  # the last -m wins over the one in pyproject.toml

test-cluster: $(READY)  ## nodes that come and go, kills, full disks, Slurm: takes long, wants root
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m cluster --timeout 900

lint: $(READY)  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)  ## the performance table; three quarters of an hour of an idle machine
	$(BIN)/python tests/benchmarks/bench.py

bench-search: $(READY)  ## how well searches find the front, what they cost at scale, as JSON lines: takes hours
	$(BIN)/python tests/benchmarks/scene_factors.py
	$(BIN)/python tests/benchmarks/worlds.py --seeds 20
	$(BIN)/python tests/benchmarks/rivals.py
	$(BIN)/python tests/benchmarks/latency.py
	$(BIN)/python tests/benchmarks/scale.py
	$(BIN)/python tests/benchmarks/scale.py --ray --hosts 2 --concurrent 50
	$(BIN)/python tests/benchmarks/report.py --trials 1000 --epochs 50
	$(BIN)/python tests/benchmarks/report.py --trials 10000 --epochs 50
	$(BIN)/python tests/benchmarks/tracking.py faults
	$(BIN)/python tests/benchmarks/tracking.py scale

clean:  ## remove the virtual environment
	rm -rf $(VENV)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; set it with: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^uv==' constraints.txt)"
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraint constraints.txt --editable ".[dev,smp]"
	touch $(READY)
