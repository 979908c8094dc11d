# Everything runs in .venv, which is made on first use. Needs Python 3.11 or newer and make.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

.PHONY: demo test lint unit format bench bench-report bench-quick bench-check changelog clean

demo: .venv/fl  ## train on 40 clients, a quarter of them vanishing, secure beside plain
	rm -rf runs/demo
	$(BIN)/secagg train --dataset digits --clients 40 --dropout 0.25 --rounds 12 --compare --out runs/demo

test: lint unit  ## linters, types, import contracts, tests

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: .venv/dev
	$(BIN)/python -m pytest

format: .venv/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# --benchmark-quiet: our own tables, of ratios, stand in for the plugin's.
BENCH := $(BIN)/python -m pytest --benchmark-quiet -q

bench: .venv/dev .venv/peers  ## everything measured: 15 minutes on 2 cores; results in benchmarks/results/full.json
	$(BENCH) benchmarks
	$(MAKE) bench-report

bench-report: .venv/dev  ## docs/benchmarks.md with its plots and page, from benchmarks/results/full.json
	$(BIN)/python -m benchmarks.report --results benchmarks/results/full.json --out docs

bench-quick: .venv/dev  ## smaller sizes, 2 minutes; results in benchmarks/results/quick.json
	$(BENCH) --quick benchmarks

bench-check: .venv/dev  ## exit 1 if a ratio fell below its floor or a message grew; under a minute
	$(BIN)/python -m benchmarks.check

.PHONY: fuzz
SECONDS ?= 600
fuzz: .venv/fuzz  ## SECONDS=600: coverage-guided fuzzing of all that takes others' bytes; exit 1 on a finding
	$(BIN)/python -m fuzz --seconds $(SECONDS)

changelog: .venv/dev  ## show what the next release's notes would be
	$(BIN)/towncrier build --draft --version next

clean:
	rm -rf .venv .venv-peers .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache runs

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit("secagg needs Python 3.11 or newer, and PYTHON=$(PYTHON) is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv

# torch goes first: what is installed after it takes the build that is there instead of another.
.venv/fl: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) --constraint constraints.txt torch
	$(PIP) --constraint constraints.txt --editable '.[fl]'
	touch $@

.venv/dev: pyproject.toml constraints.txt .venv/fl | .venv/bin/python
	$(PIP) --constraint constraints.txt --editable '.[fl,serve,dev]'
	touch $@

.venv/fuzz: pyproject.toml constraints.txt .venv/dev | .venv/bin/python
	$(PIP) --constraint constraints.txt --editable '.[fuzz]'
	touch $@

# The peers' pins (typer, rich, packaging) exclude ours, so they live apart; what does the arithmetic is of one version.
.venv/peers: pyproject.toml constraints.txt .venv/dev | .venv/bin/python
	test -x .venv-peers/bin/python || $(BIN)/python -m venv .venv-peers
	grep -E '^(numpy|cryptography|msgpack)==' constraints.txt > .venv-peers/constraints.txt
	.venv-peers/bin/python -m pip --disable-pip-version-check install --quiet \
		--constraint .venv-peers/constraints.txt --editable '.[peers]'
	touch $@
