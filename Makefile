# Every target sets up what it needs: a virtual environment in .venv, made again when its inputs change.

PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$python; break; }; done)
BIN := .venv/bin
STAMP := .venv/installed
DEMO := runs/demo
SCHEMA := scenarios/scenario.schema.json
# Tests share out the cores; each process takes from the others what they have not begun.
PARALLEL := -n auto --maxprocesses 4 --dist worksteal

# Tests start Python anew hundreds of times, so what it compiles is kept, whatever the environment says.
test fast: export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test fast lint types bench validate schema clean

# Predict the quickstart, run it, and compare the two; a verdict outside the tolerance is a result, too.
demo: $(STAMP)
	@rm -f $(DEMO)/summary.json
	@$(BIN)/twinstep compare quickstart --out $(DEMO) || \
	{ status=$$?; test $$status -eq 1 && test -f $(DEMO)/summary.json || exit $$status; \
	echo "The prediction missed its tolerance on this machine, which is a result and no broken build:"; \
	echo "the report says which term is to blame. Other work on the machine is a common cause."; }
	@echo "The report is in $(CURDIR)/$(DEMO)/report.html"

# Everything that must hold; what holds times of real ranks against bounds has the machine for itself, at the end.
test: lint types
	$(BIN)/pytest $(PARALLEL) -m "not timed"
	$(BIN)/pytest -m timed

# What takes about a minute: no real ranks, no browser, no GPU, and of many examples some.
fast: $(STAMP)
	$(BIN)/pytest $(PARALLEL) --hypothesis-profile quick -m "not slow and not chromium and not gpu"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy --strict

bench: $(STAMP)
	$(BIN)/python bench/run.py

# Predictions against runs on emulated clusters and of torch's wrappers; fails above its bounds.
# Takes more than an hour.
validate: $(STAMP)
	$(BIN)/python bench/validate.py --out docs/results/$$(date +%F)-emulated-cluster.md

# Write the JSON Schema that editors complete scenario files with; run it after a change of the plan.
schema: $(STAMP)
	$(BIN)/twinstep schema > $(SCHEMA).partial || { rm -f $(SCHEMA).partial; exit 1; }
	mv $(SCHEMA).partial $(SCHEMA)

clean:
	rm -rf .venv build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis $(DEMO)
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): pyproject.toml constraints.txt
	@$(or $(PYTHON),false) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	echo "twinstep needs Python 3.11 or newer. Install it, or name one: make PYTHON=/path/to/python3.12" >&2; \
	exit 1; }
	@echo "Setting up .venv with $$($(PYTHON) --version); the first time takes some minutes."
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
