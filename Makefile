PYTHON ?= python3
VENV ?= .venv
DEMO ?= demo
PYTEST = $(VENV)/bin/python -m pytest -n auto --dist loadfile

.PHONY: demo test test-slow lint format clean

# Everything on drawn faces: ends with $(DEMO)/report.html.
demo: $(VENV)/installed
	rm -rf $(DEMO)
	$(VENV)/bin/fer-jax demo --out $(DEMO)

# The default suite; `make test-slow` has what takes minutes or gigabytes.
test: $(VENV)/installed
	$(PYTEST) -m "not slow"

test-slow: $(VENV)/installed
	$(PYTEST) -m slow

lint: $(VENV)/installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

format: $(VENV)/installed
	$(VENV)/bin/ruff format .

clean:
	rm -rf $(VENV) $(DEMO)

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
		-c constraints.txt -e ".[test]"
	touch $@
