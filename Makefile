# Everything a newcomer needs: `make demo` runs the main job, `make test` proves the tree.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ZOO := .zoo-venv
PEERS := .peers-venv
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo fleet-demo test test-compress faults faults-quick defects lint types unit apt lock dist deb wheelhouse container-test board-test zoo peers schemas pictures figures bank clean

help:
	@echo "make demo      the main job on this machine: profile, pull, measure, select, deploy, report"
	@echo "make fleet-demo"
	@echo "               a fleet on this machine: 20 simulated boards, a real agent, and two rollouts (needs mosquitto)"
	@echo "make test      set up everything, then ruff, mypy and pytest"
	@echo "make test-compress"
	@echo "               the tests of boardfit compress that need torch, set up as by make zoo (about 3 GB)"
	@echo "make faults-quick"
	@echo "               the fault suites at length, minutes (make test runs a slice of each; --faults-seed N repeats)"
	@echo "make faults    the fault suites in full, hours; before them make defects"
	@echo "make defects   the fault suites tested: defects are put in one at a time, and each must turn a suite red"
	@echo "make zoo       train, export, compress and publish the bundled candidates (needs about 3 GB;"
	@echo "               ZOO_TORCH_INDEX=URL takes torch from that index, such as the one of the CPU builds)"
	@echo "make peers     install the tools that stand beside boardfit in its figures (about 400 MB)"
	@echo "make figures   measure every figure that README.md quotes"
	@echo "make bank      record the replay bank anew (as root, about half an hour, on a machine with nothing else to do)"
	@echo "make pictures  draw the pictures that README.md shows"
	@echo "make schemas   write the JSON Schemas and the AsyncAPI document"
	@echo "make dist      build the wheel and the source archive"
	@echo "make deb       build the Debian package for this machine's release and processor"
	@echo "make wheelhouse"
	@echo "               gather every wheel for a board without internet (WHEELHOUSE_ARCH=aarch64 WHEELHOUSE_PYTHON=3.11)"
	@echo "make container-test"
	@echo "               the package in a container with systemd, from installation to purge (as root)"
	@echo "make board-test"
	@echo "               the package on a booted, emulated arm64 board (as root; BOARD_SUITE=bookworm or trixie)"
	@echo "make lock      resolve requirements/*.lock anew"

# pip and not python is looked for: without Debian's python3-venv a folder is left behind that has only the latter.
$(VENV)/%.stamp: requirements/%.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("boardfit needs Python 3.10 or newer: make PYTHON=..." if sys.version_info < (3, 10) else 0)'
	@echo "Setting up $(VENV) from $< (once) ..."
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --require-hashes -r $<
	@$(BIN)/pip install --quiet --no-deps --editable .
	@touch $@

demo: $(VENV)/demo.stamp
	@$(BIN)/boardfit demo --state-dir .demo

apt:
	@tests/apt.sh

# Registry, collector and console need more than the demo of one board does.
fleet-demo: $(VENV)/dev.stamp
	@$(BIN)/python -m benchmarks.fleet_demo

test: apt $(VENV)/dev.stamp lint types unit

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/dev.stamp
	$(BIN)/mypy

# More tests wait, for a disk, a broker or a child, than compute. Neighbours in a file share what is dear to make.
# Hundreds of interpreters start: each would compile the sources anew where the surroundings forbid keeping bytecode.
WORKERS ?= logical
unit: export PYTHONDONTWRITEBYTECODE :=
unit: $(VENV)/dev.stamp
	$(BIN)/pytest -n $(WORKERS) --dist loadfile

# Hundreds of mutants and more: minutes to hours. The quick part is in `make test`.
faults: $(VENV)/dev.stamp defects
	$(BIN)/pytest tests/faults --faults full

defects: $(VENV)/dev.stamp
	$(BIN)/python -m tests.faults.defects

# One process more than cores: the soak, ten minutes of it, and whatever waits for a broker or a worker, leave theirs idle.
# Each takes one test at a time from the list, on which the longest stand first.
FAULT_WORKERS ?= 3
faults-quick: $(VENV)/dev.stamp
	$(BIN)/pytest tests/faults --faults quick -n $(FAULT_WORKERS) --maxschedchunk 1

# What a board gets is what was tested: its versions are those of dev.lock. `boardfit enroll` is for boards, hence the
# extra; what builds the package comes from package.in.
COMPILE := build/lock/bin/uv pip compile --quiet --universal --python-version 3.10 --generate-hashes \
  -c requirements/dev.lock --custom-compile-command "make lock"
lock:
	$(PYTHON) -m venv build/lock && build/lock/bin/pip install --quiet uv
	for extra in demo dev; do build/lock/bin/uv pip compile --quiet --universal --python-version 3.10 --generate-hashes \
	  --extra $$extra pyproject.toml -o requirements/$$extra.lock --custom-compile-command "make lock"; done
	$(COMPILE) --extra enroll pyproject.toml -o requirements/agent.lock
	$(COMPILE) requirements/package.in -o requirements/package.lock

# Takes about an hour; the figures are worth something on a machine that has nothing else to do. The first row does not
# depend on that: it counts, or runs on simulated clocks and recorded runs. A figure that is missed ends make; the file
# that says so is written all the same.
FIGURES_ANYWHERE := sequential heat power memory watch laboratory
FIGURES_QUIET := footprint fidelity notices repeatability client_overhead
figures: $(VENV)/dev.stamp
	@mkdir -p docs/figures build
	$(BIN)/python benchmarks/replay/score.py --markdown > docs/figures/replay.md
	$(BIN)/python benchmarks/replay/live.py --markdown > docs/figures/live-racing.md
	$(BIN)/python benchmarks/message_sizes.py --markdown --samples build/messages > docs/figures/message-sizes.md
	$(BIN)/python benchmarks/row_sizes.py --markdown --samples build/messages > docs/figures/row-sizes.md
	for name in $(FIGURES_ANYWHERE) $(FIGURES_QUIET); do \
	  page=docs/figures/$$(echo $$name | tr _ -).md; echo "$$page ..."; \
	  $(BIN)/python benchmarks/$$name.py --markdown > $$page || exit 1; done
	$(BIN)/python benchmarks/fleet_scale.py --markdown > docs/figures/fleet-scale.md
	$(BIN)/python -m benchmarks.closed_loop --markdown > docs/figures/closed-loop.md

bank: $(VENV)/dev.stamp
	$(BIN)/python -m benchmarks.replay.record

pictures: $(VENV)/demo.stamp
	$(BIN)/python benchmarks/pictures.py

# The wheel is built from the source archive, so that an earlier build/ cannot slip into it.
dist: $(VENV)/dev.stamp
	rm -rf dist build/sdist && mkdir -p dist build/sdist
	$(BIN)/python -c "from setuptools import build_meta; build_meta.build_sdist('dist')" >/dev/null
	tar -xzf dist/boardfit-*.tar.gz -C build/sdist --strip-components=1
	$(BIN)/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist build/sdist
	@ls -l dist

deb:
	package/build-deb.sh

WHEELHOUSE_ARCH ?= $(shell uname -m)
WHEELHOUSE_PYTHON ?= $(shell $(PYTHON) -c 'import sys; print("{}.{}".format(*sys.version_info))')
WHEELHOUSE_GLIBC ?= 2.36
# Made anew: a wheel of an earlier lock would be found there too.
wheelhouse: dist
	@test -x build/wheelhouse/bin/pip || $(PYTHON) -m venv build/wheelhouse
	build/wheelhouse/bin/pip install --quiet --require-hashes -r requirements/package.lock
	rm -rf dist/wheelhouse
	build/wheelhouse/bin/python package/wheelhouse.py --python $(WHEELHOUSE_PYTHON) --arch $(WHEELHOUSE_ARCH) \
	  --glibc $(WHEELHOUSE_GLIBC) dist/wheelhouse
	cp dist/boardfit-*.whl requirements/agent.lock dist/wheelhouse/
	@ls dist/wheelhouse

container-test:
	tests/board/container-test.sh

BOARD_SUITE ?= bookworm
board-test: $(VENV)/dev.stamp
	PYTHON=$(BIN)/python tests/board/boot-test.sh --suite $(BOARD_SUITE)

# Away from the other environment: torch and the compressors bring what a board never has. torch comes first, so that
# ZOO_TORCH_INDEX, where given, decides which build of it is fetched.
$(ZOO)/zoo.stamp: benchmarks/zoo/requirements.txt pyproject.toml
	@test -x $(ZOO)/bin/pip || $(PYTHON) -m venv $(ZOO)
	$(ZOO)/bin/pip install --quiet $$(grep '^torch==' $<) $(if $(ZOO_TORCH_INDEX),--index-url $(ZOO_TORCH_INDEX))
	$(ZOO)/bin/pip install --quiet -r $<
	$(ZOO)/bin/pip install --quiet --editable '.[zoo]'
	@touch $@

zoo: $(ZOO)/zoo.stamp
	$(ZOO)/bin/python -m benchmarks.zoo

test-compress: $(ZOO)/zoo.stamp
	$(ZOO)/bin/pip install --quiet $$(grep -oE '^pytest(-timeout)?==[^ ;]+' requirements/dev.lock)
	$(ZOO)/bin/python -m pytest tests/compress

# Away from the other environment: what a peer brings must not change what boardfit is measured with.
$(PEERS)/peers.stamp: benchmarks/peers/requirements.txt
	@test -x $(PEERS)/bin/pip || $(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/pip install --quiet --no-deps -r $<
	@touch $@

peers: $(PEERS)/peers.stamp

schemas: $(VENV)/dev.stamp
	$(BIN)/python -m agent.report.schemas --write schemas

clean:
	rm -rf build dist *.egg-info $(VENV) .demo .mypy_cache .ruff_cache .pytest_cache
