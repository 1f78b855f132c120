# kpbpf. `make help` says what there is. On a Debian 12 with nothing but make and git,
# each target installs what it lacks (as root), once, and says what it does.

SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS   += --no-print-directory

PYTHON := .venv/bin/python
PYTEST := $(PYTHON) -m pytest
PACKAGES := python3-bpfcc clang linux-libc-dev bpftool iproute2 ethtool python3-venv ca-certificates
LAB_PACKAGES := iptables nftables
VM_PACKAGES := qemu-system-x86 busybox-static cpio kmod
PIP_INSTALL := .venv/bin/pip --disable-pip-version-check install --config-settings editable_mode=compat --editable
QUIETER := | sed '/^Requirement already satisfied/d'
CLANG := clang -target bpf -O2 -g -Wall -Werror -I bpf_src -I /usr/include/$(shell uname -m)-linux-gnu

# Programs compiled once serve all tests; the verifier still looks at each.
export KPBPF_BYTECODE := $(CURDIR)/.make/bytecode

say = @printf '\n\033[1m==> %s\033[0m\n' "$(1)"

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup demo demo-down image test lint lint-style lint-types lint-imports lint-abi lint-bpf \
        unit packaging datapath cluster lab test-vm bench format abi clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/.runtime ## install what kpbpf needs: Debian packages and .venv

demo: .venv/.runtime .make/debian-cluster ## an API server, pods, Services and kpbpf on this machine, step by step (KEEP=1 leaves it up)
	@$(PYTHON) deploy/demo/run.py

demo-down: .venv/.runtime ## take down what KEEP=1 left
	@$(PYTHON) deploy/demo/run.py --down

image: .venv/.runtime .make/debian-image ## kpbpf-0.1.0.tar, the container image, without a registry (root)
	@$(PYTHON) -m deploy.image.build

# ---- checks ---------------------------------------------------------------------

test: lint unit packaging datapath cluster lab ## everything: lint, unit, packaging, datapath, cluster, lab

lint: lint-style lint-types lint-imports lint-abi lint-bpf ## all static checks

lint-style: .venv/.dev ## ruff: rules and format
	$(call say,ruff)
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m ruff format --check .

lint-types: .venv/.dev ## mypy, strict
	$(call say,mypy)
	@$(PYTHON) -m mypy

lint-imports: .venv/.dev ## imports only go downward (.importlinter)
	$(call say,import-linter)
	@.venv/bin/lint-imports --no-logo

lint-abi: .venv/.dev ## maps/abi.py and abi_assert.h are what abi.h and maps.h say
	$(call say,maps.gen --check)
	@$(PYTHON) -m maps.gen --check

lint-bpf: .make/debian ## a second compiler's opinion of the programs: clang -Wall -Werror
	$(call say,clang -target bpf)
	@for source in bpf_src/*.c; do echo "$$source"; $(CLANG) -c "$$source" -o /dev/null; done
	@for source in bpf_src/*_wire.c; do $(CLANG) -DKP_NO_ETHERNET -c "$$source" -o /dev/null; done

unit: .venv/.dev ## no root, seconds
	$(call say,unit tests)
	@$(PYTEST) tests/unit

packaging: .venv/.dev ## manifests against Kubernetes' schemas, image, RBAC; no root, seconds
	$(call say,packaging tests)
	@$(PYTEST) tests/deploy

datapath: .venv/.dev ## packets through the programs in the kernel, one at a time (root)
	$(call say,datapath tests)
	@$(PYTEST) tests/datapath

cluster: .venv/.dev .make/debian-cluster ## the daemon against an API server that tells the truth, and fails on order (root)
	$(call say,cluster tests)
	@$(PYTEST) tests/cluster

lab: .venv/.dev .make/debian-lab ## namespaces as pods, node and remote network, real sockets (root)
	$(call say,lab tests)
	@$(PYTEST) tests/lab

test-vm: .venv/.dev .make/debian-vm ## what this kernel may lack, on a stock Debian 6.1 kernel under qemu (about five minutes)
	$(call say,tests on an emulated Debian 6.1 kernel)
	@$(PYTEST) -s tests/vm

# ---- work -----------------------------------------------------------------------

bench: .venv/.dev .make/debian-cluster ## ns per packet, objects to maps, the daemon at scale (root; about ten minutes)
	@$(PYTHON) -m bench.packet
	@$(PYTHON) -m bench.sctp
	@$(PYTHON) -m bench.sockets
	@$(PYTHON) -m bench.sync
	@$(PYTHON) -m bench.control_plane

format: .venv/.dev ## let ruff put the sources in order
	@$(PYTHON) -m ruff check --fix-only -q .
	@$(PYTHON) -m ruff format -q .

abi: .venv/.dev ## write maps/abi.py and bpf_src/abi_assert.h anew
	@$(PYTHON) -m maps.gen

clean: ## remove .venv, stamps and caches
	rm -rf .venv .make *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

# ---- what is needed, installed once -----------------------------------------------

# $(call install,PACKAGES): the missing ones only; package lists are fetched only where too old.
define install
	@missing=$$(for p in $(1); do \
	    [ "$$(dpkg-query -Wf '$${db:Status-Status}' $$p 2>/dev/null)" = installed ] || echo $$p; done); \
	missing=$$(echo $$missing); \
	if [ -n "$$missing" ]; then \
	    printf '\n\033[1m==> Debian packages: %s\033[0m\n' "$$missing"; \
	    [ "$$(id -u)" = 0 ] || { echo "Installing them needs root: sudo make setup" >&2; exit 1; }; \
	    command -v apt-get >/dev/null || { echo "No apt-get here: install them by hand." >&2; exit 1; }; \
	    export DEBIAN_FRONTEND=noninteractive; \
	    get="apt-get install -y --no-install-recommends -o Dpkg::Use-Pty=0 $$missing"; \
	    apt-get install -s --no-install-recommends $$missing >/dev/null 2>&1 && $$get \
	        || { apt-get update && $$get; }; \
	fi
	@mkdir -p .make && touch $@
endef

# Looked at again only after dpkg has changed something.
.make/debian: Makefile $(wildcard /var/lib/dpkg/status)
	$(call install,$(PACKAGES))

.make/debian-cluster: Makefile $(wildcard /var/lib/dpkg/status)
	$(call install,openssl)

.make/debian-lab: Makefile $(wildcard /var/lib/dpkg/status)
	$(call install,$(LAB_PACKAGES))

.make/debian-image: Makefile $(wildcard /var/lib/dpkg/status)
	$(call install,mmdebstrap)

.make/debian-vm: Makefile $(wildcard /var/lib/dpkg/status)
	$(call install,$(VM_PACKAGES))

# The Debian interpreter, because Debian's bcc is built for it.
.venv/.runtime: pyproject.toml | .make/debian
	$(call say,Python packages (.venv))
	@[ -x $(PYTHON) ] || /usr/bin/python3 -m venv .venv
	@$(PIP_INSTALL) . $(QUIETER)
	@touch $@

.venv/.dev: pyproject.toml | .venv/.runtime
	$(call say,Python packages for the checks (.venv))
	@$(PIP_INSTALL) '.[dev]' $(QUIETER)
	@touch $@
