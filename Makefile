# Every target sets up .venv on first use; afterwards it starts at once.
#   make demo            train a small Mask R-CNN on the embedded data, evaluate it fused, leave pictures
#   make demo-photos     show the packaged model of nuclei on photographs, or on yours: make demo-photos PHOTOS=folder
#   make test            all tests in JOBS processes, with branch coverage (PYTHON=python3.12 for another interpreter)
#   make test-deploy     slow exports: Core ML, ExecuTorch and int8 (Python 3.11 on Linux)
#   make test-learning   train three heads to convergence on the embedded data, every config in two processes, and every
#                        head on one more backbone: an hour
#   make lint            ruff (rules and format), mypy, and tools/check_prose.py
#   make docs            build the documentation into build/site, without network access
#   make dist            build sdist and wheel into dist/, and run the wheel outside the checkout
#   make bench           compare speed and memory with the targets of this repository, about 20 minutes
#   make results         train what results/*.csv lacks, by the public commands, and write docs/results.md: a day on two
#                        cores; RESULTS_OPTIONS="--only camvid --seed 0" trains a part
#   make compiled-ops    build mmcv with its compiled extension into the same .venv
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYVER := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
READY := $(VENV)/ready-$(PYVER)
LOCK := requirements/lock.txt
DEMO := work_dirs/demo
JOBS ?= 2
PHOTOS ?= tests/golden/nuclei/images
DEMO_PHOTOS := work_dirs/demo-photos
COVERAGE ?= --cov --cov-report=term

.PHONY: demo demo-photos test test-deploy test-learning lint docs dist bench results compiled-ops lock

demo: $(READY)
	$(BIN)/python tools/train.py configs/repvit_maskrcnn_shapes.py --work-dir $(DEMO) --seed 0 --deterministic \
		$(DEMO_OPTIONS)
	$(BIN)/python tools/test.py configs/repvit_maskrcnn_shapes.py $(DEMO) --work-dir $(DEMO)/deploy --deploy \
		--show-dir $(DEMO)/predictions $(DEMO_OPTIONS)

demo-photos: $(READY)
	$(BIN)/repvit-dense predict nuclei $(PHOTOS) --out $(DEMO_PHOTOS)
	@echo "Next:"
	@echo "  $(BIN)/repvit-dense predict nuclei YOUR_IMAGES       the same on your images"
	@echo "  $(BIN)/repvit-dense serve nuclei                     a page that takes images"
	@echo "  $(BIN)/repvit-dense list models                      what the model is and where its card lies"

# One thread per process, because threads that share a core wait for each other. tests/conftest.py sets the order of the
# files. A crashed worker ends the run: xdist could wait for it for ever. A worker that makes no progress for 1000 s
# prints its stack and exits. The floor of the coverage is `fail_under` in pyproject.toml; `make test COVERAGE=` does not
# measure it, which saves a third of the time of the exports.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder --max-worker-restart 0 \
		-o faulthandler_timeout=1000 -o faulthandler_exit_on_timeout=true $(COVERAGE)

test-deploy: $(READY) requirements/deploy.txt
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --no-deps -r requirements/deploy.txt
	$(BIN)/python -m pytest -m deploy

test-learning: $(READY)
	$(BIN)/python -m pytest -m learning

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python tools/check_prose.py

# The site's packages are installed on first use; a build needs no network.
docs: $(VENV)/docs-ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "Documentation: build/site/index.html; with search: $(BIN)/mkdocs serve"

$(VENV)/docs-ready: $(READY) requirements/docs.txt
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --no-deps -r requirements/docs.txt
	@touch $@

# The wheel is built from the sdist. It runs in an environment of its own on the libraries of .venv.
dist: $(READY)
	rm -rf dist
	$(BIN)/uv build --quiet --no-build-isolation --python $(BIN)/python --out-dir dist
	.ci/try-wheel $(BIN)/python dist/*.whl

bench: $(READY)
	$(BIN)/python -m tools.pages targets $(BENCH_OPTIONS)

# A run that was stopped or killed goes on at the next call.
results: $(READY)
	$(BIN)/python -m tools.pages results run $(RESULTS_OPTIONS)
	$(BIN)/python -m tools.pages results page

# Bytecode is compiled here: with PYTHONDONTWRITEBYTECODE, as in many containers, every start would compile again.
$(READY): $(LOCK) setup.py
	@test -n "$(PYVER)" || { echo "error: PYTHON=$(PYTHON) does not run; name a Python 3.10 to 3.13" >&2; exit 2; }
	@echo "Setting up $(VENV) with $(PYTHON) ($(PYVER)) ..."
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $$(grep '^uv==' $(LOCK))
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --no-deps -r $(LOCK)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

# Without build isolation, because mmcv builds its extension only if it can import torch.
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
