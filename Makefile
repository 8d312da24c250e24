# `make calibrate` and `make test` work on a fresh machine that has Python 3.11, 3.12 or 3.13 and nothing else.

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || echo python3)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed.stamp

# One thread per process: the small batched matrices of a calibration run 10 to 60 times slower with two.
export OMP_NUM_THREADS := 1
export OPENBLAS_NUM_THREADS := 1
export MKL_NUM_THREADS := 1
export NUMBA_NUM_THREADS := 1

# Freed blocks stay with the process: giving each large array back to the kernel and asking for it again
# makes training three times slower (glibc; ignored elsewhere).
export MALLOC_MMAP_THRESHOLD_ := 1073741824
export MALLOC_TRIM_THRESHOLD_ := 8589934592

# Bytecode is kept, whatever the shell says: without it every test process compiles all tests and packages anew, 10 s each.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help install calibrate test quick interop docs figures accuracy reality lint types layers format train train-posterior train-vae ci clean

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

install: $(INSTALLED)  ## create .venv and install everything, once

# torch first and by itself: the version is then fixed before anything else asks for "some torch".
$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

calibrate: $(INSTALLED)  ## calibrate the virtual microscope of scenarios/library/day_a.yaml
	$(BIN)/stemtwin calibrate day_a

# Two processes of one thread each fill a two-core machine; tests hold no state in common.
test: $(INSTALLED)  ## the whole test suite
	$(BIN)/python -m pytest -n 2 -q

quick: $(INSTALLED)  ## a quick quarter of it, below a minute; see SLOW in tests/conftest.py
	$(BIN)/python -m pytest -n 2 -q -m "not slow"

# Other people's software in an environment of its own: nothing of theirs is needed to run or test the rest.
REFERENCE := .venv-reference
$(REFERENCE)/installed.stamp: constraints-reference.txt
	test -x $(REFERENCE)/bin/python || $(PYTHON) -m venv $(REFERENCE)
	$(REFERENCE)/bin/python -m pip install --quiet --disable-pip-version-check -c $< \
		libertem libertem-live ptychography40 nionswift-usim
	touch $@

interop: $(INSTALLED) $(REFERENCE)/installed.stamp  ## bytes exchanged with LiberTEM-live and Nion Swift, unmodified
	STEMTWIN_REFERENCE_PYTHON=$(CURDIR)/$(REFERENCE)/bin/python $(BIN)/python -m pytest -q -m interop

# The pages in an environment of their own. `stemtwin gallery --out runs/docs/gallery.html` before adds the pictures.
DOCS := .venv-docs
$(DOCS)/installed.stamp: constraints-docs.txt
	test -x $(DOCS)/bin/python || $(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet --disable-pip-version-check -c $< mkdocs-material 'mkdocstrings[python]' grimp ruff
	touch $@

docs: $(DOCS)/installed.stamp  ## the documentation site, in site/; fails on a broken link
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/python -m mkdocs build --strict --quiet

figures: $(INSTALLED)  ## the pictures of docs/paper.md
	$(BIN)/stemtwin figures paper --out docs/images

accuracy: $(INSTALLED)  ## controllers against the committed baseline of their accuracy
	$(BIN)/python -m benchmarks.accuracy --check --workers 2

reality: $(INSTALLED)  ## claims on days unlike training, against the committed baseline
	$(BIN)/python -m benchmarks.reality --share --workers 2

lint: $(INSTALLED)  ## style, formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(INSTALLED)  ## apply the formatting that lint checks
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(INSTALLED)  ## mypy --strict on the packages and the benchmarks
	$(BIN)/mypy

layers: $(INSTALLED)  ## imports point one way
	$(BIN)/lint-imports

WEIGHTS := controller/weights

# Two chains side by side, one core each: no stage of one thread leaves a core idle. What follows the posterior reads its
# frames, and ppo what regression has made; the other three share the VAE's frames.
ONE_CORE := --workers 1 --threads 1

# Two aberrations and two latents, for the pictures of docs/paper.md.
PLANE := {names: [C10, C12a], start_nm: [60, 30], input_nm: [60, 30], tolerance_nm: [10, 10]}

train: $(INSTALLED)  ## retrain all shipped weights from nothing (more than an hour on two cores); again to resume
	$(MAKE) --jobs=2 train-posterior train-vae

train-posterior: $(INSTALLED)
	$(BIN)/stemtwin train posterior $(ONE_CORE) --out $(WEIGHTS)/posterior.safetensors
	$(BIN)/stemtwin train posterior --variant wide --days 1000 --loop-days 1250 --frames-per-day 12 $(ONE_CORE) \
	    --out $(WEIGHTS)/posterior_wide.safetensors
	$(BIN)/stemtwin train regression --workers 1 --out $(WEIGHTS)/regression.safetensors
	$(BIN)/stemtwin train ppo --workers 1 --out $(WEIGHTS)/ppo.safetensors

train-vae: $(INSTALLED)
	$(BIN)/stemtwin train vae $(ONE_CORE) --out $(WEIGHTS)/vae_random_days.safetensors
	$(BIN)/stemtwin train quality $(ONE_CORE) --out $(WEIGHTS)/quality.safetensors
	$(BIN)/stemtwin train vae --variant nominal --latent 3 --days 400 $(ONE_CORE) --out $(WEIGHTS)/vae_nominal_3.safetensors
	$(BIN)/stemtwin train vae nominal --variant nominal --latent 2 --days 200 --epochs 10 --gap-days 20 --calibration-runs 1 \
		$(ONE_CORE) --set 'space=$(PLANE)' --out $(WEIGHTS)/vae_plane.safetensors

ci: ## what continuous integration runs
	.ci/run

clean:  ## remove the environment and every cache; runs/ stays
	rm -rf $(VENV) $(REFERENCE) $(DOCS) site build dist *.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
