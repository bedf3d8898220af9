# `make run` and `make test` set up all they need first; the second time there is nothing left to do.

HOST ?= 127.0.0.1
PORT ?= 8000
PYTHON ?= python3
# Most tests wait for other processes most of the time.
TEST_PROCESSES ?= 5

# The many processes of a test run import the same modules: without bytecode each of them compiles all of Django.
unexport PYTHONDONTWRITEBYTECODE

VENV := .venv
BIN := $(VENV)/bin
# One stamp a list of requirements: `make run` installs no linter, and the second time nothing at all.
RUN_INSTALLED := $(VENV)/.installed-run
TEST_INSTALLED := $(VENV)/.installed-test
LINT_INSTALLED := $(VENV)/.installed-lint
DEV_INSTALLED := $(VENV)/.installed-dev
DOCS_INSTALLED := $(VENV)/.installed-docs

# Where HOST means every address, a browser still needs one to go to.
SHOWN_HOST := $(if $(filter 0.0.0.0 ::,$(HOST)),localhost,$(HOST))

# $(call apt,packages): install Debian packages where we may; otherwise say what is missing and fail.
apt = { \
	if [ "$$(id -u)" = 0 ]; then as_root=; \
	elif sudo -n true 2>/dev/null; then as_root='sudo -n'; \
	else as_root=none; fi; \
	if [ "$$as_root" = none ] || ! command -v apt-get >/dev/null; then \
		echo "missing, and only root may install it: apt-get install $(1)" >&2; false; \
	else \
		echo "installing Debian packages: $(1)"; \
		$$as_root apt-get update -qq && \
		$$as_root env DEBIAN_FRONTEND=noninteractive \
			apt-get install -y -qq --no-install-recommends $(1) >/dev/null; \
	fi; }

.PHONY: help
help:
	@echo 'make run        set up and serve the demo project on http://$(SHOWN_HOST):$(PORT) (HOST=…, PORT=…)'
	@echo 'make test-fast  set up and run the tests that start no process: half a minute'
	@echo 'make test-full  set up and run the tests that make test leaves out as well'
	@echo 'make test       set up, lint and run the tests: 7 minutes'
	@echo 'make test-all   the same on each supported Python and Django (SESSIONS=… for some of them)'
	@echo 'make coverage   run every test and report the lines that none of them runs'
	@echo 'make lint       ruff, mypy, missing migrations'
	@echo 'make format     let ruff rewrite the code'
	@echo 'make hooks      lint what is committed, before each commit'
	@echo 'make docs       build the site of docs/ into build/site (make docs-serve shows it while you write)'
	@echo 'make bench      measure the server against others: 20 minutes, or 2 with QUICK=1'
	@echo 'make venv       set up the virtual environment in $(VENV) for all of these'
	@echo 'make clean      remove what the above made; the database stays'

.PHONY: venv
venv: $(DEV_INSTALLED)

# $(call install,file): install the requirements of one file, which names those that it builds on. An environment that is half
# made, or whose Python is gone, is replaced first.
define install
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || $(call apt,python3 python3-venv)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name one with PYTHON=…" >&2; exit 1; }
	@$(BIN)/python -c 'import pip' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	@echo 'installing $(1) into $(VENV)'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r $(1)
	@touch $@
endef

$(RUN_INSTALLED): requirements.txt
	$(call install,$<)

$(TEST_INSTALLED): requirements/test.txt requirements.txt
	$(call install,$<)

$(LINT_INSTALLED): requirements/lint.txt requirements/test.txt requirements.txt
	$(call install,$<)

$(DEV_INSTALLED): requirements/dev.txt requirements/lint.txt requirements/test.txt requirements.txt
	$(call install,$<)

$(DOCS_INSTALLED): requirements/docs.txt requirements.txt
	$(call install,$<)

# DEBUG is on by default here and nowhere else.
.PHONY: run
run: export DEBUG := $(or $(DEBUG),1)
run: $(RUN_INSTALLED)
	@$(BIN)/python manage.py migrate --verbosity 0
	@echo
	@echo '  page       http://$(SHOWN_HOST):$(PORT)/'
	@echo '  admin      http://$(SHOWN_HOST):$(PORT)/admin/'
	@echo '  websocket  ws://$(SHOWN_HOST):$(PORT)/'
	@echo '  make an admin user:  DEBUG=1 $(BIN)/python manage.py createsuperuser'
	@echo
	@exec $(BIN)/python manage.py runpubsub --serve "$(if $(findstring :,$(HOST)),[$(HOST)],$(HOST)):$(PORT)"

.PHONY: lint
lint: $(LINT_INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	DJANGO_SETTINGS_MODULE=tests.settings $(BIN)/python manage.py makemigrations --check --dry-run --skip-checks

.PHONY: format
format: $(LINT_INSTALLED)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# Debian starts the nginx that it installs, on port 80: the tests want the program alone.
# What is missing here skips its tests with a word, or fails them where CI=true.
.PHONY: test-tools
test-tools:
	@packages=; \
	command -v redis-server >/dev/null || packages="$$packages redis-server"; \
	command -v postgres >/dev/null || ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || \
		packages="$$packages postgresql"; \
	command -v chromium-headless-shell >/dev/null || packages="$$packages chromium-headless-shell"; \
	command -v node >/dev/null || packages="$$packages nodejs"; \
	command -v npm >/dev/null || packages="$$packages npm"; \
	command -v gcc >/dev/null || packages="$$packages gcc libc6-dev"; \
	command -v nginx >/dev/null || [ -x /usr/sbin/nginx ] || packages="$$packages nginx"; \
	[ -z "$$packages" ] || $(call apt,$$packages) || exit 0; \
	case "$$packages" in *nginx*) \
		! [ -d /run/systemd/system ] || $$as_root systemctl disable --quiet --now nginx || true;; \
	esac

NODE_INSTALLED := tests/js/node_modules/.installed

$(NODE_INSTALLED): tests/js/package.json | test-tools
	@if command -v npm >/dev/null; then \
		npm install --no-package-lock --no-audit --no-fund --silent --prefix tests/js && touch $@; \
	fi

PYTEST := -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

.PHONY: test
test: lint test-tools $(NODE_INSTALLED) $(DOCS_INSTALLED)
	$(BIN)/python $(PYTEST)

# The tests that `make test` leaves out, as others show much the same, beside all others.
.PHONY: test-full
test-full:
	TESTS=full $(MAKE) test

# They wait a little: on two processors, three processes are done first.
.PHONY: test-fast
test-fast: $(TEST_INSTALLED)
	$(BIN)/python -m pytest -n 3 -m "not processes"

.PHONY: test-all
test-all: $(DEV_INSTALLED) test-tools $(NODE_INSTALLED)
	$(BIN)/nox $(if $(SESSIONS),--sessions $(SESSIONS))

# Child processes count, unless they are killed.
.PHONY: coverage
coverage: $(TEST_INSTALLED) test-tools $(NODE_INSTALLED) $(DOCS_INSTALLED)
	$(BIN)/coverage erase
	$(BIN)/coverage run $(PYTEST)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

.PHONY: hooks
hooks: $(DEV_INSTALLED)
	$(BIN)/pre-commit install

# Material for MkDocs advertises its successor at each build.
docs docs-serve: export NO_MKDOCS_2_WARNING := 1

.PHONY: docs
docs: $(DOCS_INSTALLED)
	@$(BIN)/python -m mkdocs build --strict --quiet
	@echo 'built: build/site/index.html'

.PHONY: docs-serve
docs-serve: $(DOCS_INSTALLED)
	@$(BIN)/python -m mkdocs serve --strict --dev-addr "$(HOST):$(PORT)"

.PHONY: clean
clean:
	rm -rf $(VENV) .nox tests/js/node_modules build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache .coverage .coverage.*
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

# What is missing here is left out of the benchmarks, with a word.
.PHONY: bench-tools
bench-tools:
	@packages=; \
	command -v gcc >/dev/null || packages="$$packages gcc libc6-dev"; \
	command -v nats-server >/dev/null || packages="$$packages nats-server"; \
	command -v redis-server >/dev/null || packages="$$packages redis-server"; \
	command -v postgres >/dev/null || ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || \
		packages="$$packages postgresql"; \
	command -v node >/dev/null || packages="$$packages nodejs"; \
	command -v npm >/dev/null || packages="$$packages npm"; \
	[ -z "$$packages" ] || $(call apt,$$packages) || true

RIVALS_NODE := benchmarks/node_modules/.installed
RIVALS_BIN := benchmarks/.venv/bin
RIVALS_INSTALLED := benchmarks/.venv/.installed

$(RIVALS_NODE): benchmarks/package.json | bench-tools
	@if command -v npm >/dev/null; then \
		npm install --no-package-lock --no-audit --no-fund --silent --prefix benchmarks || true; \
	fi
	@mkdir -p $(@D) && touch $@

# One by one, so that one that cannot be installed does not keep the others out.
$(RIVALS_INSTALLED): benchmarks/requirements.txt | $(RUN_INSTALLED)
	@$(RIVALS_BIN)/python -c 'import pip' 2>/dev/null || $(PYTHON) -m venv --clear benchmarks/.venv
	@grep -v '^#' $< | while read -r requirement; do \
		$(RIVALS_BIN)/python -m pip install --quiet --disable-pip-version-check "$$requirement" || \
			echo "could not be installed: $$requirement" >&2; \
	done
	@touch $@

.PHONY: bench
bench: $(TEST_INSTALLED) bench-tools $(RIVALS_NODE) $(RIVALS_INSTALLED)
	@$(BIN)/python -m benchmarks $(if $(QUICK),--quick)

.PHONY: clean-bench
clean-bench:
	rm -rf benchmarks/.venv benchmarks/node_modules benchmarks/build

clean: clean-bench
