# Everything a newcomer needs: `make demo` runs the main job, `make test` proves the tree.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test lint types unit apt lock zoo schemas pictures figures clean

help:
	@echo "make demo      the main job on this machine: profile, pull, measure, select, deploy, report"
	@echo "make test      set up everything, then ruff, mypy and pytest"
	@echo "make zoo       train, export, compress and publish the bundled candidates (needs about 3 GB)"
	@echo "make figures   measure every figure that README.md quotes"
	@echo "make pictures  draw the pictures that README.md shows"
	@echo "make schemas   write the JSON Schemas and the AsyncAPI document"
	@echo "make lock      resolve requirements/*.lock anew"

$(VENV)/demo.stamp: requirements/demo.lock pyproject.toml
	@echo "Setting up $(VENV) (once) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --require-hashes -r requirements/demo.lock
	@$(BIN)/pip install --quiet --no-deps --editable .
	@touch $@

$(VENV)/dev.stamp: requirements/dev.lock pyproject.toml
	@echo "Setting up $(VENV) for the tests (once) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --require-hashes -r requirements/dev.lock
	@$(BIN)/pip install --quiet --no-deps --editable .
	@touch $@

demo: $(VENV)/demo.stamp
	@$(BIN)/boardfit demo

apt:
	@tests/apt.sh

test: apt $(VENV)/dev.stamp lint types unit

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/dev.stamp
	$(BIN)/mypy

unit: $(VENV)/dev.stamp
	$(BIN)/pytest

lock:
	$(PYTHON) -m venv build/lock && build/lock/bin/pip install --quiet uv
	for extra in demo dev; do build/lock/bin/uv pip compile --quiet --universal --python-version 3.10 --generate-hashes \
	  --extra $$extra pyproject.toml -o requirements/$$extra.lock --custom-compile-command "make lock"; done

# Takes about fifteen minutes; the figures are worth something on a machine that has nothing else to do.
figures: $(VENV)/dev.stamp
	@mkdir -p docs/figures
	$(BIN)/python benchmarks/footprint.py --markdown > docs/figures/footprint.md.new
	$(BIN)/python benchmarks/fidelity.py --markdown > docs/figures/fidelity.md.new
	cd docs/figures && for name in footprint fidelity; do mv $$name.md.new $$name.md; done

pictures: $(VENV)/demo.stamp
	$(BIN)/python benchmarks/pictures.py

schemas: $(VENV)/dev.stamp
	$(BIN)/python -m agent.report.schemas schemas

clean:
	rm -rf build dist *.egg-info $(VENV) .demo .mypy_cache .ruff_cache .pytest_cache
