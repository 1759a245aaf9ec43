PYTHON ?= python3
VENV ?= .venv
DEMO ?= demo
PYTEST = $(VENV)/bin/python -m pytest -n auto --dist loadfile

.PHONY: demo test test-slow campaign-convert campaign-inputs campaign-videos campaign-plan \
	campaign-preemption lint format clean

# Everything on drawn faces: ends with $(DEMO)/report.html.
demo: $(VENV)/installed
	rm -rf $(DEMO)
	$(VENV)/bin/fer-jax demo --out $(DEMO)

# The default suite; `make test-slow` has what takes minutes or gigabytes.
test: $(VENV)/installed
	$(PYTEST) -m "not slow"

test-slow: $(VENV)/installed
	XLA_FLAGS= $(PYTEST) -m slow

# 10,000 mutated checkpoints: each is refused clearly or read rightly (docs/reliability.md).
campaign-convert: $(VENV)/installed
	$(VENV)/bin/python tools/checkpoint_campaign.py --count 10000 --seed 0 --workers 2

# 5,000 damaged pictures, annotations and videos: no run stops, each is accounted for.
campaign-inputs: $(VENV)/installed
	$(VENV)/bin/python tools/input_campaign.py --count 5000 --seed 0 --workers 2

# 2,000 damaged videos and pictures are labelled: each has all its rows, or a clear refusal.
campaign-videos: $(VENV)/installed
	$(VENV)/bin/python tools/video_campaign.py --count 2000 --seed 0 --workers 2

# Every config compiled for TPUs that are not there; writes the tables of docs/plan.md. An hour.
campaign-plan: $(VENV)/installed
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
		-c constraints.txt -e ".[tpu-plan]"
	$(VENV)/bin/python tools/plan_campaign.py

# Runs stopped at random moments, or by a bad disk, end as if nothing had been. An hour.
campaign-preemption: $(VENV)/installed
	$(VENV)/bin/python tools/preemption_campaign.py --kill 50 --term 20 --disk 20 --seed 0

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
