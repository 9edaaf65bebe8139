# Two commands do everything: `make demo` and `make test`. Both make .venv when it is missing.
# `make test-oldest` runs the tests with the lowest versions that pyproject.toml declares, in .venv-oldest.
PYTHON ?= python3
RATINGS ?=
VENV := .venv
RUN := $(VENV)/bin/python
OLDEST := .venv-oldest

.PHONY: demo test test-oldest lint docs clean

demo: $(VENV)/.demo
	$(RUN) examples/demo.py $(if $(RATINGS),--ratings "$(RATINGS)")

test: $(VENV)/.test lint
	$(RUN) -m pytest -n auto

test-oldest: $(OLDEST)/.test
	$(OLDEST)/bin/python -m pytest -n auto

lint: $(VENV)/.test
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m codespell_lib
	$(RUN) -m mypy
	$(RUN) docs/generate.py --check

docs: $(VENV)/.docs
	$(RUN) docs/generate.py --check
	$(RUN) docs/make_tables.py
	$(RUN) -m sphinx -W --keep-going -b html docs docs/_build/html
	@echo "Open docs/_build/html/index.html"

$(VENV)/.demo $(VENV)/.test $(VENV)/.docs: $(VENV)/.%: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "sklearn-iqa needs Python 3.11 or newer; set PYTHON=python3.x"; exit 1; }
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	@echo "Installing (some minutes the first time; torch is large) ..."
	$(RUN) -m pip install --quiet --disable-pip-version-check -e ".[$*]"
	@touch $@

# uv, because pip cannot ask for the lowest versions.
$(OLDEST)/.test: pyproject.toml
	test -x $(OLDEST)/bin/python || $(PYTHON) -m venv $(OLDEST)
	@echo "Installing the lowest declared versions (some minutes the first time) ..."
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(OLDEST)/bin/uv pip install --quiet --python $(OLDEST)/bin/python --resolution lowest-direct -e ".[test]"
	@touch $@

clean:
	rm -rf $(VENV) $(OLDEST) build dist docs/_build docs/auto_examples docs/generated demo_output
