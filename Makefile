# Every target sets up .venv on first use; afterwards it starts at once.
#   make demo            train a small Mask R-CNN on the embedded data, evaluate it fused, leave pictures
#   make test            all tests, in JOBS processes (make test PYTHON=python3.12 for another interpreter)
#   make test-deploy     the exports that take long, Core ML, ExecuTorch and int8 (Python 3.11 on Linux)
#   make test-learning   three heads trained until they know the embedded data, every config in two processes: most of an hour
#   make lint            ruff, rules and format
#   make docs            build the documentation into build/site, without network access
#   make bench           compare speed and memory with the targets of this repository, about 20 minutes
#   make compiled-ops    build mmcv with its compiled extension into the same .venv
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYVER := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
READY := $(VENV)/ready-$(PYVER)
LOCK := requirements/lock.txt
DEMO := work_dirs/demo
JOBS ?= 2

.PHONY: demo test test-deploy test-learning lint bench docs compiled-ops lock

demo: $(READY)
	$(BIN)/python tools/train.py configs/repvit_maskrcnn_shapes.py --work-dir $(DEMO) --seed 0 $(DEMO_OPTIONS)
	$(BIN)/python tools/test.py configs/repvit_maskrcnn_shapes.py $(DEMO) --work-dir $(DEMO)/deploy --deploy \
		--show-dir $(DEMO)/predictions $(DEMO_OPTIONS)

# A process per job, each with one thread: threads that share a core wait for each other. Files in the order that
# tests/conftest.py gives them. When a process crashes the rest ends too, for xdist could wait for it for ever; and a
# process crashes, with what it was doing on the screen, when something in it has stood still for long.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder --max-worker-restart 0 \
		-o faulthandler_timeout=1000 -o faulthandler_exit_on_timeout=true

test-deploy: $(READY) requirements/deploy.txt
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --no-deps -r requirements/deploy.txt
	$(BIN)/python -m pytest -m deploy

test-learning: $(READY)
	$(BIN)/python -m pytest -m learning

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The site's packages are installed on first use; a build needs no network.
docs: $(VENV)/docs-ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "Documentation: build/site/index.html; with search: $(BIN)/mkdocs serve"

$(VENV)/docs-ready: $(READY) requirements/docs.txt
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --no-deps -r requirements/docs.txt
	@touch $@

bench: $(READY)
	$(BIN)/python -m tools.pages targets $(BENCH_OPTIONS)

# Compiled once: where Python is told not to leave bytecode, as in many containers, every start would compile again.
$(READY): $(LOCK) setup.py
	@test -n "$(PYVER)" || { echo "error: PYTHON=$(PYTHON) does not run; name a Python 3.10 to 3.12" >&2; exit 2; }
	@echo "Setting up $(VENV) with $(PYTHON) ($(PYVER)) ..."
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $$(grep '^uv==' $(LOCK))
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --no-deps -r $(LOCK)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

# Without build isolation: mmcv builds its extension only where it finds torch.
compiled-ops: $(READY)
	$(BIN)/python -m pip install --no-build-isolation --no-deps --no-cache-dir --force-reinstall \
		--no-binary onedl-mmcv $$(grep '^onedl-mmcv==' $(LOCK))

lock: $(READY)
	$(BIN)/uv pip compile requirements/openmmlab.in --override requirements/overrides.in --universal \
		--python-version 3.10 --no-annotate --no-header --quiet | grep -v "sys_platform == 'never'" > $(LOCK).tmp
	mv $(LOCK).tmp $(LOCK)
	$(BIN)/uv pip compile requirements/deploy.in --override requirements/overrides.in --constraint $(LOCK) \
		--python-version 3.11 --no-annotate --no-header --quiet | grep -vxFf $(LOCK) > requirements/deploy.tmp
	mv requirements/deploy.tmp requirements/deploy.txt
