# The two commands that matter: `make demo` runs the main job on this machine, `make test` passes the tests.
# Both install what they need into .venv and .venv-sdk (Python) and node_modules (Azurite, the JavaScript SDK), and nothing elsewhere.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check --quiet

# Empty: what is compiled is kept, also where the environment forbids it (many images do). The package and the tests are
# compiled once then, and not by every process that a test starts: half a minute of processor time for each tester.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test simulate fuzz check lint format install node sdk lock bench chaos scaling pictures clean

demo: install
	$(VENV)/bin/worker demo $(ARGS)

test: install node sdk
	$(PY) -m pytest -n $(or $(TESTERS),6) --dist worksteal $(ARGS)

# Whole workers on a virtual clock under crashes, freezes and outages: 20,000 seeds take about ten minutes on two cores.
simulate: install
	$(PY) -m tests.simulation --seeds $(or $(SEEDS),20000) $(if $(JOBS),--jobs $(JOBS))

# A million hostile inputs through decode, filters and configuration: about three minutes on two cores.
fuzz: install
	$(PY) -m tests.fuzz --inputs $(or $(INPUTS),1000000) --seed $(or $(SEED),1)

check: install
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-cache

format: install
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

# What is fast and what it costs, side by side, on this machine: under 20 minutes on two cores, into bench/RESULTS.md. Leave
# the machine alone meanwhile. SECTIONS="way processes" measures only these. A second Python is found or fetched from Debian.
bench:
	@$(MAKE) --no-print-directory -j 3 install node .venv-bench/.installed
	$(PY) -m bench $(SECTIONS) --keep $(ARGS)

# Real processes under kills, freezes, broken links and a failing store, judged; a hand-written loop beside it. With
# EVENTS=4000 FAULTS=20 a minute or two; SEED, STORE=sqlite|blob; ARGS=--keep writes bench/CHAOS.md.
chaos: install $(if $(filter blob,$(STORE)),node)
	$(PY) -m bench.chaos $(if $(EVENTS),--events $(EVENTS)) $(if $(FAULTS),--faults $(FAULTS)) \
		$(if $(SEED),--seed $(SEED)) $(if $(STORE),--store $(STORE)) $(ARGS)

# 1, 2, 4 workers and back on 16 partitions, measured: five minutes. RUNS, STORE=sqlite|blob; ARGS=--keep writes bench/SCALING.md.
# On a machine that does nothing else, or it measures that.
scaling: install $(if $(filter blob,$(STORE)),node)
	$(PY) -m bench.scaling $(if $(RUNS),--runs $(RUNS)) $(if $(STORE),--store $(STORE)) $(ARGS)

# What mails, cards, the status page and the dashboard's panels look like, for docs: made by the tests that look at them.
# Needs Debian's Chromium and Prometheus.
pictures: install node
	UPDATE_PICTURES=1 $(PY) -m pytest tests/integration/test_email_picture.py tests/integration/test_teams_card_rendering.py \
		tests/integration/test_status_page.py tests/deploy/test_dashboard.py -k picture

install: $(VENV)/.installed
node: tests/node/node_modules/.installed
sdk: .venv-sdk/.installed

# The AMQP engine of the local hub is compiled; the check names the missing package before anything else fails.
$(VENV)/.installed: pyproject.toml requirements/build.lock requirements/dev.lock .ci/check-compiler.sh
	PYTHON="$(PYTHON)" sh .ci/check-compiler.sh
	$(PYTHON) -m venv --clear $(VENV)
	$(PIP) install --require-hashes -r requirements/build.lock
	$(PIP) install --require-hashes --no-build-isolation -r requirements/dev.lock
	$(PIP) install --no-deps --no-build-isolation --no-index -e .
	@touch $@

# The vendor's own clients, an environment of their own: tests compare what they send with what the sinks send. Most of it
# is never imported, so it is compiled when it is.
.venv-sdk/.installed: requirements/sdk.lock
	$(PYTHON) -m venv --clear .venv-sdk
	.venv-sdk/bin/python -m pip --disable-pip-version-check --quiet install --no-compile --require-hashes \
		-r requirements/sdk.lock
	@touch $@

# What the benchmarks compare with. Where it cannot be installed, that part is skipped, and says so.
.venv-bench/.installed: requirements/bench.lock
	$(PYTHON) -m venv --clear .venv-bench
	.venv-bench/bin/python -m pip --disable-pip-version-check --quiet install --only-binary :all: --require-hashes \
		-r requirements/bench.lock || echo "make: the peer of bench.peers is not installed, so it is not measured." >&2
	@touch $@

# Without Node.js the tests that need it are skipped, and say so; in CI they must run.
tests/node/node_modules/.installed: tests/node/package.json tests/node/package-lock.json
	@if command -v npm >/dev/null; then \
		npm --prefix tests/node ci --no-audit --no-fund --loglevel=error && touch $@; \
	else \
		echo "make: npm is missing, so the tests on Azurite and with the JavaScript SDK are skipped." \
			"Install Node.js 20 or newer (Debian: apt-get install nodejs npm; macOS: brew install node)." >&2; \
		test "$$CI" != true; \
	fi

# Needs uv (https://docs.astral.sh/uv/); the locks are what is committed, uv's own file names the registry and is not.
lock:
	uv lock --quiet
	uv export --quiet --no-header --no-annotate --no-emit-project --format requirements-txt --no-dev --extra otel -o requirements/run.lock
	uv export --quiet --no-header --no-annotate --no-emit-project --format requirements-txt --only-group build -o requirements/build.lock
	uv export --quiet --no-header --no-annotate --no-emit-project --format requirements-txt --only-group sdk -o requirements/sdk.lock
	uv export --quiet --no-header --no-annotate --no-emit-project --format requirements-txt --only-group bench -o requirements/bench.lock
	uv export --quiet --no-header --no-annotate --no-emit-project --format requirements-txt --group dev --group build -o requirements/dev.lock

clean:
	rm -rf $(VENV) .venv-sdk .venv-bench tests/node/node_modules .data build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
