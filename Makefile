# demo: a voice from the sample recordings. test: all tests. test-install, test-containers, test-clients, test-windows,
# test-cluster: the tests that need a network, Docker, programs of other people, a Python for Windows or Ray. screenshots: pictures of the page. check:
# format, lint, types, dependencies, import contracts, documentation, tests.
# docs: the documentation site. dist, images: what a release consists of.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
# Two torch processes on two cores spin each other to a third of their speed; waiting threads should sleep.
export OMP_WAIT_POLICY = PASSIVE

.PHONY: setup browser demo dist images catalogue synchronous docs screenshots \
  test test-system test-pipeline test-models test-engine test-service test-programs test-long soak \
  test-install test-containers test-clients test-windows test-cluster lint types types-win32 types-darwin check bench bench-gpu clean

setup: browser .venv/.developer

# What running needs; and, beside it, what developing needs. Compiling what is never imported would take half of the time.
PIP_INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP_INSTALL) -e '.[all]'
	touch $@

.venv/.developer: .venv/.installed
	$(PIP_INSTALL) -e '.[all,dev]'
	touch $@

# For the tests of the page: CHROMIUM, or the first of these that is there; else Debian's. The API guide is tested with curl.
BROWSERS = $(CHROMIUM) chromium chromium-browser google-chrome google-chrome-stable
GET_BROWSER = apt-get install --no-install-recommends chromium fonts-dejavu-core curl
NO_BROWSER = "The tests need Chromium and curl, which an administrator installs, on Debian with: sudo $(GET_BROWSER)   (or set CHROMIUM to the path of one)"

browser:
	@for name in $(BROWSERS); do if command -v "$$name" > /dev/null && command -v curl > /dev/null; then exit 0; fi; done; \
	if [ "$$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then echo $(NO_BROWSER) >&2; exit 1; fi; \
	{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive $(GET_BROWSER) --yes -qq; } || { echo $(NO_BROWSER) >&2; exit 1; }

demo: .venv/.installed
	$(BIN)/rvc-train demo

# A release's files: wheel, sdist and their checksums, in dist/.
dist: .venv/.developer
	rm -rf dist
	$(BIN)/python -m build
	cd dist && sha256sum * > SHA256SUMS

# A release's images, tagged and labelled with the version and the commit.
VERSION = $(shell $(BIN)/python -c 'from importlib.metadata import version; print(version("rvc-train"))')
images: .venv/.installed
	for target in server worker; do \
	  docker build --target $$target --tag rvc-train-$$target:$(VERSION) \
	    --label org.opencontainers.image.version=$(VERSION) \
	    --label org.opencontainers.image.revision=$$(git rev-parse HEAD) . || exit 1; \
	done

# The documentation site, in build/site: a link or a heading's anchor that leads nowhere is an error.
docs: .venv/.documentation
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

.venv/.documentation: .venv/.developer
	$(PIP_INSTALL) -e '.[all,dev,docs]'
	touch $@

# The client without asyncio, from the one on asyncio: after each change of rvc_train/asynchronous.
synchronous: .venv/.developer
	$(BIN)/python tests/synchronous.py

# The messages of the sources into the catalogue, which is compiled; lists those without a translation.
catalogue: .venv/.developer
	$(BIN)/python tests/messages.py

# Every screen, light and dark, on a desktop and on a phone.
screenshots: setup
	RVC_TRAIN_SCREENSHOTS=$(CURDIR)/build/screenshots $(BIN)/python -m pytest tests/pages/test_screens.py

# Three at once, a thread each (small nets gain nothing from a second one): those of the service wait for processes most of the
# time. The longest first, so that both cores end together.
test: setup
	$(MAKE) --no-print-directory --jobs=3 --output-sync=target test-pipeline test-service test-programs test-engine test-models

test-pipeline: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/engine/pipeline

test-models: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/engine/models tests/engine/voices

test-engine: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/engine \
	  --ignore=tests/engine/pipeline --ignore=tests/engine/models --ignore=tests/engine/voices

test-service: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/server tests/worker

# The programs as users start them, the page, the documents, the layout.
test-programs: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests --ignore=tests/engine --ignore=tests/server --ignore=tests/worker

# What differs between systems: files, consoles, GPUs, the client, the store, the worker. Runs on Windows and macOS too.
test-system: .venv/.developer
	$(BIN)/python -m pytest tests/client tests/server/storage tests/worker tests/engine/environment tests/engine/compute \
	  tests/engine/names tests/engine/translation tests/engine/index tests/engine/checkpoints

test-long: setup
	$(BIN)/python -m pytest -m "not containers"

# The service used and abused at random for SECONDS; prints figures as JSON. SOAK_SEED repeats the choices of a run.
SECONDS ?= 3600
soak: setup
	$(BIN)/python -m tests.soak --seconds $(SECONDS)

# The wheel installed into fresh environments with each extra alone. PYTHONS: which; the first is the one with torch.
PYTHONS ?= $(shell for name in python3.11 python3.12 python3.13; do command -v $$name; done)
test-install: .venv/.developer
	RVC_TRAIN_TEST_PYTHONS="$(PYTHONS)" $(BIN)/python -m pytest -m "install and not long" tests/installation

# Programs with their packages, as PROGRAM:PACKAGE: those that are missing are installed where an administrator runs this.
define install_missing
@PATH="$$PATH:/usr/sbin"; \
missing() { for each in $(1); do command -v "$${each%:*}" > /dev/null || printf '%s ' "$${each#*:}"; done; }; \
packages=$$(missing); [ -n "$$packages" ] || exit 0; \
if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install --no-install-recommends --yes -qq $$packages; } > /dev/null; \
fi; \
packages=$$(missing); [ -n "$$packages" ] || exit 0; \
echo "These tests need programs that an administrator installs, on Debian with: sudo apt-get install --no-install-recommends $$packages" >&2; \
exit $(2)
endef

# Programs of other people against the server. Those of PyPI and npm are installed by the tests, into build/clients.
# Each with its package in Debian. Only what is missing is installed: another source's nodejs conflicts with Debian's npm.
CLIENT_PROGRAMS = nginx:nginx-light caddy:caddy haproxy:haproxy promtool:prometheus node:nodejs npm:npm openssl:openssl \
  curl:curl wget:wget aria2c:aria2

test-clients: browser .venv/.developer
	$(call install_missing,$(CLIENT_PROGRAMS),2)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m clients tests/clients

# The images built, and the compose file run for real, with a Docker engine.
test-containers: .venv/.developer
	$(BIN)/python -m pytest -m containers -s tests/installation

# The wheel on Windows, or by Wine on Linux: WINDOWS_PYTHON, or what shared/tools/windows_python.sh sets up beside the checkout.
# Without either it is left out. LONG=1: besides, the tests of client, server, worker and engine; LONG='FOLDER...': these alone.
test-windows: .venv/.developer
	$(BIN)/python -m tests.windows $(if $(LONG),--long $(filter tests/%,$(LONG)))

# Clusters on this machine with made-up GPUs: Slurm of Debian and hosts as network namespaces, whose tests are skipped where they cannot be
# had, and Ray, whose nodes, dispatcher and server are killed; and the server with object storage. Ray, obstore and SeaweedFS are installed
# into the user's cache folder; what cannot be is left out.
SLURM_PROGRAMS = slurmctld:slurmctld slurmd:slurmd sbatch:slurm-client

test-cluster: .venv/.developer
	$(call install_missing,$(SLURM_PROGRAMS),0)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m cluster tests/worker/slurm tests/worker/hosts
	$(BIN)/python -m tests.worker.ray

types: .venv/.developer
	$(BIN)/mypy

types-win32 types-darwin: types-%: .venv/.developer
	$(BIN)/mypy --config-file tests/windows/mypy.ini --platform $* --cache-dir .mypy_cache/$*

lint: .venv/.developer
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(MAKE) --no-print-directory --jobs=2 --output-sync=target types types-win32 types-darwin
	$(BIN)/lint-imports
	$(BIN)/deptry rvc_train --optional-dependencies-dev-groups all,ray,server,engine,pm,postgres,onnx,quality,tensorboard,dev,docs --ignore DEP002
	$(BIN)/deptry server worker --optional-dependencies-dev-groups all,engine,pm,postgres,onnx,quality,tensorboard,dev,docs --ignore DEP002
	$(BIN)/deptry rvc_engine --optional-dependencies-dev-groups all,ray,server,postgres,dev,docs --ignore DEP002
	$(BIN)/deptry rvc_train rvc_engine server worker --optional-dependencies-dev-groups dev,docs
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml deploy/compose/docker-compose.yml

check: lint docs test

# REFERENCE=PATH: a checkout of RVC WebUI, timed beside ours; REFERENCE_PYTHON: the Python that it runs in.
# RECORDINGS, FEATURES: folders for preparation and indexing, in place of the samples and of made-up features.
bench: .venv/.developer
	$(BIN)/python -m benchmarks $(REFERENCE:%=--reference %) $(REFERENCE_PYTHON:%=--reference-python %) \
	  $(RECORDINGS:%=--recordings %) $(FEATURES:%=--features %)

# The first CUDA device within eight minutes; any Python with PyTorch does the same without .venv: python -m benchmarks.gpu.
bench-gpu: .venv/.developer
	$(BIN)/python -m benchmarks.gpu

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
