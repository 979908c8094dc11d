# Everything runs in .venv, which is made on first use. Needs Python 3.11 or newer and make.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

.PHONY: help demo test test-all lint unit slow coverage format bench bench-report bench-quick bench-check changelog clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 18

demo: .venv/fl  ## train on 40 clients, a quarter of them vanishing, secure beside plain
	rm -rf runs/demo
	$(BIN)/secagg train --dataset digits --clients 40 --dropout 0.25 --rounds 12 --compare --out runs/demo
	@echo; echo "next: . .venv/bin/activate; secagg report runs/demo"

# The linters and the types take one core while the tests end on the other.
test: .venv/dev  ## what a change must pass: linters, types, import contracts, fast tests; two minutes
	@$(MAKE) --no-print-directory --jobs 2 --output-sync=target lint unit

test-all: test slow  ## all tests

lint: .venv/dev  ## ruff, mypy, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(COG) --check --diff --check-fail-msg="run make generated" $(PAGES)

COG := $(BIN)/python -m cogapp --verbosity=1 -I .
PAGES := $(wildcard docs/*.md docs/*/*.md)

.PHONY: generated
generated: .venv/dev  ## write the generated blocks in docs anew, from code and results
	$(COG) -r $(PAGES)

# A test that hangs ends its process, with the stacks of all threads; also one in which the interpreter itself is stuck.
TESTS := -m pytest -o faulthandler_timeout=600 -o faulthandler_exit_on_timeout=true

# A file's tests stay in one process: what its fixtures have made is made once.
PARALLEL := --numprocesses auto --dist loadfile --max-worker-restart 0

unit: .venv/dev  ## the fast tests alone, as plain pytest runs them
	$(BIN)/python $(TESTS) $(PARALLEL)

slow: .venv/dev  ## the other tests: long computations, processes, a browser, data sets; ten minutes
	$(BIN)/python $(TESTS) $(PARALLEL) -m "slow or live or browser or data"

coverage: .venv/dev  ## exit 1 if the fast tests reach fewer than 98% of the branches of secagg; two minutes
	$(BIN)/python $(TESTS) $(PARALLEL) -q tests/secagg tests/vectors tests/specification tests/adversarial \
		--cov=secagg --cov-report=term:skip-covered --cov-fail-under=98

format: .venv/dev  ## mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# pytest-benchmark's run is merged into benchmarks/results; .benchmarks is where its --benchmark-save keeps runs.
BENCH = mkdir -p .benchmarks; $(BIN)/python -m pytest benchmarks -q --benchmark-json=.benchmarks/run.json

bench: .venv/dev .venv/peers  ## everything measured: 17 minutes on 2 cores; results in benchmarks/results/full.json
	$(BENCH)
	$(BIN)/python -m benchmarks.results .benchmarks/run.json
	$(MAKE) bench-report

bench-report: .venv/dev  ## docs/benchmarks.md with its figures, from benchmarks/results/full.json
	$(BIN)/python -m benchmarks.report

bench-quick: .venv/dev  ## smaller sizes, 2 minutes; results in benchmarks/results/quick.json
	$(BENCH) --quick
	$(BIN)/python -m benchmarks.results .benchmarks/run.json

.PHONY: experiments-page
experiments-page: .venv/dev  ## docs/experiments.md with its figures, from experiments/results
	$(BIN)/python -m experiments.page

bench-check: .venv/dev  ## exit 1 if a ratio fell below its floor or a message grew; under a minute
	$(BIN)/python -m benchmarks.check

.PHONY: fuzz
SECONDS ?= 600
fuzz: .venv/fuzz  ## SECONDS=600: coverage-guided fuzzing of all that takes others' bytes; exit 1 on a finding
	$(BIN)/python -m fuzz --seconds $(SECONDS)

.PHONY: package
package: .venv/release  ## build wheel and sdist, check them, use the wheel in an empty environment; two minutes
	.ci/package

# Of torch, no build so old is small enough to fetch. Old versions may warn of what new ones call deprecated.
.PHONY: lowest
lowest: .venv/lowest  ## the fast tests with the lowest versions that pyproject.toml names, but of torch; four minutes
	.venv-lowest/bin/python $(TESTS) -W default --numprocesses auto --dist loadfile tests/secagg tests/transport tests/fl

.PHONY: docs
docs: .venv/docs  ## the documentation as a site, in site/: guides and reference; warnings are errors
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/python -m mkdocs build --strict --quiet

.PHONY: test-flower bench-flower
LIVE ?=
test-flower: .venv/flower  ## the tests of the adapter for Flower; LIVE=1: also `flwr run`, minutes of processes on loopback
	FLWR_TELEMETRY_ENABLED=0 SECAGG_LIVE=$(LIVE) .venv-flower/bin/python $(TESTS) tests/integrations/flower \
		tests/integrations/test_adapters_alone.py -m ""

CLIENTS ?= 10 50
bench-flower: .venv/flower .venv/dev  ## CLIENTS="10 50": Flower plain, with its SecAgg+, with secagg; results and docs table
	.venv-flower/bin/python -m benchmarks.compare_flower --clients $(CLIENTS)
	$(MAKE) generated

.PHONY: test-nvflare bench-nvflare
test-nvflare: .venv/nvflare  ## the tests of the adapter for NVFlare, a job in its simulator with them; minutes
	OMP_NUM_THREADS=1 .venv-nvflare/bin/python $(TESTS) tests/integrations/nvflare \
		tests/integrations/test_adapters_alone.py -m ""

bench-nvflare: .venv/nvflare .venv/dev  ## NVFlare plain, with its homomorphic encryption, with secagg; results and docs table
	OMP_NUM_THREADS=1 .venv-nvflare/bin/python -m benchmarks.compare_nvflare
	OMP_NUM_THREADS=1 .venv-nvflare/bin/python -m benchmarks.nvflare_leak
	$(MAKE) generated

.PHONY: test-fast bench-fast bench-causes
test-fast: .venv/fast  ## the tests of secagg with the machine code of the extra fast; two minutes
	.venv-fast/bin/python $(TESTS) $(PARALLEL) tests/secagg tests/vectors tests/specification

bench-fast: .venv/fast .venv/dev  ## masks, packing and the paper's figure 8 with and without fast; results and docs table; 15 minutes
	.venv-fast/bin/python -m benchmarks.compare_fast
	$(MAKE) generated

bench-causes: .venv/fast .venv/dev  ## one client's and one server's time by cause, 1,000 clients; results and docs table; minutes
	OMP_NUM_THREADS=1 .venv-fast/bin/python -m benchmarks.by_cause
	$(MAKE) generated

.PHONY: test-dp
test-dp: .venv/dp  ## the privacy accounting beside Google's; seconds
	.venv-dp/bin/python $(TESTS) --noconftest tests/fl/privacy/test_accounting.py

.PHONY: test-mpc bench-mpc
test-mpc: .venv/mpc  ## the tests of encrypted evaluation, three MPyC processes on loopback; minutes
	OMP_NUM_THREADS=1 .venv-mpc/bin/python $(TESTS) tests/fl/encrypted tests/adversarial/test_planted_modules.py -m ""

bench-mpc: .venv/mpc .venv/dev  ## encrypted evaluation of MNIST with what made it slow; results and docs table; ten minutes
	OMP_NUM_THREADS=1 .venv-mpc/bin/python -m benchmarks.compare_mpc
	$(MAKE) generated

.PHONY: test-ray bench-ray bench-training
test-ray: .venv/ray  ## the tests of the engine and of fronts on Ray, two cores of this machine; six minutes
	OMP_NUM_THREADS=1 .venv-ray/bin/python $(TESTS) tests/integrations/ray -m ""

bench-ray: .venv/ray .venv/dev  ## recovery of the masks by 1 and 2 Ray workers; results and docs table; two minutes
	.venv-ray/bin/python -m benchmarks.compare_ray
	$(MAKE) generated

.PHONY: bench-coordinator
bench-coordinator: .venv/dev  ## a coordinator with 1,000 to 100,000 stub clients; results and docs table; three minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.coordinator
	$(MAKE) generated

.PHONY: bench-fronts
bench-fronts: .venv/ray .venv/dev  ## intake of one server process beside 1 and 2 fronts on Ray; results and docs table; ten minutes
	OMP_NUM_THREADS=1 .venv-ray/bin/python -m benchmarks.compare_fronts
	$(MAKE) generated

bench-training: .venv/dev  ## images a second of each training engine; results and docs table; ten minutes
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m benchmarks.compare_training
	$(MAKE) generated

changelog: .venv/dev  ## show what the next release's notes would be
	$(BIN)/towncrier build --draft --version next

clean:  ## remove all environments, caches and runs
	rm -rf .venv .venv-peers .venv-ray .venv-docs .venv-flower .venv-nvflare .venv-mpc .venv-release .venv-wheel .venv-lowest .venv-fast .venv-dp dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache site runs

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit("secagg needs Python 3.11 or newer, and PYTHON=$(PYTHON) is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv

# torch goes first: what is installed after it takes the build that is there instead of another.
.venv/fl: pyproject.toml constraints.txt | .venv/bin/python
	@echo "installing PyTorch and the rest into .venv: 1.3 GB, a few minutes"
	$(PIP) --constraint constraints.txt torch
	$(PIP) --constraint constraints.txt --editable '.[fl]'
	touch $@

.venv/dev: pyproject.toml constraints.txt .venv/fl | .venv/bin/python
	$(PIP) --constraint constraints.txt --editable '.[fl,serve,dev]'
	touch $@

.venv/release: pyproject.toml constraints.txt | .venv/bin/python
	test -x .venv-release/bin/python || $(BIN)/python -m venv .venv-release
	.venv-release/bin/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt '.[release]'
	touch $@

.venv/lowest: pyproject.toml constraints.txt | .venv/bin/python
	test -x .venv-lowest/bin/python || $(BIN)/python -m venv .venv-lowest
	sed -nE 's/^ *"([A-Za-z0-9_-]+)>=([0-9.]+)",?$$/\1==\2/p' pyproject.toml | grep -v '^torch==' > .venv-lowest/constraints.txt
	grep '^torch==' constraints.txt >> .venv-lowest/constraints.txt
	.venv-lowest/bin/python -m pip --disable-pip-version-check install --quiet \
		--constraint .venv-lowest/constraints.txt --editable '.[fl,serve]' pytest pytest-xdist hypothesis jsonschema grafana-foundation-sdk
	touch $@

.venv/fuzz: pyproject.toml constraints.txt .venv/dev | .venv/bin/python
	$(PIP) --constraint constraints.txt --editable '.[fuzz]'
	touch $@

# Of these only the files that mask are loaded (benchmarks/peers/masking_modules.py), so most of what they need is not.
MASKING_MODULES = openfl==1.9 appfl==1.12.0 fedbiomed==6.4.1

# The peers' pins (typer, rich, packaging) exclude ours, so they live apart; what does the arithmetic is of one version.
.venv/peers: pyproject.toml constraints.txt .venv/dev | .venv/bin/python
	test -x .venv-peers/bin/python || $(BIN)/python -m venv .venv-peers
	grep -E '^(numpy|cryptography|msgpack|torch)==' constraints.txt > .venv-peers/constraints.txt
	.venv-peers/bin/python -m pip --disable-pip-version-check install --quiet \
		--constraint .venv-peers/constraints.txt --editable '.[peers]'
	.venv-peers/bin/python -m pip --disable-pip-version-check install --quiet \
		--constraint .venv-peers/constraints.txt packaging pycryptodome torch
	.venv-peers/bin/python -m pip --disable-pip-version-check install --quiet --no-deps $(MASKING_MODULES)
	touch $@

# Flower pins what ours excludes (typer, rich, packaging), so it lives apart too, with what its tests and examples need.
.venv/flower: pyproject.toml constraints.txt | .venv/bin/python
	test -x .venv-flower/bin/python || $(BIN)/python -m venv .venv-flower
	grep -E '^(numpy|cryptography|msgpack|torch|scikit-learn|scipy|pytest|hypothesis)==' constraints.txt \
		> .venv-flower/constraints.txt
	.venv-flower/bin/python -m pip --disable-pip-version-check install --quiet \
		--constraint .venv-flower/constraints.txt torch
	.venv-flower/bin/python -m pip --disable-pip-version-check install --quiet \
		--constraint .venv-flower/constraints.txt --upgrade --editable '.[fl,flower]' 'flwr[simulation]' pytest hypothesis
	touch $@

# NVFlare brings hundreds of megabytes of its own, and TenSEAL is for the comparison with its homomorphic encryption.
.venv/nvflare: pyproject.toml constraints.txt | .venv/bin/python
	test -x .venv-nvflare/bin/python || $(BIN)/python -m venv .venv-nvflare
	grep -E '^(torch|pytest|hypothesis)==' constraints.txt > .venv-nvflare/constraints.txt
	.venv-nvflare/bin/python -m pip --disable-pip-version-check install --quiet \
		--constraint .venv-nvflare/constraints.txt torch
	.venv-nvflare/bin/python -m pip --disable-pip-version-check install --quiet \
		--constraint .venv-nvflare/constraints.txt --upgrade --editable '.[fl,nvflare]' pytest hypothesis 'tenseal>=0.3.16'
	touch $@

# With llvmlite there, secagg takes its other path: the default tests shall take the path of a lean installation.
.venv/fast: pyproject.toml constraints.txt | .venv/bin/python
	test -x .venv-fast/bin/python || $(BIN)/python -m venv .venv-fast
	.venv-fast/bin/python -m pip --disable-pip-version-check install --quiet \
		--constraint constraints.txt --editable '.[fast]' pytest pytest-xdist hypothesis
	touch $@

# MPyC is small, but reads its options from every program's command line that imports it.
.venv/mpc: pyproject.toml constraints.txt | .venv/bin/python
	test -x .venv-mpc/bin/python || $(BIN)/python -m venv .venv-mpc
	.venv-mpc/bin/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt torch
	.venv-mpc/bin/python -m pip --disable-pip-version-check install --quiet \
		--constraint constraints.txt --editable '.[mpc,dev]'
	touch $@

.venv/dp: pyproject.toml constraints.txt | .venv/bin/python
	test -x .venv-dp/bin/python || $(BIN)/python -m venv .venv-dp
	grep -vE '^attrs==' constraints.txt > .venv-dp/constraints.txt
	.venv-dp/bin/python -m pip --disable-pip-version-check install --quiet \
		--constraint .venv-dp/constraints.txt --editable '.[dp]' pytest pytest-xdist hypothesis
	touch $@

# The site is made from the sources alone; nothing of ours is installed there.
.venv/docs: docs/requirements.txt | .venv/bin/python
	test -x .venv-docs/bin/python || $(BIN)/python -m venv .venv-docs
	.venv-docs/bin/python -m pip --disable-pip-version-check install --quiet --requirement docs/requirements.txt
	touch $@

# Ray is large, and what ours needs of it is little: apart, nobody installs it who does not ask for it.
.venv/ray: pyproject.toml constraints.txt | .venv/bin/python
	test -x .venv-ray/bin/python || $(BIN)/python -m venv .venv-ray
	.venv-ray/bin/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt torch
	.venv-ray/bin/python -m pip --disable-pip-version-check install --quiet \
		--constraint constraints.txt --editable '.[ray]' pytest hypothesis
	touch $@
