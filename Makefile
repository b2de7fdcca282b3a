# `make compare` and `make test` need Python 3.11+ and make, nothing else: each sets up .venv first.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
OUT    ?= runs/compare
BIN    := .venv/bin
PIP    := $(BIN)/pip --disable-pip-version-check install --quiet -c constraints.txt

.PHONY: compare test check format docs bench heavy clean

compare: .venv/.run        ## theory against experiment: figure, table and report in $(OUT)
	$(BIN)/richscape compare --preset quick --out $(OUT)

test: check                ## the linters, then the whole suite, a process for each core
	$(BIN)/pytest -n auto

check: .venv/.test         ## style, docstrings, types, direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/.test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

heavy: .venv/.test         ## the opt-in tests, minutes to hours
	$(BIN)/pytest -m heavy

docs: .venv/.docs
	$(BIN)/sphinx-build -W -q -b html docs docs/_build/html

bench: .venv/.bench        ## prints the benchmark tables
	$(BIN)/python tests/benchmarks/run.py

.venv/pyvenv.cfg:
	@test -n "$(PYTHON)" || { echo "No python3 found. richscape needs Python 3.11 or newer; name one with make PYTHON=..."; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than 3.11. Name a newer one with make PYTHON=..."; exit 2; }
	$(PYTHON) -m venv .venv

# torch first and alone, pinned: a bare requirement may resolve to another build.
.venv/.torch: .venv/pyvenv.cfg constraints.txt
	$(PIP) "$$(grep '^torch==' constraints.txt)"
	@touch $@

.venv/.run: .venv/.torch pyproject.toml
	$(PIP) -e .
	@touch $@

.venv/.test: .venv/.run
	$(PIP) -e '.[test]'
	@touch $@

.venv/.docs: .venv/.run
	$(PIP) -e '.[docs]'
	@touch $@

.venv/.bench: .venv/.run
	$(PIP) -e '.[bench]'
	@touch $@

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
