# `make demo` and `make test` need Python 3.11 or later and make, nothing else; all goes into .venv.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SOURCES := interp probes saes dashboards tests examples

.PHONY: demo test format lint types unit examples slow oldest newest bench clean

demo: $(READY)
	$(BIN)/interp demo --out runs/demo --force
	@echo "open runs/demo/report.html in a browser"

test: lint types unit examples

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "interp needs Python 3.11 or later; set PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[dev]'
	touch $@

format: $(READY)
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

lint: $(READY)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)

types: $(READY)
	$(BIN)/basedpyright

# Tests use one thread each, so that two processes at a time fill two cores.
unit: $(READY)
	$(BIN)/python -m pytest -m "not slow and not gpu" -n 2 --dist loadfile

examples: $(READY)
	$(BIN)/python examples/quickstart.py
	for tutorial in examples/tutorial_*.py; do $(BIN)/python $$tutorial >/dev/null || exit 1; done
	$(BIN)/python examples/notebooks.py --check

# The tests on the oldest and on the newest versions that pyproject.toml admits.
oldest newest:
	$(PYTHON) -m venv --clear .venv-$@
	.venv-$@/bin/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints-$@.txt --editable '.[dev]'
	.venv-$@/bin/python -m pytest -m "not slow and not gpu" -n 2 --dist loadfile

slow: $(READY)
	$(BIN)/python -m pytest -m slow

bench: $(READY)
	$(BIN)/python examples/bench_capture.py
	$(BIN)/python examples/bench_probe.py
	$(BIN)/python examples/bench_store.py
	$(BIN)/python examples/bench_active_neurons.py
	$(BIN)/python examples/bench_sae.py --rounds 1
	$(BIN)/python examples/bench_clusters.py
	$(BIN)/python examples/bench_geometry.py
	$(BIN)/python examples/bench_report.py
	$(BIN)/python examples/planted_dictionary.py --architectures topk
	$(BIN)/python examples/bench_report.py

clean:
	rm -rf $(VENV) .venv-oldest .venv-newest runs build *.egg-info
