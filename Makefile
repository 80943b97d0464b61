# Everything a contributor types. `make demo` and `make test` work on a fresh machine.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
JOBS ?= 2

# Storage systems whose tests start servers and kill processes.
SERVERS := $(foreach name,kvs tagblob filespace,tests/storage/$(name) proxyflow/storage/$(name))

# What runs in Python alone too; the suite uses what is in C where there is a compiler.
PURE := tests/test_facts.py tests/test_nesting.py tests/test_boundary.py tests/futures \
	tests/test_payload.py tests/connectors/test_shm_connector.py \
	$(wildcard tests/test_*proxy*.py) proxyflow/behaviour.py proxyflow/proxy.py

.PHONY: demo test test-matrix lint types bench bench-quick soak clean

demo: $(VENV)/.installed-demo
	$(BIN)/python examples/quickstart.py

test: $(VENV)/.installed-test lint types
	$(BIN)/python -m pytest -n $(JOBS) $(SERVERS)
	$(BIN)/python -m coverage erase
	PROXYFLOW_PURE_PYTHON=1 $(BIN)/python -m pytest -n $(JOBS) $(PURE) --cov --cov-report=
	$(BIN)/python -m pytest -n $(JOBS) $(SERVERS:%=--ignore=%) \
		--cov --cov-append --cov-report=term --cov-fail-under=95

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-test
	$(BIN)/mypy

# The extra with the peers to compare with; `make bench BENCH=bench-ray` for Ray among them.
BENCH ?= bench

bench: $(VENV)/.installed-$(BENCH)
	$(BIN)/python -m benchmarks.report

# In less than two minutes: few rounds, small objects. The report that is checked in stays as it is.
bench-quick: $(VENV)/.installed-$(BENCH)
	$(BIN)/python -m benchmarks.report --quick --output build/bench-quick

# The Dask suite against the oldest and the newest version of distributed that is supported, each in
# an environment of its own.
OLDEST_DASK := 2025.4.1

test-matrix: $(VENV)-dask-oldest/.installed $(VENV)-dask-newest/.installed
	$(VENV)-dask-oldest/bin/python -m pytest tests/dask
	$(VENV)-dask-newest/bin/python -m pytest tests/dask

$(VENV)-dask-oldest/.installed: DASK_VERSION := ==$(OLDEST_DASK)
$(VENV)-dask-%/.installed: pyproject.toml
	test -d $(@D) || $(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --upgrade --editable '.[test]' \
		'dask[array,dataframe]$(DASK_VERSION)' 'distributed$(DASK_VERSION)'
	touch $@

soak: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m soak --timeout 3600

# One environment; each extra is installed into it when it is first needed. That builds what is in C,
# too.
$(VENV)/.installed-%: pyproject.toml $(wildcard proxyflow/*.c proxyflow/*/*.c)
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[$*]'
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-dask-* build .coverage* htmlcov .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
