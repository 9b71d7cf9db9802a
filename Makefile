# Everything from a fresh clone, with python3 (>= 3.11, with venv) and make alone.
#
#   make quickstart   fine-tune a tiny model and see what it learned, on any machine
#   make test         run the tests
#   make test-fast    run what takes less than two minutes in all
#   make test-long    run what takes longest, of a kind of which make test runs others
#   make test-distributed  run the long tests of many processes
#   make test-browser run the tests of the web interface in Chromium
#   make test-browser-core  run the quick ones of them
#   make test-gpu     run them on a GPU

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
START := $(shell date +%s)
# Each set of packages has a stamp, which is stale once the versions or the extras change.
VERSIONS := pyproject.toml constraints.txt
QUICKSTART_STAMP := $(VENV)/.installed-quickstart
TEST_STAMP := $(VENV)/.installed-test
TEST_EXTRAS := dev,docs,tensorboard,wandb,trackio,prodigyopt,schedulefree,bitsandbytes,torchao,pytorch-optimizer,canny,curate,s3,https,ui
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
PYTEST_ARGUMENTS ?=
# Processes that test on one GPU at a time: each holds half a GiB of it besides what it tests.
GPU_WORKERS ?= 8
BENCH_ARGUMENTS ?=
QUICKSTART_ARGUMENTS ?=
# Where it is set, each of a few hundred processes would compile all files anew, and the tests' for pytest: seconds each.
unexport PYTHONDONTWRITEBYTECODE

.DELETE_ON_ERROR:
.PHONY: help quickstart test test-fast test-long test-distributed test-browser test-browser-core test-gpu check docs bench mutations clean

help:
	@echo "make quickstart  fine-tune a tiny model, and see and measure what it learned (a few minutes, no GPU)"
	@echo "make test        run the tests"
	@echo "make test-fast    run the files of tests that are quick: less than two minutes on two cores"
	@echo "make test-long    run what takes longest: further variants of models that are overfitted, the quick start in video"
	@echo "make test-distributed  run the tests of many processes that make test has no time for (about a quarter of an hour)"
	@echo "make test-browser  run the tests of the web interface in Chromium (CHROMIUM=/usr/bin/chromium)"
	@echo "make test-browser-core  run the quick ones of them, which train nothing"
	@echo "make test-gpu    run the tests on a GPU, those that need one included; an error where there is none"
	@echo "make check       all that CI runs: format, lint, types, import layers, tests, docs"
	@echo "make docs        build the documentation into site/"
	@echo "make bench       run the benchmarks; BENCH_ARGUMENTS=--quick: in small, to see that they run"
	@echo "make mutations   break the code on purpose, and see that a test fails"
	@echo "make clean       remove what the targets above have made"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python >= 3.11 is needed; name one: make PYTHON=python3.12" >&2; exit 1; }
	@echo "creating $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(QUICKSTART_STAMP): $(VERSIONS) | $(BIN)/python
	@echo "installing finetrainers into $(VENV)"
	@$(INSTALL) -e .
	@touch $@

$(TEST_STAMP): $(VERSIONS) | $(BIN)/python
	@echo "installing finetrainers and what its tests need into $(VENV)"
	@$(INSTALL) -e '.[$(TEST_EXTRAS)]'
	@touch $@ $(QUICKSTART_STAMP)

quickstart: $(QUICKSTART_STAMP)
	$(BIN)/finetrainers quickstart --output quickstart-run $(QUICKSTART_ARGUMENTS)
	@echo "make quickstart took $$(( $$(date +%s) - $(START) )) s, installation included"

test: $(TEST_STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not distributed and not long and not browser" $(PYTEST_ARGUMENTS)

# Without the files that took more than a second of a processor each.
test-fast: $(TEST_STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not distributed and not long and not browser" $(addprefix --ignore=,$(shell cat tests/slow_files.txt)) $(PYTEST_ARGUMENTS)

test-long: $(TEST_STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "long and not distributed and not browser" $(PYTEST_ARGUMENTS)

# In one worker: each test starts two or four processes. Other folders have none, and to collect them takes seconds.
test-distributed: $(TEST_STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/distributed tests/training -m distributed $(PYTEST_ARGUMENTS)

# Playwright drives the Chromium of the system: nothing is downloaded. Without one, tests are skipped, and say so.
test-browser: $(TEST_STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/ui -m browser $(PYTEST_ARGUMENTS)

# Of those, what trains nothing.
test-browser-core: $(TEST_STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/ui -m "browser and core" $(PYTEST_ARGUMENTS)

test-gpu: $(TEST_STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(GPU_WORKERS) --dist worksteal --device cuda -m "(gpu or not slow) and not distributed and not browser" $(PYTEST_ARGUMENTS)

check: $(TEST_STAMP)
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/make_config_reference.py --check
	$(BIN)/python scripts/make_events_reference.py --check
	$(BIN)/python scripts/make_adapter_tables.py --check
	$(BIN)/python scripts/fill_docs.py --check
	$(BIN)/python scripts/words.py --check
	$(BIN)/python scripts/make_choosing.py --check
	$(MAKE) --no-print-directory test
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs: $(TEST_STAMP)
	$(BIN)/python scripts/make_config_reference.py
	$(BIN)/python scripts/make_events_reference.py
	$(BIN)/python scripts/make_adapter_tables.py
	$(BIN)/python scripts/fill_docs.py
	$(BIN)/python scripts/words.py
	$(BIN)/python scripts/make_choosing.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(TEST_STAMP)
	@failed=; for file in benchmarks/*.py; do \
		echo "== $$file $(BENCH_ARGUMENTS)"; \
		$(BIN)/python "$$file" $(BENCH_ARGUMENTS) || failed="$$failed $$file"; \
	done; \
	if [ -n "$$failed" ]; then echo "these benchmarks failed:$$failed" >&2; exit 1; fi

mutations: $(TEST_STAMP)
	$(BIN)/python tests/mutations.py

clean:
	rm -rf $(VENV) site dist build quickstart-run quickstart-video-run .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests scripts benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
