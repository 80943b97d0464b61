# Everything a contributor types. `make demo` and `make test` work on a fresh machine.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
JOBS ?= 2

.PHONY: demo test lint types bench soak clean

demo: $(VENV)/.installed-demo
	$(BIN)/python examples/quickstart.py

test: $(VENV)/.installed-test lint types
	$(BIN)/python -m coverage erase
	$(BIN)/python -m pytest -n $(JOBS) --cov --cov-report=term --cov-fail-under=95

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-test
	$(BIN)/mypy

bench: $(VENV)/.installed-bench
	$(BIN)/python -m benchmarks.proxy
	$(BIN)/python -m benchmarks.store
	$(BIN)/python -m benchmarks.executor

soak: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m soak --timeout 3600

# One environment; each extra is installed into it when it is first needed.
$(VENV)/.installed-%: pyproject.toml
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[$*]'
	touch $@

clean:
	rm -rf $(VENV) build .coverage* htmlcov .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
